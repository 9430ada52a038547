"""deepinv's samplers as baselines: side effects of bare calls, their isolation, and known errors.

The errors are those of deepinv 0.5, measured where the posterior is known. A test that begins to
fail shows that deepinv has repaired one.
"""

import numpy as np
import pytest
import torch
from conftest import normal

import inverse
from inverse.checks import distances
from inverse.deepinv_reconstructors import deepinv
from inverse.errors import OptionError
from inverse.seeding import Generators, SharedStream

NAMES = (
    "deepinv-dps",
    "deepinv-ddrm",
    "deepinv-diffpir",
    "deepinv-pigdm",
    "deepinv-moment-matching",
)
QUICK = {"steps": 4}
each = pytest.mark.parametrize("name", NAMES)
SAMPLES = 2000


def posterior(view="inpainting", side=4, sigma_y=0.05):
    return inverse.get_problem("gaussian", side=side, view=view, sigma_y=sigma_y).posterior(
        0, dtype=torch.float64
    )


def draw(p, name, samples=SAMPLES, seed=0, **options):
    """Samples (samples, n) in physical units, and the rows they were drawn on."""
    rows = p.rows(samples)
    with torch.no_grad():
        *_, x = inverse.get_method(name, **options).run(
            rows, samples, SharedStream(inverse.seeded(seed), samples)
        )
    return p.prior.decode(x).flatten(1), rows


def w2(view, x):
    """Distance to the exact posterior, spread, and the prior's distance.

    The unit is the root of the posterior's total variance.
    """
    problem = inverse.get_problem("gaussian", side=4, view=view)
    exact, law = problem.exact(posterior(view).y[0]), problem.law()
    mean, unit = exact.mean.flatten(), float(exact.covariance.trace().sqrt())
    prior = (
        distances.gaussian_w2(
            law.decode(law.mean).flatten(), law.scale**2 * law.covariance, mean, exact.covariance
        )
        / unit
    )
    return (
        distances.gaussian_w2(x.mean(0), x.T.cov(), mean, exact.covariance) / unit,
        float(x.T.cov().trace().sqrt()) / unit,
        prior,
    )


def physics_in_01():
    """A bare deepinv operator whose U is the identity, with noise."""
    return deepinv("physics").Denoising(deepinv("physics").GaussianNoise(0.1))


def half(u, sigma, **_):
    return u / 2


# --- nothing gets out -------------------------------------------------------------------------


def test_a_bare_ddrm_writes_into_y_and_the_baseline_does_not():
    y = normal(1, 1, 4, 4)
    kept = y.clone()
    deepinv("sampling").DDRM(half, sigmas=[1.0, 0.5, 0.0])(y, physics_in_01())
    assert not torch.equal(y, kept)
    p = inverse.get_problem("denoise", sigma_y=0.1).posterior(
        normal(1, 3, 8, 8), prior=inverse.FlatPrior((3, None, None), shift=0.5, scale=0.5)
    )
    kept, before = p.y.clone(), p.y
    inverse.solve(p, inverse.get_method("deepinv-ddrm", **QUICK))
    assert p.y is before
    assert torch.equal(p.y, kept)


def test_a_bare_prox_leaves_its_solver_settings_behind_and_the_baseline_does_not():
    bare = inverse.operator(lambda x: 0.5 * x, shape=(1, 4, 4))
    settings = bare.solver, bare.max_iter, bare.tol
    bare.prox_l2(normal(1, 1, 4, 4), normal(1, 1, 4, 4), 1.0, solver="minres", max_iter=2, tol=0.5)
    assert (bare.solver, bare.max_iter, bare.tol) == ("minres", 2, 0.5) != settings
    law = inverse.get_problem("gaussian", side=4).law()
    mine = inverse.operator(lambda x: 0.5 * x, shape=(1, 4, 4))
    p = inverse.Posterior(
        law, mine, normal(1, 1, 4, 4), inverse.GaussianNoise(0.1), dtype=torch.float64
    )
    for name in ("deepinv-dps", "deepinv-diffpir", "deepinv-pigdm", "deepinv-moment-matching"):
        inverse.solve(p, inverse.get_method(name, **QUICK))
        assert (p.operator.solver, p.operator.max_iter, p.operator.tol) == settings
        assert (mine.solver, mine.max_iter, mine.tol) == settings


