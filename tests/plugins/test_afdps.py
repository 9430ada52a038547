"""AFDPS against closed forms for Gaussians and mixtures, and quadrature for nonlinear operators.

The prior's discrete chain has a known Gaussian law (`chain`): weights that are exact for it need no
allowance for the step size.
"""

import math
from itertools import pairwise

import pytest
import torch
from conftest import normal

import inverse
from inverse.errors import InputError, OptionError
from inverse.measurement import operators
from inverse.particles.cloud import Cloud, CloudGenerators
from inverse.particles.tempered_likelihood import TemperedLikelihood
from inverse.seeding import Generators

SHAPE = (1, 1, 2)
A = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
C = torch.tensor([1.0, 0.3], dtype=torch.float64)
SIGMA_Y = 0.5
Y = 1.3
H = A.T @ A / SIGMA_Y**2
SDE = {"variant": "sde"}
ODE = {"variant": "ode", "corrector_steps": 2, "sigma_max": 20.0}


def posterior(images=1, matrix=A, sigma_y=SIGMA_Y):
    prior = inverse.GaussianPrior(torch.zeros(SHAPE, dtype=torch.float64), torch.diag(C))
    y = torch.full((images, 1, 1, 1), Y, dtype=torch.float64)
    return inverse.Posterior(
        prior,
        operators.dense(matrix, SHAPE),
        y,
        inverse.GaussianNoise(sigma_y),
        dtype=torch.float64,
    )


def solve(images, samples, seed=0, on=None, **options):
    return inverse.solve(
        on or posterior(images), inverse.get_method("afdps", **SDE | options), samples, seed
    )


def other(operator, y=0.0, sigma_y=0.5, images=1, noise=None):
    """The same prior with another operator and measurement."""
    y = torch.full((images, 1, 1, 1), y, dtype=torch.float64)
    return inverse.Posterior(
        posterior().prior, operator, y, noise or inverse.GaussianNoise(sigma_y), dtype=torch.float64
    )


def second_moments(result):
    """Weighted E[x x^T] of each cloud (images, n, n)."""
    x = result.samples.flatten(2)
    return torch.einsum("is,isa,isb->iab", result.weights, x, x)


def gaussian(variances, power=1.0, matrix=A, sigma_y=SIGMA_Y):
    """Mean, second moments and log-mass of N(0, diag(variances)) N(y; A x, sigma_y^2)^power."""
    covariance = torch.linalg.inv(
        torch.diag(1 / variances) + power * matrix.T @ matrix / sigma_y**2
    )
    mean = covariance @ matrix.T[:, 0] * power * Y / sigma_y**2
    S = float(matrix @ (variances[:, None] * matrix.T)) + sigma_y**2 / power
    log_mass = (
        -0.5 * (Y**2 / S + math.log(2 * math.pi * S))
        + 0.5 * (1 - power) * math.log(2 * math.pi * sigma_y**2)
        - 0.5 * math.log(power)
    )
    return mean, covariance + torch.outer(mean, mean), log_mass


def levels(steps, sigma_max):
    return inverse.noise_levels(posterior(), "karras", steps, None, sigma_max).tolist()


def chain(steps, sigma_max, sde=True):
    """Variances of the discrete prior chain at every level, from N(0, sigma_max^2)."""
    sigmas = levels(steps, sigma_max)
    found = [torch.full((2,), sigmas[0] ** 2, dtype=torch.float64)]
    for s, t in pairwise(sigmas):
        gain = C / (C + s * s)
        keep = gain + (t / s) ** (1 + sde) * (1 - gain)
        found.append(keep**2 * found[-1] + sde * t * t * (1 - (t / s) ** 2))
    return found


def within(found, expected, errors):
    """The mean over images within so many standard errors, per entry."""
    error = found.std(0) / len(found) ** 0.5
    assert ((found.mean(0) - expected).abs() <= errors * error).all(), (
        found.mean(0),
        expected,
        error,
    )


# --- nothing measured -------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["girsanov", "pde"])
@pytest.mark.parametrize(
    "options",
    [{}, {"substep": "euler"}, {"variant": "ode"}, {"variant": "ode", "corrector": "mala"}],
    ids=str,
)
@pytest.mark.parametrize(
    ("matrix", "sigma_y", "bound"),
    [(0 * A, 0.5, 1e-12), (A, 1e6, 1e-6)],
    ids=["no operator", "infinite noise"],
)
def test_without_data_all_weights_are_equal(weights, options, matrix, sigma_y, bound):
    gamma = {} if matrix.any() else {"gamma": 1.0}
    result = solve(
        1,
        32,
        on=posterior(1, matrix, sigma_y),
        steps=10,
        weights=weights,
        sigma_max=20.0,
        **options,
        **gamma,
    )
    assert (result.log_weights + math.log(32)).abs().max() < bound
    assert result.provenance["trace"][-1]["survivors"] == [32]


