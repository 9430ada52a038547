"""The posterior: model units, exact derivatives and solves, the account, the caller's tensors."""

import pytest
import torch
from conftest import dense, draws, image_prior, matrix_operator, normal, problems

import inverse
from inverse.errors import InputError, NoiseError, UnsupportedError
from inverse.priors.prior import RescaledPrior

TIGHT = inverse.Execution(solver=inverse.CG(1e-14, 2000))
NAMES = tuple(problems())
SHAPE = (3, 8, 8)


def model_matrix(posterior):
    """The linear part of A in model units, (m, n)."""
    return dense(posterior.operator, SHAPE) * posterior.prior.scale


def measured(operator, noise, prior=None, images=2):
    """A posterior whose truths are in (0, 1), for noise models that need positive signals."""
    prior = prior or image_prior()
    clean = operator.A(normal(images, *SHAPE).sigmoid())
    return inverse.Posterior(
        prior, operator, noise.sample(clean, inverse.seeded(0)), noise, dtype=torch.float64
    )


# --- the prior --------------------------------------------------------------------------------


def test_tweedie_gives_the_denoised_image(gaussian_posterior):
    posterior, x = gaussian_posterior(), normal(2, *SHAPE)
    assert torch.equal(posterior.tweedie(x, 0.7)[0], posterior.denoise(x, 0.7))


def test_tweedie_vjp_is_the_exact_jacobian_transposed(gaussian_posterior):
    """C (C + sigma^2 I)^-1 of a Gaussian prior."""
    posterior, v = gaussian_posterior(), normal(2, *SHAPE, seed=1)
    C = posterior.prior.covariance
    jacobian = C @ torch.linalg.inv(C + 0.49 * torch.eye(len(C), dtype=C.dtype))
    found = posterior.tweedie(normal(2, *SHAPE), 0.7)[1](v)
    torch.testing.assert_close(found.flatten(1), v.flatten(1) @ jacobian, rtol=0, atol=1e-11)


def test_tweedie_vjp_of_a_network_equals_finite_differences(network_prior):
    """<v, J u> by central differences of step 1e-5 in float64: relative error about 1e-6."""
    prior = network_prior.double()
    posterior = inverse.Posterior(
        prior,
        inverse.physics.Denoising(),
        normal(2, 3, 16, 16),
        inverse.GaussianNoise(0.1),
        dtype=torch.float64,
    )
    x, u, v = (normal(2, 3, 16, 16, seed=s) for s in range(3))
    sigma, h = torch.tensor([0.3, 2.0], dtype=torch.float64), 1e-5
    forward = (posterior.denoise(x + h * u, sigma) - posterior.denoise(x - h * u, sigma)) / (2 * h)
    found = (posterior.tweedie(x, sigma)[1](v) * u).flatten(1).sum(1)
    torch.testing.assert_close(found, (v * forward).flatten(1).sum(1), rtol=1e-6, atol=1e-8)


def test_tweedie_vjp_may_be_called_twice(gaussian_posterior):
    posterior, v = gaussian_posterior(), normal(2, *SHAPE, seed=1)
    vjp = posterior.tweedie(normal(2, *SHAPE), 0.7)[1]
    assert torch.equal(vjp(v), vjp(v))


def test_nothing_that_leaves_the_posterior_carries_a_graph(gaussian_posterior):
    posterior, x = gaussian_posterior(), normal(2, *SHAPE)
    x0_hat, vjp = posterior.tweedie(x, 0.7)
    assert not any(
        t.requires_grad
        for t in (
            x,
            x0_hat,
            vjp(x),
            posterior.denoise(x, 0.7),
            posterior.likelihood_score(x),
            posterior.prox(x, 1.0),
        )
    )


def test_each_row_has_its_own_noise_level(gaussian_posterior):
    posterior, x = gaussian_posterior(), normal(2, *SHAPE)
    together = posterior.denoise(x, torch.tensor([0.1, 3.0], dtype=torch.float64))
    apart = torch.stack([posterior.denoise(x, 0.1)[0], posterior.denoise(x, 3.0)[1]])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-13)


def test_a_float32_prior_serves_a_float64_posterior(network_prior):
    posterior = inverse.Posterior(
        network_prior,
        inverse.physics.Denoising(),
        normal(2, 3, 16, 16),
        inverse.GaussianNoise(0.1),
        dtype=torch.float64,
    )
    assert posterior.denoise(normal(2, 3, 16, 16), 0.5).dtype == torch.float64