def test_a_bare_ddrm_moves_the_global_generators_and_seed_0_is_no_seed():
    model = deepinv("sampling").DDRM(half, sigmas=[1.0, 0.5, 0.0])
    physics = physics_in_01()
    y = normal(1, 1, 4, 4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first, second = (model(y.clone(), physics, seed=0) for _ in range(2))
        assert not torch.equal(torch.get_rng_state(), before)
        assert not torch.equal(first, second)


@each
@pytest.mark.usefixtures("unchanged_randomness")
def test_no_baseline_moves_a_global_generator_or_depends_on_one(name):
    before, results = np.random.get_state()[1].copy(), []
    for seed in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            results.append(
                inverse.solve(posterior(), inverse.get_method(name, **QUICK), samples=2).samples
            )
    assert torch.equal(*results)
    assert np.array_equal(np.random.get_state()[1], before)


def test_bare_deepinv_takes_any_keyword_and_a_baseline_does_not():
    deepinv("sampling").DPS(half, weigth=5.0)
    with pytest.raises(inverse.InverseError, match="weight"):
        inverse.get_method("deepinv-dps", weigth=5.0)


def test_a_bare_prox_couples_the_batch_and_the_baseline_does_not():
    """deepinv's conjugate gradients iterate until the last row has converged."""
    matrix = torch.diag(torch.linspace(0.1, 1, 16, dtype=torch.float64))
    A = inverse.operator(lambda x: (x.flatten(1) @ matrix).reshape(-1, 1, 4, 4), shape=(1, 4, 4))
    y = normal(2, 1, 4, 4)
    y[0, 0, :2] = 0.0  # the better half of the spectrum: fewer iterations
    z = torch.zeros_like(y)
    assert not torch.allclose(
        A.prox_l2(z, y, 10.0)[:1], A.prox_l2(z[:1], y[:1], 10.0), rtol=0, atol=1e-9
    )
    law = inverse.get_problem("gaussian", side=4).law()

    def solve(y):
        return inverse.solve(
            inverse.Posterior(law, A, y, inverse.GaussianNoise(0.1), dtype=torch.float64),
            inverse.get_method("deepinv-diffpir", **QUICK),
        )

    torch.testing.assert_close(solve(y).samples[:1], solve(y[:1]).samples, rtol=0, atol=1e-10)


# --- deepinv is asked in its own convention ---------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"name": "deepinv-pigdm", "weight": 0.0}, {"name": "deepinv-dps", "weight": 0.0}],
    ids=lambda o: o["name"],
)
def test_without_guidance_the_diffusion_samples_the_prior(options):
    """An error in the range, the noise scale or the start would change the law."""
    x, _ = draw(posterior(), **options, steps=300)
    law = inverse.get_problem("gaussian", side=4).law()
    mean, variance = law.decode(law.mean).flatten(), law.scale**2 * law.covariance.diagonal()
    assert float(((x.mean(0) - mean).abs() / (variance / SAMPLES).sqrt()).max()) < 4
    assert (
        float((x.var(0) / variance - 1).abs().max()) < 4 * (2 / SAMPLES) ** 0.5 + 0.02
    )  # 2 %: 300 steps