def test_without_data_the_flow_is_the_prior_sampler():
    """Bit by bit: ddim from the same start."""
    blind = other(inverse.operator(lambda x: 0 * x[..., :1], shape=SHAPE, linear=False))
    result = solve(1, 8, on=blind, steps=10, variant="ode", corrector="none", particles=8)
    sigmas = inverse.noise_levels(blind, "karras", 10)
    x = sigmas[0] * CloudGenerators([Generators.for_samples(0, 1, 8).rows[0]]).randn_like(
        torch.empty(8, *SHAPE, dtype=torch.float64)
    )
    *_, expected = inverse.get_sampler("ddim")(blind.denoise, x, sigmas, None)
    torch.testing.assert_close(result.samples[0], expected, rtol=1e-12, atol=1e-12)


def test_without_data_the_sde_is_the_ancestral_sampler():
    """Second moments of 8000 samples: the prior chain's, within 4 standard errors."""
    result = solve(80, 100, on=posterior(80, 0 * A), steps=15, sigma_max=20.0, gamma=1.0)
    within(second_moments(result).diagonal(dim1=1, dim2=2), chain(15, 20.0)[-1], 4)


# --- a Gaussian prior: no error but the chain's -----------------------------------------------


@pytest.mark.parametrize("substep", ["exact", "euler"])
def test_the_weights_of_the_sde_are_exact_for_its_chain(substep):
    """Mean and second moments within 4 standard errors, Z unbiased.

    20 coarse steps, 60 clouds of 400.
    """
    result = solve(60, 400, steps=20, sigma_max=20.0, substep=substep, seed=1)
    mean, second, log_mass = gaussian(chain(20, 20.0)[-1])
    within(result.mean.flatten(1), mean, 4)
    within(second_moments(result), second, 4)
    within((result.log_evidence - log_mass).exp(), 1.0, 4)


def test_the_weights_of_the_flow_are_exact_for_its_chain():
    """Without corrector the final weights are p(y | x_0) times the first weights."""
    one = posterior()
    result = solve(
        1, 50, on=one, steps=20, variant="ode", corrector="none", ess_threshold=1e-9, seed=2
    )
    start, s = TemperedLikelihood(one.rows(50)), levels(20, 80.0)[0]
    x = result.samples[0] / (chain(20, 80.0, sde=False)[-1] ** 0.5 / s).reshape(SHAPE)
    power = 1 / (1 + (one.norm_squared**0.5 * s / SIGMA_Y) ** 2)
    rows = one.rows(50)
    expected = rows.log_likelihood(result.samples[0]) - power * rows.log_likelihood(x)
    torch.testing.assert_close(result.log_weights[0], expected.log_softmax(0), rtol=1e-6, atol=1e-6)
    mass = start.log_mass(torch.zeros(50, *SHAPE, dtype=torch.float64), s * s, power)[0]
    torch.testing.assert_close(
        result.log_evidence[0], mass + expected.logsumexp(0) - math.log(50), rtol=1e-6, atol=1e-6
    )


def test_the_chains_error_halves_with_the_step():
    """The only error of exact weights; ratios of the covariance's error, 1.7 to 2.3."""
    truth = gaussian(C)
    for sde in (True, False):
        errors = [
            (gaussian(chain(steps, 80.0, sde)[-1])[1] - truth[1]).norm()
            for steps in (100, 200, 400)
        ]
        assert all(1.7 < a / b < 2.3 for a, b in pairwise(errors)), errors


# --- a Gaussian prior: the posterior ----------------------------------------------------------


def test_mean_covariance_and_evidence_are_the_posteriors():
    """The flow with two Langevin steps at 100 levels: 40 clouds of 250, 3 standard errors."""
    result = solve(40, 250, steps=100, seed=3, **ODE)
    mean, second, log_mass = gaussian(C)
    within(result.mean.flatten(1), mean, 3)
    within(second_moments(result), second, 3)
    within((result.log_evidence - log_mass).exp(), 1.0, 3)