# --- units ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_A_acts_on_the_decoded_image(gaussian_posterior, name):
    posterior, x = gaussian_posterior(name), normal(2, *SHAPE)
    assert torch.equal(posterior.A(x), posterior.operator.A(0.5 + 0.5 * x))


@pytest.mark.parametrize("name", NAMES)
def test_A_adjoint_is_the_adjoint_of_the_linear_part_in_model_units(gaussian_posterior, name):
    posterior = gaussian_posterior(name)
    v = normal(*posterior.y.shape, seed=3)
    torch.testing.assert_close(
        posterior.A_adjoint(v).flatten(1),
        v.flatten(1) @ model_matrix(posterior),
        rtol=0,
        atol=1e-12,
    )


def test_A_vjp_of_a_nonlinear_operator_equals_autograd():
    posterior = measured(
        inverse.operator(lambda x: (3 * x).tanh()[..., ::2], shape=SHAPE, linear=False),
        inverse.GaussianNoise(0.1),
    )
    x, v = normal(2, *SHAPE, seed=1), normal(*posterior.y.shape, seed=2)
    expected = torch.autograd.functional.vjp(posterior.A, x, v)[1]
    torch.testing.assert_close(posterior.A_vjp(x, v), expected, rtol=0, atol=1e-13)


def test_norm_squared_is_the_largest_eigenvalue_in_model_units(gaussian_posterior):
    """Denoising: A = scale I, so power iteration is exact at once."""
    assert gaussian_posterior("denoise").norm_squared == pytest.approx(0.25, rel=1e-12)


# --- the likelihood ---------------------------------------------------------------------------

NONLINEAR = inverse.operator(lambda x: x.square() + 0.1, shape=SHAPE, linear=False)
LIKELIHOODS = {
    f"{kind}-{name}": (operator, noise)
    for kind, operator in {
        "linear": inverse.operator(lambda x: x.cumsum(-1)[..., 1:], shape=SHAPE),
        "nonlinear": NONLINEAR,
    }.items()
    for name, noise in {
        "gaussian": inverse.GaussianNoise(0.2),
        "varying-gaussian": inverse.GaussianNoise(
            torch.full((8, 1), 0.1, dtype=torch.float64).cumsum(0)
        ),
        "poisson": inverse.PoissonNoise(0.05),
        "laplace": inverse.LaplaceNoise(0.2),
    }.items()
}


@pytest.mark.parametrize(("operator", "noise"), LIKELIHOODS.values(), ids=LIKELIHOODS)
def test_likelihood_score_is_the_gradient_of_the_log_likelihood(operator, noise):
    posterior = measured(operator, noise)
    x = (0.5 * normal(2, *SHAPE, seed=1)).tanh().requires_grad_()
    expected = torch.autograd.grad(posterior.log_likelihood(x).sum(), x)[0]
    torch.testing.assert_close(posterior.likelihood_score(x), expected, rtol=1e-11, atol=1e-11)


def test_likelihood_score_of_a_masked_measurement_is_zero_where_nothing_was_seen(
    gaussian_posterior,
):
    posterior = gaussian_posterior("inpainting")
    assert (
        posterior.likelihood_score(normal(2, *SHAPE))[..., ~posterior.noise.observed] == 0
    ).all()


def test_log_likelihood_of_a_masked_measurement_is_the_gradients_integral(gaussian_posterior):
    posterior = gaussian_posterior("inpainting")
    x = normal(2, *SHAPE).requires_grad_()
    expected = torch.autograd.grad(posterior.log_likelihood(x).sum(), x)[0]
    torch.testing.assert_close(posterior.likelihood_score(x), expected, rtol=1e-11, atol=1e-11)


def test_sigma_y_is_refused_where_noise_is_not_gaussian():
    with pytest.raises(UnsupportedError, match="PoissonNoise"):
        _ = measured(NONLINEAR, inverse.PoissonNoise(0.1)).sigma_y


# --- linear solves ----------------------------------------------------------------------------