@pytest.mark.parametrize("view", ["inpainting", "blur", "random"])
def test_the_operator_given_to_deepinv_is_the_posteriors(view):
    """A, its adjoint and their singular values in u = (x + 1) / 2, with a completed basis V."""
    from inverse_plugins.deepinv_baselines import as_physics

    p = posterior(view)
    physics, y = as_physics(p)
    u, v = normal(3, 1, 4, 4), normal(3, *p.y.shape[1:], seed=1)
    torch.testing.assert_close(physics.A(u) - y, p.A(2 * u - 1) - p.y)
    torch.testing.assert_close(physics.U(physics.mask * physics.V_adjoint(u)), physics.A(u))
    torch.testing.assert_close(physics.V(physics.V_adjoint(u)), u)
    torch.testing.assert_close((physics.A(u) * v).sum(), (u * physics.A_adjoint(v)).sum())


PRODUCTS = {
    "deepinv-dps": 6,
    "deepinv-ddrm": 0,
    "deepinv-diffpir": 0,
    "deepinv-pigdm": 6,
    "deepinv-moment-matching": 30,
}
"""Evaluations of six steps.

Moment matching has three conjugate-gradient iterations, their first residual and the gradient.
"""


@each
def test_evaluations_are_counted(name):
    cost = draw(posterior(), name, samples=3, steps=6)[1].cost
    assert (cost.nfe, cost.vjp) == (6, PRODUCTS[name])


@each
def test_rows_draw_from_their_own_streams(name):
    method = inverse.get_method(name, **QUICK)
    with torch.no_grad():
        (two,) = method.run(
            posterior().rows(2), 2, Generators([inverse.seeded(1), inverse.seeded(2)])
        )
        (swapped,) = method.run(
            posterior().rows(2), 2, Generators([inverse.seeded(2), inverse.seeded(1)])
        )
    torch.testing.assert_close(two, swapped.flip(0), rtol=0, atol=1e-10)
    assert not torch.allclose(two[0], two[1])


def test_a_level_beyond_the_prior_is_denoised_at_its_last_one():
    from inverse_plugins.deepinv_baselines import Denoiser

    p = posterior()
    low, high = p.prior.sigma_min, p.prior.sigma_max
    u = normal(1, 1, 4, 4)

    def denoise(u, s):
        return (p.prior(2 * u - 1, torch.tensor(s, dtype=torch.float64)) + 1) / 2

    denoiser = Denoiser(p, False)
    torch.testing.assert_close(denoiser(u, 0.3), denoise(u, 0.6))
    torch.testing.assert_close(denoiser(u, 0.0), denoise(u, low))
    beyond = (u - 0.5) / 2 + 0.5  # noise 2 high: half of the input has noise high
    torch.testing.assert_close(denoiser(u, high), denoise(beyond, high))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"steps": 1}, "at least 2"), ({"lambda": 0.0}, "lambda"), ({"zeta": 2.0}, "zeta")],
)
def test_diffpir_refuses_options_it_cannot_run(options, message):
    with pytest.raises(OptionError, match=message):
        inverse.get_method("deepinv-diffpir", **options)


# --- how right they are -----------------------------------------------------------------------

VIEWS = pytest.mark.parametrize("view", ["inpainting", "blur", "random"])


@VIEWS
def test_default_dps_barely_uses_the_measurement(view):
    """Distance at least 0.8 of the prior's; spread at least twice the posterior's."""
    distance, spread, prior = w2(view, draw(posterior(view), "deepinv-dps", steps=200)[0])
    assert distance > 0.8 * prior
    assert spread > 2


@pytest.mark.parametrize("view", ["inpainting", "random"])
def test_ddrm_is_short_of_half_the_variance_it_adds(view):
    """With one level above zero, and no coordinate measured better, x is its noise denoised.

    sigma = 1 in [0, 1] is 2 in [-1, 1].
    """
    sigma_y = 1e3
    x, _ = draw(posterior(view, sigma_y=sigma_y), "deepinv-ddrm", steps=2, eta=1.0)
    law = inverse.get_problem("gaussian", side=4, view=view).law()
    C = law.covariance
    J = C @ torch.linalg.inv(C + 4 * torch.eye(16, dtype=torch.float64))
    full = law.scale**2 * J @ J.T * 4
    ratio = float(x.T.cov().trace() / full.trace())
    assert abs(ratio - 0.5) < 4 * 0.5 * (2 / SAMPLES) ** 0.5