def test_the_error_falls_as_the_root_of_the_number_of_particles():
    """Slope of the log RMSE of the mean for N = 40, 160, 640; its standard error is 0.04.

    60 clouds each.
    """
    truth, errors = gaussian(C)[0], []
    for n in (40, 160, 640):
        errors.append(
            float(
                (solve(60, n, steps=40, seed=4, **ODE).mean.flatten(1) - truth)
                .square()
                .mean()
                .sqrt()
            )
        )
    slope = math.log(errors[2] / errors[0]) / math.log(16)
    assert -0.65 < slope < -0.4, errors


@pytest.mark.parametrize(
    "options",
    [{"variant": "ode"}, {"variant": "ode", "corrector": "mala"}, {}],
    ids=["ode", "mala", "sde"],
)
def test_the_cloud_follows_its_path(options):
    """q_t ~ N(0, C + t^2) p(y | x)^a at three levels, for `sde` the law of its chain.

    Mean and second moments within 4 standard errors.
    """
    steps, images, n = 100, 40, 250
    rows, generator = posterior(images).rows(n), Generators.for_samples(5, images, n)
    sigmas, law = levels(steps, 20.0), chain(steps, 20.0)
    with torch.no_grad():
        iterates = list(
            inverse.get_method("afdps", steps=steps, sigma_max=20.0, **SDE | options).run(
                rows, n, generator
            )
        )
    for k in (30, 60, 90):
        t = sigmas[k]
        mean, second, _ = gaussian(
            C + t * t if options else law[k], 1 / (1 + (float((A @ A.T).sqrt()) * t / SIGMA_Y) ** 2)
        )
        w = iterates[k - 1].log_weights.view(images, n).softmax(1)
        x = iterates[k - 1].x.view(images, n, 2)
        within(torch.einsum("is,isa->ia", w, x), mean, 4)
        within(torch.einsum("is,isa,isb->iab", w, x, x), second, 4)


# --- the paper's weights ----------------------------------------------------------------------


def test_the_papers_weights_converge_to_the_exact_ones():
    """Half the step halves the error of the evidence: ratios 1.5 to 2.6, 20 clouds of 250."""
    truth = gaussian(C)[2]
    errors = [
        float(
            (solve(20, 250, steps=steps, weights="pde", seed=6, **ODE).log_evidence - truth)
            .exp()
            .mean()
            .log()
        )
        for steps in (30, 60, 120)
    ]
    assert all(1.5 < a / b < 2.6 for a, b in pairwise(errors)), errors
    assert abs(errors[2]) < 0.2


SATURATING = inverse.operator(
    lambda x: (2 * x[..., :1]).tanh() + x[..., 1:] / 2, shape=SHAPE, linear=False
)


class Antithetic(CloudGenerators):
    """Normal draws in pairs z, -z: odd terms cancel exactly."""

    def randn_like(self, x):
        half = super().randn_like(x[::2])
        return torch.stack([half, -half], 1).flatten(0, 1)


@pytest.mark.parametrize(
    "operator", [operators.dense(A, SHAPE), SATURATING], ids=["linear", "nonlinear"]
)
@pytest.mark.parametrize("variant", ["sde", "ode"])
def test_the_papers_increment_is_the_expectation_of_the_exact_one(variant, operator):
    """Mean exp(exact increment) over 4000 moves from each of 6 points, against the reaction term.

    Within 3 per cent at a short step.
    """
    gaps = []
    for shorter in (0.2, 1e-3):
        p = other(operator, Y, images=1).rows(24000)
        x, s, t = normal(6, *SHAPE).repeat_interleave(4000, 0), 1.5, 1.5 * (1 - shorter)
        found = []
        for weights in ("girsanov", "pde"):
            method = inverse.get_method(
                "afdps", variant=variant, weights=weights, substep="euler", gamma=1.0
            )
            tempered = TemperedLikelihood(p) if p.linear else None
            a, b = (method._power(p, level, 80.0) for level in (s, t))
            increments = method._move(
                p, Cloud(x, Antithetic([inverse.seeded("step")])), tempered, s, t, a, b
            )[1]
            found.append(increments.view(6, 4000).exp().mean(1).log())
        gaps.append(float((found[0] - found[1]).abs().max() / found[0].abs().max()))
    assert gaps[1] < 0.03
    assert gaps[1] < gaps[0]