def normal_solution(posterior, v, signal):
    """(signal A A^T + sigma_y^2 I)^-1 v by dense algebra, one row at a time."""
    A, levels = model_matrix(posterior), torch.as_tensor(signal, dtype=torch.float64).expand(len(v))
    eye = posterior.sigma_y**2 * torch.eye(len(A), dtype=A.dtype)
    return torch.stack(
        [
            torch.linalg.solve(s * A @ A.T + eye, row)
            for s, row in zip(levels, v.flatten(1), strict=True)
        ]
    ).reshape(v.shape)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "signal",
    [1.0, 1e-3, torch.tensor([0.2, 30.0], dtype=torch.float64)],
    ids=["one", "small", "per-row"],
)
def test_solve_normal_equals_a_dense_solve(gaussian_posterior, name, signal):
    """Condition number up to 30 * 0.25 / 0.01 = 750.

    The blur's decomposition is made in float32, but A and U share it.
    """
    posterior = gaussian_posterior(name, execution=TIGHT)
    v = normal(*posterior.y.shape, seed=4)
    torch.testing.assert_close(
        posterior.solve_normal(v, signal), normal_solution(posterior, v, signal), rtol=0, atol=1e-8
    )


@pytest.mark.parametrize("name", ["blur-circular", "area", "inpainting"])
def test_closed_form_solve_equals_conjugate_gradients(gaussian_posterior, name):
    closed, iterative = gaussian_posterior(name), gaussian_posterior(name, execution=TIGHT)
    iterative.decomposable = False
    v = normal(*closed.y.shape, seed=4)
    torch.testing.assert_close(
        closed.solve_normal(v, 0.5), iterative.solve_normal(v, 0.5), rtol=0, atol=1e-8
    )


@pytest.mark.parametrize("name", NAMES)
def test_solve_normal_with_a_diagonal_signal_equals_a_dense_solve(gaussian_posterior, name):
    posterior, d = gaussian_posterior(name, execution=TIGHT), normal(2, *SHAPE, seed=5).square()
    A, v = model_matrix(posterior), normal(*posterior.y.shape, seed=4)
    eye = posterior.sigma_y**2 * torch.eye(len(A), dtype=A.dtype)
    expected = torch.stack(
        [
            torch.linalg.solve(A @ s.diag() @ A.T + eye, row)
            for s, row in zip(d.flatten(1), v.flatten(1), strict=True)
        ]
    )
    torch.testing.assert_close(posterior.solve_normal(v, d).flatten(1), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ["deblur", "deblur defocus"])
def test_a_diagonal_signal_is_preconditioned(name):
    """The mean describes a signal that varies by a tenth: few iterations, not over a hundred."""
    problem = inverse.get_problem(
        "deblur", kernel="defocus" if "defocus" in name else "gaussian", width=2.0
    )
    posterior = problem.posterior(
        torch.full((1, 3, 32, 32), 0.5),
        prior=inverse.FlatPrior((3, None, None), shift=0.5, scale=0.5),
    )
    d = 1 + 0.1 * torch.rand(1, 3, 32, 32, generator=inverse.seeded(0))
    v = normal(1, 3, 32, 32).float()
    posterior.solve_normal(v, d)
    assert posterior.cost.A < 25
    plain = posterior.rows(1)
    plain.solve_normal(v, lambda x: d * x)
    assert plain.cost.A == 100


def test_solve_normal_with_a_sigma_for_each_measurement():
    sigma = torch.linspace(0.1, 0.5, 8, dtype=torch.float64)
    operator = inverse.operator(lambda x: x.cumsum(-1), shape=SHAPE)
    posterior = inverse.Posterior(
        image_prior(),
        operator,
        normal(2, *SHAPE),
        inverse.GaussianNoise(sigma),
        dtype=torch.float64,
        execution=TIGHT,
    )
    A, v = model_matrix(posterior), normal(2, *SHAPE, seed=1)
    expected = torch.linalg.solve(A @ A.T + sigma.square().repeat(24).diag(), v.flatten(1).T).T
    torch.testing.assert_close(posterior.solve_normal(v).flatten(1), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["blur-circular", "area", "inpainting"])