def test_ddrm_has_the_right_variance_in_half_a_fourier_spectrum():
    """The same experiment with the blur of `deblur`.

    A complex coefficient is two draws; a real one, at either end, is one.
    """
    prior = inverse.GaussianPrior(
        torch.zeros(1, 8, 8, dtype=torch.float64),
        torch.ones(64, dtype=torch.float64),
        shift=0.5,
        scale=0.5,
    )
    physics = inverse.physics.BlurFFT(img_size=(1, 8, 8), filter=torch.ones(1, 1, 3, 3) / 9)
    p = inverse.Posterior(
        prior,
        physics,
        torch.zeros(1, 1, 8, 8, dtype=torch.float64),
        inverse.GaussianNoise(1e3),
        dtype=torch.float64,
    )
    x, _ = draw(p, "deepinv-ddrm", steps=2, eta=1.0)
    spectrum = torch.fft.fft2((2 * (x - x.mean(0))).reshape(-1, 8, 8), norm="ortho")
    power = spectrum.abs().square().mean(0) / (4 / 5**2)  # J = 1 / (1 + 4), noise variance 4
    inside, ends = power[1:4, 1:4].mean(), power[[0, 0, 4, 4], [0, 4, 0, 4]].mean()
    assert abs(float(inside) - 1) < 4 / (9 * SAMPLES) ** 0.5
    assert abs(float(ends) / 0.5 - 1) < 4 * (2 / (4 * SAMPLES)) ** 0.5


@pytest.mark.parametrize(("view", "least"), [("inpainting", 1.4), ("blur", 1.1), ("random", 1.45)])
def test_diffpir_is_too_wide(view, least):
    assert w2(view, draw(posterior(view), "deepinv-diffpir")[0])[1] > least


@VIEWS
def test_moment_matching_is_nearly_exact(view):
    """It takes five evaluations a step, three of them for conjugate gradients."""
    distance, spread, _ = w2(view, draw(posterior(view), "deepinv-moment-matching", steps=200)[0])
    assert distance < 0.2
    assert abs(spread - 1) < 0.15


@VIEWS
def test_our_dps_with_the_step_of_a_score_is_theirs_at_the_same_weight(view):
    """Two implementations of one chain, on levels that differ only at both ends.

    0.05 is the distance of two sets of draws of one law.
    """
    p = posterior(view)
    scale = p.prior.scale
    unit = float(
        inverse.get_problem("gaussian", side=4, view=view).exact(p.y[0]).covariance.trace().sqrt()
    )
    ours, _ = draw(p, "dps", step="score", zeta=30 * scale)
    theirs, _ = draw(p, "deepinv-dps", steps=100, weight=30.0)
    assert (
        distances.gaussian_w2(ours.mean(0), ours.T.cov(), theirs.mean(0), theirs.T.cov()) / unit
        < 0.1
    )


@VIEWS
def test_our_dps_with_the_step_of_a_score_needs_no_tuning(view):
    """Its own weight, against the best of five for each view."""
    ours = w2(view, draw(posterior(view), "dps", step="score")[0])[0]
    theirs = min(
        w2(view, draw(posterior(view), "deepinv-dps", steps=100, weight=weight)[0])[0]
        for weight in (10.0, 20.0, 30.0, 50.0, 100.0)
    )
    assert ours < theirs + 0.05  # the floor of two thousand samples
    assert ours < w2(view, draw(posterior(view), "dps")[0])[0]


def test_the_step_of_a_score_needs_a_noise_level_or_a_weight():
    p = inverse.get_problem("denoise", sigma_y=0.0).posterior(
        normal(1, 3, 8, 8), prior=inverse.FlatPrior((3, None, None), shift=0.5, scale=0.5)
    )
    assert "zeta" in inverse.get_method("dps", step="score").unsupported(p)
    assert inverse.get_method("dps", step="score", zeta=1.0).unsupported(p) is None