def test_the_unannealed_sde_collapses_by_construction():
    """Var log w grows as sigma_max^2 |A|^2 / sigma_y^2 without resampling.

    Ten of 2000 particles then carry the weight.
    """
    never = {"ess_threshold": 1e-9, "sigma_max": 3.0, "steps": 200, "rho": 3.0}
    collapsed = solve(1, 2000, anneal="none", weights="pde", substep="euler", **never)
    annealed = solve(1, 2000, anneal="noise-aware", **never)
    assert collapsed.ess.item() < 10
    assert collapsed.log_weights.var() > 12
    assert annealed.log_weights.var() < 5


@pytest.mark.filterwarnings("ignore:.*particles have NaN")
def test_stiff_guidance_needs_the_exact_substep():
    """Euler is stable only below sigma_y^2 / (t |A|^2) = 3e-5; the steps are up to 7."""
    stiff = posterior(1, sigma_y=0.05)
    with pytest.raises(InputError, match=r"at noise level sigma|diverged"):
        solve(1, 32, on=stiff, anneal="none", substep="euler", steps=60)
    assert solve(1, 32, on=stiff, anneal="none", substep="exact", steps=60).samples.abs().max() < 10


# --- more than one mode -----------------------------------------------------------------------


def test_both_modes_keep_their_masses():
    """Masses 0.7 and 0.3 within 0.05, unlike red-diff; evidence within 3 standard errors."""
    problem = inverse.get_problem("bimodal", mass=0.7)
    p = problem.posterior(0)
    exact = problem.exact(p.y[0])
    runs = [
        solve(1, 1500, seed=s, on=p, variant="ode", corrector="mala", steps=60) for s in range(6)
    ]
    masses = torch.stack([(r.weights[0] * (r.samples[0].flatten(1)[:, 0] > 0)).sum() for r in runs])
    assert abs(float(masses.mean()) - 0.7) < 0.05
    within(torch.stack([(r.log_evidence[0] - exact.log_evidence).exp() for r in runs]), 1.0, 3)
    biased = inverse.solve(p, "red-diff", samples=500).samples[0].flatten(1)[:, 0]
    assert abs(float((biased > 0).double().mean()) - 0.7) > 0.1


def test_a_mixtures_modes_keep_their_masses():
    """Total variation of the masses of 25 components within 0.05; DPS and red-diff exceed 0.2."""
    problem = inverse.get_problem("mixture", d=8, d_y=2, instance=1)
    p = problem.posterior(0)
    exact = problem.exact(p.y[0]).law

    def distance(x, w):
        nearest = torch.cdist(p.prior.encode(x).flatten(1).double(), exact.means.flatten(1)).argmin(
            1
        )
        return (
            0.5
            * (
                torch.zeros(25, dtype=torch.float64).index_add(0, nearest, w.double())
                - exact.weights
            )
            .abs()
            .sum()
        )

    mine = solve(1, 3000, on=p, variant="ode", corrector="mala", steps=60)
    assert distance(mine.samples[0], mine.weights[0]) < 0.05
    for name in ("dps", "red-diff"):
        other = inverse.solve(p, name, samples=500)
        assert distance(other.samples[0], other.weights[0]) > 0.2


# --- nonlinear operators ----------------------------------------------------------------------


NONLINEAR = [
    {},
    {"variant": "ode"},
    {"variant": "ode", "corrector": "mala"},
    {"variant": "ode", "weights": "pde"},
    {"variant": "ode", "anneal": "linear"},
]