def test_filters_in_one_way_back_add_up(gaussian_posterior, name):
    """A lossy operator leaves a part of the image that no singular vector sees: f(0) acts there."""
    posterior, x, z = gaussian_posterior(name), normal(2, *SHAPE), normal(2, *SHAPE, seed=1)
    f, g = (lambda lam: 1 / (1 + lam)), (lambda lam: torch.where(lam > 0, 2.0, 5.0))
    torch.testing.assert_close(
        posterior.filter(x, f, (z, g)),
        posterior.filter(x, f) + posterior.filter(z, g),
        rtol=0,
        atol=1e-12,
    )
    A = model_matrix(posterior)
    expected = torch.linalg.solve(torch.eye(A.shape[1], dtype=A.dtype) + A.T @ A, x.flatten(1).T).T
    torch.testing.assert_close(posterior.filter(x, f).flatten(1), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("sigma_y", [1e-1, 1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("variance", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("name", ["blur-circular", "area", "inpainting"])
def test_prox_in_float32_equals_float64_at_every_noise_level(
    gaussian_prior, name, variance, sigma_y
):
    """The amplification of rounding is at most sqrt(variance) / sigma_y, here 1e4 times 1e-7."""
    y = (
        problems(sigma_y)[name]
        .posterior(draws(gaussian_prior, 2), prior=gaussian_prior, dtype=torch.float64)
        .y
    )
    single, double = (
        problems(sigma_y)[name].posterior(
            y=y, prior=inverse.FlatPrior(SHAPE, shift=0.5, scale=0.5), dtype=dtype
        )
        for dtype in (torch.float32, torch.float64)
    )
    z = 0.3 * normal(2, *SHAPE)
    expected = double.prox(z, variance)
    torch.testing.assert_close(
        single.prox(z.float(), variance).double(), expected, rtol=0, atol=2e-3
    )


def test_weak_but_measured_components_are_kept_in_float32():
    """Singular values below 1e-4 carry signal at sigma_y = 1e-4.

    Their squares vanish beside the epsilon of float32.
    """
    problem = inverse.get_problem("deblur", boundary="circular", sigma_y=1e-4)
    truth = normal(1, 3, 32, 32).sigmoid()
    prior = inverse.FlatPrior((3, 32, 32), shift=0.5, scale=0.5)
    y = problem.posterior(truth, prior=prior, dtype=torch.float64).y
    single, double = (
        problem.posterior(y=y, prior=prior, dtype=dtype).pseudo_inverse().double()
        for dtype in (torch.float32, torch.float64)
    )
    assert (single - double).norm() < 0.01 * double.norm()


@pytest.mark.parametrize("name", NAMES)
def test_prox_is_the_minimiser(gaussian_posterior, name):
    """The gradient of -log p(y | x) + |x - z|^2 / (2 variance) vanishes there."""
    posterior = gaussian_posterior(name, execution=TIGHT)
    z = normal(2, *SHAPE)
    variance = torch.tensor([0.3, 2.0], dtype=torch.float64)
    x = posterior.prox(z, variance)
    gradient = (x - z) / variance.reshape(-1, 1, 1, 1) - posterior.likelihood_score(x)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-7)


@pytest.mark.parametrize("variance", [1.0, 1e-8])
@pytest.mark.parametrize("name", ["denoise", "area", "inpainting"])
def test_prox_without_noise_meets_the_measurement(gaussian_posterior, name, variance):
    """The step onto A x = y does not depend on the variance, in float32 and for a small one."""
    y = gaussian_posterior(name, sigma_y=0.0).y
    posterior = problems(0.0)[name].posterior(
        y=y, prior=inverse.FlatPrior(SHAPE, shift=0.5, scale=0.5)
    )
    residual = posterior.residual(posterior.prox(normal(2, *SHAPE).float(), variance))
    torch.testing.assert_close(residual, torch.zeros_like(residual), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_pseudo_inverse_is_damped_least_squares_around_grey(gaussian_posterior, name):
    """A^T (A A^T + R)^-1 (y - A(0))."""
    posterior = gaussian_posterior(name, execution=TIGHT)
    A = model_matrix(posterior)
    grey = posterior.operator.A(torch.full((1, *SHAPE), 0.5, dtype=torch.float64))
    expected = normal_solution(posterior, posterior.y - grey, 1.0).flatten(1) @ A
    torch.testing.assert_close(posterior.pseudo_inverse().flatten(1), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["denoise", "area", "inpainting"])
def test_pseudo_inverse_without_noise_is_the_moore_penrose_one(gaussian_posterior, name):
    posterior = gaussian_posterior(name, sigma_y=0.0)
    grey = posterior.operator.A(torch.full((1, *SHAPE), 0.5, dtype=torch.float64))
    expected = (posterior.y - grey).flatten(1) @ torch.linalg.pinv(model_matrix(posterior)).T
    torch.testing.assert_close(posterior.pseudo_inverse().flatten(1), expected, rtol=0, atol=1e-9)


def test_pseudo_inverse_of_a_nonlinear_operator_is_grey():
    assert (measured(NONLINEAR, inverse.GaussianNoise(0.1)).pseudo_inverse() == 0).all()


def test_a_linear_solve_is_refused_for_a_nonlinear_operator():
    posterior = measured(NONLINEAR, inverse.GaussianNoise(0.1))
    with pytest.raises(UnsupportedError, match="linear operator"):
        posterior.prox(normal(2, *SHAPE), 1.0)


def test_prox_with_the_priors_covariance_is_the_exact_posterior_mean():
    """For C = c I the prox at the prior's mean is the posterior mean of the closed form."""
    prior = inverse.GaussianPrior(
        0.2 * normal(*SHAPE), 0.3 * torch.eye(192, dtype=torch.float64), shift=0.5, scale=0.5
    )
    posterior = problems()["blur"].posterior(
        draws(prior, 1), prior=prior, dtype=torch.float64, execution=TIGHT
    )
    mean, _ = prior.posterior(dense(posterior.operator, SHAPE), 0.1, posterior.y.flatten())
    torch.testing.assert_close(
        posterior.prox(prior.mean[None], 0.3).flatten(), mean, rtol=0, atol=1e-9
    )


# --- the account ------------------------------------------------------------------------------


def counts(cost):
    return cost.nfe, cost.vjp, cost.A, cost.A_adjoint


ACCOUNT = {
    "denoise": (lambda p, x: p.denoise(x, 1.0), (1, 0, 0, 0)),
    "tweedie": (lambda p, x: p.tweedie(x, 1.0), (1, 0, 0, 0)),
    "two vjps": (lambda p, x: [vjp(x) for vjp in [p.tweedie(x, 1.0)[1]] * 2], (1, 2, 0, 0)),
    "A": (lambda p, x: p.A(x), (0, 0, 1, 0)),
    "A_adjoint": (lambda p, x: p.A_adjoint(p.y), (0, 0, 0, 1)),
    "A_vjp": (lambda p, x: p.A_vjp(x, p.y), (0, 0, 0, 1)),
    "residual": (lambda p, x: p.residual(x), (0, 0, 1, 0)),
    "likelihood_score": (lambda p, x: p.likelihood_score(x), (0, 0, 1, 1)),
    "log_likelihood": (lambda p, x: p.log_likelihood(x), (0, 0, 1, 0)),
}


@pytest.mark.parametrize(("call", "expected"), ACCOUNT.values(), ids=ACCOUNT)
def test_every_evaluation_is_counted_per_sample(gaussian_posterior, call, expected):
    posterior = gaussian_posterior().rows(3)
    call(posterior, normal(6, *SHAPE))
    assert counts(posterior.cost) == expected


def test_the_likelihood_score_of_a_nonlinear_operator_is_counted():
    for noise in (inverse.GaussianNoise(0.1), inverse.PoissonNoise(0.1)):
        posterior = measured(NONLINEAR, noise)
        posterior.likelihood_score((0.1 * normal(2, *SHAPE)).tanh())
        assert counts(posterior.cost) == (0, 0, 1, 1)


def test_a_closed_form_solve_costs_no_evaluation(gaussian_posterior):
    posterior = gaussian_posterior("area")
    posterior.solve_normal(posterior.y)
    assert counts(posterior.cost) == (0, 0, 0, 0)


def test_a_proximal_point_and_a_pseudo_inverse_cost_what_they_apply(gaussian_posterior):
    posterior = gaussian_posterior("area")
    posterior.prox(normal(2, *SHAPE), 1.0)
    assert counts(posterior.cost) == (0, 0, 1, 1)
    posterior.A_dagger(posterior.y)
    assert counts(posterior.cost) == (0, 0, 1, 2)


def test_every_iteration_of_a_solve_is_counted(gaussian_posterior):
    """The tolerance cannot be met in five iterations; each takes one A and one A^T."""
    posterior = gaussian_posterior("blur", execution=inverse.Execution(solver=inverse.CG(1e-14, 5)))
    posterior.solve_normal(posterior.y)
    assert counts(posterior.cost) == (0, 0, 5, 5)


def test_micro_batches_are_counted_once(gaussian_prior, network_prior):
    posterior = inverse.get_problem("denoise").posterior(
        torch.rand(4, *SHAPE, generator=inverse.seeded(0)),
        prior=network_prior,
        execution=inverse.Execution(max_pixels=64),
    )
    posterior.denoise(normal(4, *SHAPE).float(), 1.0)
    assert posterior.cost.nfe == 1


# --- posteriors derived from another ----------------------------------------------------------


def test_whatever_is_replaced_is_counted_on_one_account(gaussian_posterior, gaussian_prior):
    """Costs and noise levels: the note about levels outside the prior's range must see them all."""
    posterior = gaussian_posterior("blur", images=2).rows(1)
    x = normal(2, *SHAPE)
    parts = [
        {"y": posterior.y},
        {"noise": inverse.GaussianNoise(0.3)},
        {"operator": inverse.physics.Denoising()},
        {"prior": inverse.RescaledPrior(gaussian_prior, 1.0, 0.0)},
    ]
    for count, given in enumerate(parts, 1):
        posterior.replaced(**given).denoise(x, 10.0**count)
        assert posterior.cost.prior_rows == 2 * count
        assert posterior.evaluated_levels == (10.0, 10.0**count)


def test_a_replaced_denoiser_has_no_jacobian(gaussian_posterior):
    posterior = gaussian_posterior().replaced(denoise=lambda x, sigma: 0 * x)
    assert not posterior.denoise(normal(2, *SHAPE), 1.0).any()
    with pytest.raises(UnsupportedError, match="no Jacobian"):
        posterior.tweedie(normal(2, *SHAPE), 1.0)


def test_replacing_the_operator_leaves_no_spectrum_of_the_old_one(gaussian_posterior):
    """Closed-form solves cache singular values; a new operator must not reuse them."""
    posterior = gaussian_posterior("blur-circular")
    posterior.solve_normal(posterior.y)
    operator = gaussian_posterior("denoise").operator
    replaced = posterior.replaced(operator=operator)
    fresh = inverse.Posterior(
        posterior.prior, operator, posterior.y, posterior.noise, dtype=torch.float64
    )
    assert torch.equal(replaced.solve_normal(posterior.y), fresh.solve_normal(posterior.y))


# --- the caller's tensors -------------------------------------------------------------------


def test_a_method_receives_no_truth(gaussian_posterior):
    posterior = gaussian_posterior()
    rows = posterior.rows(2)
    assert posterior.truth is not None
    assert rows.truth is None
    assert not any(
        torch.is_tensor(v) and v.shape == posterior.truth.shape and torch.equal(v, posterior.truth)
        for v in vars(rows).values()
    )


def test_rows_repeat_each_measurement_in_a_row(gaussian_posterior):
    posterior = gaussian_posterior()
    rows = posterior.rows(3)
    assert torch.equal(rows.y, posterior.y[[0, 0, 0, 1, 1, 1]])


def test_writing_into_y_does_not_reach_the_caller():
    y, shared = normal(2, *SHAPE), normal(2, *SHAPE)
    posterior = inverse.Posterior(
        image_prior(),
        inverse.physics.Denoising(),
        y,
        inverse.GaussianNoise(0.1),
        dtype=torch.float64,
    )
    posterior.rows(1).y.zero_()
    posterior.y.zero_()
    assert torch.equal(y, shared)


def test_writing_into_the_rows_of_one_solve_does_not_reach_the_next(gaussian_posterior):
    posterior = gaussian_posterior()
    before = posterior.y.clone()
    posterior.rows(1).y.zero_()
    assert torch.equal(posterior.y, before)


def test_the_operator_of_a_posterior_is_its_own():
    operator = inverse.physics.Inpainting(img_size=SHAPE, mask=torch.ones(SHAPE))
    posterior = inverse.Posterior(
        image_prior(), operator, normal(2, *SHAPE), inverse.GaussianNoise(0.1), dtype=torch.float64
    )
    posterior.operator.mask.zero_()
    assert (operator.mask == 1).all()


def test_the_prior_is_used_as_it_is(gaussian_posterior, gaussian_prior):
    assert gaussian_posterior().prior is gaussian_prior


# --- refusals ---------------------------------------------------------------------------------


def test_nan_in_the_measurement_is_refused():
    y = normal(1, *SHAPE)
    y[0, 0, 0, :3] = float("nan")
    with pytest.raises(InputError, match="3 of 192"):
        inverse.Posterior(image_prior(), inverse.physics.Denoising(), y, inverse.GaussianNoise(0.1))


def test_a_measurement_of_another_shape_is_refused():
    with pytest.raises(InputError, match=r"\(3, 8, 7\).*expects \(3, 8, 8\)"):
        inverse.Posterior(
            image_prior(),
            inverse.physics.Denoising(),
            normal(1, 3, 8, 7),
            inverse.GaussianNoise(0.1),
        )


def test_a_shape_the_prior_cannot_denoise_is_refused():
    with pytest.raises(InputError, match="the prior denoises 3 x 8 x 8"):
        inverse.Posterior(
            image_prior(),
            inverse.physics.Denoising(),
            normal(1, 3, 9, 9),
            inverse.GaussianNoise(0.1),
            shape=(3, 9, 9),
        )


def test_the_shape_behind_a_nonlinear_operator_must_be_given(flat_prior):
    with pytest.raises(InputError, match="pass shape="):
        inverse.Posterior(flat_prior, NONLINEAR, normal(1, *SHAPE), inverse.GaussianNoise(0.1))


def test_an_operator_with_an_unknown_noise_model_is_refused():
    with pytest.raises(NoiseError, match="UniformNoise"):
        inverse.Posterior(
            image_prior(),
            inverse.physics.Denoising(noise_model=inverse.physics.UniformNoise(0.1)),
            normal(1, *SHAPE),
        )


def test_the_operators_own_noise_model_is_the_default():
    operator = inverse.physics.Denoising(noise_model=inverse.physics.GaussianNoise(0.25))
    assert inverse.Posterior(image_prior(), operator, normal(1, *SHAPE)).sigma_y == 0.25


def test_the_shape_is_inferred_through_the_adjoint(flat_prior):
    operator = matrix_operator(normal(5, 192), SHAPE)
    assert (
        inverse.Posterior(
            flat_prior, operator, normal(1, 5), inverse.GaussianNoise(0.1), dtype=torch.float64
        ).shape
        == SHAPE
    )


# --- units of the prior -----------------------------------------------------------------------


def test_a_rescaled_prior_is_the_same_law():
    """In model units [-1, 1] and natively in [0, 1]: mean 0.5 m + 0.5, covariance C / 4."""
    model = image_prior()
    native = inverse.GaussianPrior(0.5 * model.mean + 0.5, 0.25 * model.covariance)
    brought = RescaledPrior(native, a=0.5, b=0.5)
    x = normal(2, *SHAPE)
    sigma = torch.tensor([0.1, 3.0], dtype=torch.float64)
    torch.testing.assert_close(brought(x, sigma), model(x, sigma), rtol=0, atol=1e-12)
    torch.testing.assert_close(brought.decode(x), model.decode(x), rtol=0, atol=1e-13)


def test_score_and_eps_follow_from_the_denoiser():
    prior = image_prior()
    x = normal(2, *SHAPE)
    sigma = torch.tensor([0.1, 3.0], dtype=torch.float64)
    s = sigma.reshape(-1, 1, 1, 1)
    torch.testing.assert_close(
        prior.eps(x, sigma), -s * prior.score(x, sigma), rtol=1e-12, atol=1e-12
    )


def test_score_is_the_gradient_of_the_noisy_density():
    prior, x = image_prior(), normal(2, *SHAPE).requires_grad_()
    C = prior.covariance + 0.49 * torch.eye(192, dtype=torch.float64)
    density = (
        torch.distributions.MultivariateNormal(prior.mean.flatten(), C).log_prob(x.flatten(1)).sum()
    )
    expected = torch.autograd.grad(density, x)[0]
    torch.testing.assert_close(
        prior.score(x.detach(), torch.tensor(0.7, dtype=torch.float64)),
        expected,
        rtol=0,
        atol=1e-11,
    )


def test_encode_undoes_decode():
    prior, x = image_prior(), normal(2, *SHAPE)
    torch.testing.assert_close(prior.encode(prior.decode(x)), x, rtol=0, atol=1e-14)