@pytest.mark.parametrize("options", NONLINEAR, ids=str)
def test_a_nonlinear_operator_agrees_with_quadrature(options):
    """Mean and evidence of 20 clouds of 300 within 4 standard errors and 0.03 for the step.

    The evidence is tested only where its variance is small enough.
    """
    p = other(SATURATING, 0.6, 0.3, images=20)
    axes = torch.linspace(-6, 6, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(axes, axes)
    log_joint = p.prior.log_density(grid.view(-1, *SHAPE)) + p.noise.log_prob(
        p.y[:1], SATURATING.A(grid.view(-1, *SHAPE))
    )
    mean, log_z = log_joint.softmax(0) @ grid, log_joint.logsumexp(0) + 2 * math.log(12 / 400)
    result = solve(20, 300, on=p, steps=80, sigma_max=20.0, **options)
    found, z = result.mean.flatten(1), (result.log_evidence - log_z).exp()
    assert ((found.mean(0) - mean).abs() < 4 * found.std(0) / 20**0.5 + 0.03).all()
    if "anneal" not in options:
        assert abs(z.mean() - 1) < 4 * z.std() / 20**0.5 + (0.3 if "weights" in options else 0.05)


# --- ensembles --------------------------------------------------------------------------------


def test_permuted_particles_are_permuted_in_the_next_step():
    p, order = posterior().rows(20), torch.randperm(20, generator=inverse.seeded("order"))

    class Permuted(CloudGenerators):
        def randn_like(self, x):
            return super().randn_like(x)[order]

    for options in (
        {},
        {"substep": "euler"},
        {"variant": "ode"},
        {"weights": "pde", "substep": "euler"},
    ):
        method, found = inverse.get_method("afdps", **SDE | options), []
        for kind in (CloudGenerators, Permuted):
            x = normal(20, *SHAPE)
            cloud = Cloud(
                x if kind is CloudGenerators else x[order], kind([inverse.seeded("noise")])
            )
            found.append(method._move(p, cloud, TemperedLikelihood(p), 2.0, 1.0, 0.2, 0.4))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(other, one[order])


def test_permuted_images_permute_the_answers():
    whole = posterior(3)
    whole.y = whole.y + normal(3, 1, 1, 1)
    method = inverse.get_method("afdps", steps=10)
    together = inverse.solve(whole, method, samples=20)
    for i in range(3):
        alone = inverse.Posterior(
            whole.prior, whole.operator, whole.y[i : i + 1], whole.noise, dtype=torch.float64
        )
        single = inverse.solve(alone, method, samples=20, first_image=i)
        torch.testing.assert_close(single.samples[0], together.samples[i], rtol=0, atol=1e-10)
        torch.testing.assert_close(
            single.log_weights[0], together.log_weights[i], rtol=0, atol=1e-10
        )


@pytest.mark.parametrize("islands", [1, 4])
def test_the_number_of_islands_changes_no_expectation(islands):
    """40 clouds of 200: mean within 4 standard errors of the posterior's, Z unbiased."""
    result = solve(40, 200, steps=60, islands=islands, seed=7, **ODE)
    mean, _, log_mass = gaussian(C)
    within(result.mean.flatten(1), mean, 4)
    within((result.log_evidence - log_mass).exp(), 1.0, 4)


def test_the_papers_shortcut_returns_the_heaviest_unresampled_particle():
    options = {"steps": 20, "sigma_max": 20.0}
    shortcut = solve(1, 16, mode="paper-shortcut", **options)
    weighted = solve(1, 16, ess_threshold=1e-9, **options)
    assert torch.equal(shortcut.samples[0], weighted.best.expand(16, *SHAPE))


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"particles": 1}, "particles must be at least 2, got 1"),
        ({"ess_threshold": 2.0}, "ess_threshold must be positive and at most 1"),
        ({"rho": 0.0}, "rho must be at least 0.1 and at most 100"),
        ({"gamma": -1.0}, "must be positive"),
        ({"corrector_rate": 0.0}, "must be positive"),
        ({"variant": "pde"}, "variant must be one of auto, sde, ode, got 'pde'"),
    ],
)
def test_invalid_options_give_a_one_line_error(options, words):
    with pytest.raises(OptionError, match=words):
        inverse.get_method("afdps", **options)


def broken(when):
    """An operator that is NaN where `when` holds of x_1."""
    return inverse.operator(
        lambda x: torch.where(when(x[..., :1]), math.nan, x[..., :1]), shape=SHAPE, linear=False
    )


def test_particles_with_nan_measurements_lose_their_weight():
    p = other(broken(lambda x: x > 0.5), images=3)
    with pytest.warns(UserWarning, match=r"particles have NaN at noise level sigma = "):
        result = solve(3, 50, on=p, steps=20, sigma_max=20.0)
    assert result.samples[..., 0].max() <= 0.5
    assert torch.isfinite(result.log_evidence).all()


def test_an_operator_that_is_nan_everywhere_is_an_error_at_a_level():
    with pytest.raises(
        InputError,
        match=r"all 16 particles of measurement 0 have NaN or infinity at noise level sigma = 80",
    ):
        solve(1, 1, on=other(broken(lambda x: x == x)))


def test_annealing_by_the_noise_needs_gaussian_noise():
    p = other(operators.dense(A, SHAPE), 1.0, noise=inverse.LaplaceNoise(0.5))
    with pytest.raises(
        inverse.InverseError, match="anneal=noise-aware needs Gaussian noise; use anneal=linear"
    ):
        solve(1, 4, on=p)
    assert torch.isfinite(solve(1, 16, on=p, anneal="linear", variant="ode", steps=20).mean).all()
