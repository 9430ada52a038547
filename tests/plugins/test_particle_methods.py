"""Particle methods against closed forms: a Gaussian, two modes, evidence, a flat likelihood.

Every statistic is that of many independent clouds, so that its standard error is measured. Moments
and evidence are compared with those of the chain that the methods simulate, whose law is a
Gaussian too: they are exact at any number of steps.
"""

import math
from itertools import pairwise

import pytest
import torch
from conftest import normal

import inverse
from inverse.errors import InputError, OptionError, UnsupportedError
from inverse.measurement.operators import dense
from inverse.particles.cloud import CloudGenerators
from inverse.sampling.samplers import ddim
from inverse.seeding import Generators

SHAPE = (1, 1, 2)
TDS = {"pigdm": {"twist": "pigdm"}, "moment": {"twist": "moment"}, "dps": {"twist": "dps"}}
FK = {
    "difference": {},
    "as published": {"tau": 0, "interval": 10},
    "max": {"potential": "max", "interval": 10},
    "sum": {"potential": "sum", "interval": 10},
}
MCG = {"100 steps": {}}
TABLES = {"tds": TDS, "fk-steering": FK, "mcg-diff": MCG}
CONFIGURATIONS = {
    f"{name} {which}": (name, options)
    for name, table in TABLES.items()
    for which, options in table.items()
}
every_configuration = pytest.mark.parametrize("configuration", CONFIGURATIONS)


def method(configuration, **more):
    name, options = CONFIGURATIONS[configuration]
    return inverse.get_method(name, **{**options, **more})


def law():
    """The configuration of a narrow and a wide axis."""
    mean, variances = torch.tensor([[0.3, -0.2], [1.0, 0.3]]).double()
    return inverse.GaussianPrior(
        mean.reshape(SHAPE), torch.diag(variances), sigma_min=0.01, sigma_max=30.0
    )


def walk(chosen, prior, levels, mean, variance):
    """Mean (of x less the prior's) and variance after these steps of the sampler.

    The prior is Gaussian with independent entries; eta is the fraction of fresh noise.
    """
    C, eta = prior.covariance.diagonal(), getattr(chosen, "eta", 1.0)
    factor = torch.ones_like(C)
    for s, t in pairwise(levels):
        c2, kept = (eta * t) ** 2 * (1 - (t / s) ** 2), C / (C + s**2)
        a = kept + (t * t - c2) ** 0.5 / s * (1 - kept)
        factor, mean, variance = a * factor, a * mean, a**2 * variance + c2
    return factor, mean, variance


def chain(chosen, prior, p):
    """What the sampler makes of a Gaussian prior in the steps of a method: a Gaussian."""
    levels = inverse.noise_levels(
        p, chosen.schedule, chosen.steps, chosen.sigma_min, chosen.sigma_max
    ).tolist()
    _, mean, variance = walk(
        chosen,
        prior,
        levels,
        -prior.mean.flatten(),
        levels[0] ** 2 * torch.ones(prior.mean.numel()).double(),
    )
    return inverse.GaussianPrior(prior.mean + mean.reshape(prior.mean.shape), torch.diag(variance))


def simulated(chosen, p):
    """Mean, covariance and log-evidence of the law of the particles at this number of steps."""
    if chosen.name != "mcg-diff":
        prior = chain(chosen, law(), p)
        return *prior.posterior(MATRIX, SIGMA_Y, p.y[0].flatten()), prior.log_evidence(
            MATRIX, SIGMA_Y, p.y[0].flatten()
        )
    (levels, _), prior, norm = chosen._levels(p), law(), MATRIX.norm()
    tau = float(SIGMA_Y / norm)
    at = min(range(len(levels)), key=lambda i: abs(levels[i] - tau))
    assert levels[at] == pytest.approx(tau)
    _, mean, variance = walk(
        chosen,
        prior,
        levels[: at + 1],
        -prior.mean.flatten(),
        levels[0] ** 2 * torch.ones(2).double(),
    )
    diffused = inverse.GaussianPrior(prior.mean + mean.reshape(SHAPE), torch.diag(variance))
    seen, width = p.y[0].flatten() / norm, (chosen.kappa * (1 + tau**2)) ** 0.5
    mean, covariance = diffused.posterior(MATRIX / norm, width, seen)
    factor, mean, rest = walk(
        chosen, prior, levels[at:], mean - prior.mean.flatten(), torch.zeros(2).double()
    )
    evidence = diffused.log_evidence(MATRIX / norm, width, seen) - norm.log()
    return (
        mean + prior.mean.flatten(),
        factor[:, None] * covariance * factor + torch.diag(rest),
        evidence,
    )


def test_the_chain_tends_to_the_prior():
    """The error of its variance is proportional to the step."""
    short, long = (
        chain(inverse.get_method("tds", steps=n), law(), posterior()).covariance - law().covariance
        for n in (200, 400)
    )
    ratio = short.diagonal() / long.diagonal()
    assert ((ratio > 1.9) & (ratio < 2.1)).all()


MATRIX, SIGMA_Y, Y = torch.tensor([[1.0, 0.5]]).double(), 0.5, 1.2


def posterior(clouds=1, matrix=MATRIX, sigma_y=SIGMA_Y, y=Y, prior=None):
    y = torch.full((clouds, 1, 1, len(matrix)), y).double()
    return inverse.Posterior(
        prior or law(), dense(matrix, SHAPE), y, inverse.GaussianNoise(sigma_y), dtype=torch.float64
    )


def standard_errors(values, expected):
    """Largest deviation of the mean of independent estimates (clouds, ...), in standard errors."""
    return float(((values.mean(0) - expected).abs() / (values.std(0) / len(values) ** 0.5)).max())


def moments(result):
    """Weighted first (clouds, n) and second moments (clouds, n, n) of each cloud."""
    x, W = result.samples.flatten(2), result.weights[..., None]
    return (W * x).sum(1), (W * x).mT @ x


def unbiased(result, estimates, expected):
    """Z (estimate - expected) of each cloud (clouds, ...).

    Unlike the estimate, it has mean zero at any number of particles.
    """
    Z = (result.log_evidence - result.log_evidence.max()).exp()
    return Z.reshape(-1, *[1] * (estimates.ndim - 1)) * (estimates - expected)


@every_configuration
def test_a_gaussian_posterior_is_sampled(configuration):
    """First and second moments of 24 clouds of 400, within 3.5 standard errors (5 numbers)."""
    p, chosen = posterior(24), method(configuration, steps=30)
    mean, covariance, _ = simulated(chosen, p)
    result = inverse.solve(p, chosen, samples=400)
    first, second = moments(result)
    assert standard_errors(unbiased(result, first, mean), 0) < 3.5
    assert standard_errors(unbiased(result, second, covariance + torch.outer(mean, mean)), 0) < 3.5


@every_configuration
def test_the_evidence_is_that_of_the_closed_form(configuration):
    """Mean of Z / p(y) over 24 clouds of 300, within 3.5 standard errors.

    They are below 3 per cent for TDS, and below 15 per cent for others.
    """
    p, chosen = posterior(24), method(configuration, steps=30)
    _, _, expected = simulated(chosen, p)
    ratio = (inverse.solve(p, chosen, samples=300).log_evidence - expected).exp()
    assert standard_errors(ratio, 1.0) < 3.5
    assert ratio.std() / 24**0.5 < (0.03 if "tds" in configuration else 0.15)


@pytest.mark.parametrize(
    "configuration",
    [
        c
        for c in CONFIGURATIONS
        if c not in ("fk-steering max", "fk-steering sum", "fk-steering as published")
    ],
)
def test_both_modes_get_their_mass(configuration):
    """Modes of 0.7 and 0.3, on which y says nothing: 8 clouds of 500, within 0.05.

    The clouds count by their evidence.
    """
    problem = inverse.get_problem("bimodal", mass=0.7)
    truth = problem.truths()[0].expand(8, *problem.truths()[0].shape)
    p = problem.posterior(truth, dtype=torch.float64)
    p.y = p.y[:1].expand_as(p.y).clone()
    result = inverse.solve(p, method(configuration, steps=100), samples=500)
    right = (result.weights * (result.samples.flatten(2)[..., 0] > 0)).sum(1)
    assert abs((right * result.log_evidence.softmax(0)).sum() - 0.7) < 0.05


class AfterResampling(CloudGenerators):
    """Streams from which systematic resampling has drawn before every step, or every so many."""

    steps, interval = 0, 1

    def randn_like(self, x):
        if self.steps % self.interval == 0:
            Generators.rand_like(self, x.new_empty(len(self), 1))
        self.steps = self.steps + 1
        return super().randn_like(x)


@every_configuration
@pytest.mark.parametrize("blind", ["A = 0", "sigma_y = 1e9"])
def test_a_flat_likelihood_gives_the_prior_sampler(configuration, blind):
    """Equal weights, and bit for bit the particles of the ancestral sampler."""
    matrix, sigma_y = (0 * MATRIX, SIGMA_Y) if blind == "A = 0" else (MATRIX, 1e9)
    p, chosen = posterior(2, matrix, sigma_y), method(configuration, steps=20, particles=50)
    result = inverse.solve(p, chosen, samples=50, seed=3)
    torch.testing.assert_close(
        result.weights, torch.full_like(result.weights, 1 / 50), rtol=1e-9, atol=0
    )
    streams = Generators.for_samples(3, 2, 50).rows[::50]
    sigmas, eta = inverse.noise_levels(p, chosen.schedule, 20), getattr(chosen, "eta", 1.0)
    start = sigmas[0] * CloudGenerators(streams).randn_like(torch.empty(100, *SHAPE).double())
    streams = AfterResampling(streams)
    streams.interval = getattr(chosen, "interval", 1)
    *_, expected = ddim(lambda x, sigma: p.denoise(x, sigma), start, sigmas, streams, eta)
    torch.testing.assert_close(result.samples.flatten(0, 1), expected, rtol=0, atol=1e-7)


def test_the_error_of_tds_falls_like_the_root_of_the_particles():
    """RMSE of the mean over 48 clouds of 25, 100, 400 particles: log slope in [-0.65, -0.4]."""
    p, chosen = posterior(48), inverse.get_method("tds", steps=30)
    mean, _ = chain(chosen, law(), p).posterior(MATRIX, SIGMA_Y, p.y[0].flatten())
    errors = []
    for count in (25, 100, 400):
        first, _ = moments(inverse.solve(p, chosen, samples=count))
        errors.append(float((first - mean).square().mean().sqrt()))
    slope = (math.log(errors[2]) - math.log(errors[0])) / math.log(16)
    assert -0.65 < slope < -0.4, errors


def test_the_plug_in_twist_handles_a_nonlinear_operator():
    """y = x^3 + noise of a standard normal x: mean and evidence against quadrature.

    24 clouds of 400, within 3.5 standard errors.
    """
    prior = inverse.GaussianPrior(
        torch.zeros(1, 1, 1).double(), torch.ones(1, 1).double(), sigma_min=0.01, sigma_max=30.0
    )
    cube = inverse.operator(lambda x: x**3, shape=(1, 1, 1), linear=False)
    y = torch.full((24, 1, 1, 1), 2.0).double()
    p = inverse.Posterior(prior, cube, y, inverse.GaussianNoise(1.0), dtype=torch.float64)
    chosen = inverse.get_method("tds", twist="dps", steps=30)
    grid = torch.linspace(-8, 8, 40001).double()
    density = (
        torch.exp(
            chain(chosen, prior, p).log_density(grid.reshape(-1, 1, 1, 1))
            - 0.5 * (2 - grid**3) ** 2
        )
        / (2 * math.pi) ** 0.5
    )
    evidence = torch.trapezoid(density, grid)
    result = inverse.solve(p, chosen, samples=400)
    assert (
        standard_errors(
            unbiased(result, moments(result)[0], torch.trapezoid(density * grid, grid) / evidence),
            0,
        )
        < 3.5
    )
    assert standard_errors((result.log_evidence - evidence.log()).exp(), 1.0) < 3.5


# --- rewards ----------------------------------------------------------------------------------


def test_a_reward_tilts_the_prior_without_a_measurement(tmp_path):
    """exp(lambda b . x) moves a Gaussian by lambda C b, whatever the noise.

    The reward is a function or comes from a file.
    """
    p = posterior(24, sigma_y=0.0)
    file = tmp_path / "rewards.py"
    file.write_text("def slope(x):\n    return x.flatten(1)[:, 0] - x.flatten(1)[:, 1]\n")
    options = {"lambda_": 0.7, "steps": 30}
    chosen = inverse.get_method(
        "fk-steering", reward=lambda x: x.flatten(1)[:, 0] - x.flatten(1)[:, 1], **options
    )
    simulated = chain(chosen, law(), p)
    expected = (
        simulated.mean.flatten() + 0.7 * simulated.covariance @ torch.tensor([1.0, -1.0]).double()
    )
    result = inverse.solve(p, chosen, samples=400)
    assert standard_errors(unbiased(result, moments(result)[0], expected), 0) < 3.5
    from_file = inverse.solve(
        p, inverse.get_method("fk-steering", reward=f"{file}:slope", **options), samples=400
    )
    assert torch.equal(from_file.samples, result.samples)


def test_an_operator_without_a_gradient_is_enough():
    """The noisy sign of x, which makes a positive x e^2 times as likely: the mean.

    24 clouds of 400, within 3.5 standard errors.
    """
    prior = inverse.GaussianPrior(
        torch.zeros(1, 1, 1).double(), torch.ones(1, 1).double(), sigma_min=0.01, sigma_max=30.0
    )
    sign = inverse.operator(lambda x: x.detach().sign(), shape=(1, 1, 1), linear=False)
    y = torch.ones(24, 1, 1, 1).double()
    p = inverse.Posterior(prior, sign, y, inverse.GaussianNoise(1.0), dtype=torch.float64)
    chosen = inverse.get_method("fk-steering", steps=30)
    result = inverse.solve(p, chosen, samples=400)
    expected = math.tanh(1) * (2 / math.pi * chain(chosen, prior, p).covariance).sqrt().flatten()
    assert standard_errors(unbiased(result, moments(result)[0], expected), 0) < 3.5
    assert result.cost.vjp == 0
    assert result.cost.nfe == 30
    assert result.cost.A == 30


@pytest.mark.parametrize("potential", ["difference", "max", "sum"])
def test_the_product_of_the_potentials_is_the_likelihood(potential):
    """Two particles, never resampled: their weights are in proportion to p(y | x)."""
    p = posterior(3)
    result = inverse.solve(
        p,
        inverse.get_method(
            "fk-steering", potential=potential, interval=2, steps=7, particles=2, ess_threshold=1e-9
        ),
        samples=2,
    )
    rows = p.rows(2)
    expected = rows.log_likelihood(result.samples.flatten(0, 1)).view(3, 2).softmax(1)
    torch.testing.assert_close(result.weights, expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"interval": 0}, "interval must be at least 1"),
        ({"lambda_": math.inf}, "lambda must be at most 1000000000, got inf"),
        ({"reward": "rewards.py"}, "reward must be FILE.py:FUNCTION, got 'rewards.py'"),
        ({"reward": "nowhere.py:slope"}, "no file nowhere.py"),
        ({"reward": f"{__file__}:nothing"}, "has no function 'nothing'"),
        (
            {"reward": lambda x: x},
            r"must return one number for each of 64 images, found shape \(64, 1, 1, 2\)",
        ),
    ],
)
def test_an_invalid_reward_is_refused(options, words):
    with pytest.raises(OptionError, match=words):
        inverse.solve(posterior(), inverse.get_method("fk-steering", steps=2, **options))


# --- bad input --------------------------------------------------------------------------------


@every_configuration
def test_one_particle_is_refused(configuration):
    with pytest.raises(OptionError, match="particles must be at least 2, got 1"):
        method(configuration, particles=1)


def nan_beyond(limit):
    """The identity, NaN where an entry exceeds the limit."""
    return inverse.operator(
        lambda x: torch.where(x.abs() > limit, math.nan, x), shape=SHAPE, linear=False
    )


def test_particles_that_the_operator_cannot_map_are_quarantined():
    p = inverse.Posterior(
        law(),
        nan_beyond(1.5),
        torch.zeros(1, *SHAPE).double(),
        inverse.GaussianNoise(1.0),
        dtype=torch.float64,
    )
    with pytest.warns(UserWarning, match="of 64 particles have NaN at noise level"):
        result = inverse.solve(p, inverse.get_method("tds", twist="dps", steps=20), samples=64)
    x = result.samples[0][result.weights[0] > 0]
    assert x.isfinite().all()
    assert (x.abs() <= 1.5).all()


def test_an_operator_that_is_always_nan_is_an_error_that_names_the_level():
    p = inverse.Posterior(
        law(),
        nan_beyond(-1.0),
        torch.zeros(1, *SHAPE).double(),
        inverse.GaussianNoise(1.0),
        dtype=torch.float64,
    )
    with pytest.raises(
        InputError,
        match=r"all 16 particles of measurement 0 have NaN or infinity at noise level sigma = 30",
    ):
        inverse.solve(p, inverse.get_method("tds", twist="dps", steps=5))


def test_the_twist_follows_the_measurement():
    """Few entries, many, and an operator that is not linear; an explicit choice is kept."""
    many = posterior(matrix=normal(17, 2))
    bent = inverse.operator(torch.tanh, shape=SHAPE, linear=False)
    nonlinear = inverse.Posterior(
        law(),
        bent,
        torch.zeros(1, *SHAPE).double(),
        inverse.GaussianNoise(1.0),
        dtype=torch.float64,
    )
    tds = inverse.get_method("tds")
    assert [tds.derived(p)["twist"] for p in (posterior(), many, nonlinear)] == [
        "moment",
        "pigdm",
        "dps",
    ]
    assert inverse.get_method("tds", twist="dps").derived(many) == {"twist": "dps"}


@pytest.mark.parametrize("twist", ["pigdm", "moment"])
def test_a_gaussian_twist_needs_a_linear_operator_and_suggests_another(twist):
    p = inverse.Posterior(
        law(),
        nan_beyond(9.0),
        torch.zeros(1, *SHAPE).double(),
        inverse.GaussianNoise(1.0),
        dtype=torch.float64,
    )
    with pytest.raises(
        UnsupportedError,
        match=f"twist={twist} needs a linear operator .*, found Physics.*use twist=dps",
    ):
        inverse.solve(p, inverse.get_method("tds", twist=twist))


def test_the_moment_twist_refuses_an_image():
    problem = inverse.get_problem("denoise")
    p = problem.posterior(
        torch.rand(1, 3, 16, 16, generator=inverse.seeded(0)),
        prior=inverse.FlatPrior((3, None, None)),
    )
    with pytest.raises(
        UnsupportedError,
        match="VJP for each entry of y, at most 256, found 768; use twist=pigdm",
    ):
        inverse.solve(p, inverse.get_method("tds", twist="moment"))


def test_noise_without_a_density_is_refused():
    p = posterior(sigma_y=0.0)
    with pytest.raises(UnsupportedError, match="tds needs sigma_y > 0"):
        inverse.solve(p, inverse.get_method("tds"))


def test_the_moment_twist_is_exact_for_a_gaussian():
    """Weights after a few steps are equal up to the discretisation: ESS above 0.9."""
    result = inverse.solve(
        posterior(), inverse.get_method("tds", twist="moment", steps=200), samples=400
    )
    assert min(entry["ess"][0] for entry in result.provenance["trace"]) > 0.9 * 400
    assert result.provenance["trace"][-1]["survivors"] == [400]


def test_moments_of_a_network_need_not_be_variances(network_prior):
    """A negative eigenvalue of A V A^T counts as zero: finite samples from random weights."""
    operator = inverse.operator(lambda x: x.mean((2, 3), keepdim=True), shape=(3, 8, 8))
    p = inverse.Posterior(
        network_prior,
        operator,
        normal(1, 3, 1, 1, dtype=torch.float32),
        inverse.GaussianNoise(0.1),
        shape=(3, 8, 8),
    )
    assert (
        inverse.solve(p, inverse.get_method("tds", twist="moment", steps=6))
        .samples.isfinite()
        .all()
    )


# --- what FPS-SMC does, which is not exact ----------------------------------------------------


def fps_moments(sigma_y):
    """Mean, covariance and standard error of 24 clouds of 400; and the truth."""
    p = posterior(24, sigma_y=sigma_y)
    first, second = moments(inverse.solve(p, inverse.get_method("fps-smc", steps=200), samples=400))
    mean = first.mean(0)
    return (
        mean,
        second.mean(0) - torch.outer(mean, mean),
        first.std(0) / 24**0.5,
        *law().posterior(MATRIX, sigma_y, p.y[0].flatten()),
    )


def test_filtering_is_exact_without_noise():
    """Mean within 3.5 standard errors; total variance within a quarter, for the clouds' spread."""
    mean, covariance, error, exact_mean, exact = fps_moments(1e-3)
    assert ((mean - exact_mean).abs() < 3.5 * error).all()
    assert abs(covariance.trace() / exact.trace() - 1) < 0.25
    assert torch.linalg.eigvalsh(covariance)[0] < 1e-4


def test_filtering_treats_the_same_noise_as_new_at_every_level():
    """Along the measured direction the variance is less than half of the exact one."""
    _, covariance, _, _, exact = fps_moments(SIGMA_Y)
    a = MATRIX[0] / MATRIX.norm()
    assert 0.05 < (a @ covariance @ a) / (a @ exact @ a) < 0.5


def test_filtering_gives_no_evidence():
    result = inverse.solve(posterior(), inverse.get_method("fps-smc", steps=5), samples=20)
    assert result.log_evidence is None
    assert all("log_evidence" not in step for step in result.provenance["trace"])


def test_filtering_a_flat_likelihood_gives_equal_weights():
    result = inverse.solve(
        posterior(2, 0 * MATRIX), inverse.get_method("fps-smc", steps=10), samples=50
    )
    torch.testing.assert_close(
        result.weights, torch.full_like(result.weights, 1 / 50), rtol=1e-9, atol=0
    )


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("fps-smc", {"c": 0.0}, "c must be positive and at most 1, got 0"),
        ("mcg-diff", {"eta": 0.0}, "eta must be positive and at most 1, got 0"),
        ("mcg-diff", {"kappa": 0.0}, "kappa must be positive, got 0"),
        ("tds", {"tau": -1.0}, "tau must be at least 0, got -1"),
    ],
)
def test_an_option_out_of_range_is_refused(name, options, words):
    with pytest.raises(OptionError, match=words):
        inverse.get_method(name, **options)


def test_mcg_diff_refuses_an_operator_without_singular_values():
    plain = inverse.operator(lambda x: x.flatten(1) @ MATRIX.T, shape=SHAPE)
    p = inverse.Posterior(
        law(), plain, torch.zeros(1, 1).double(), inverse.GaussianNoise(1.0), dtype=torch.float64
    )
    with pytest.raises(
        UnsupportedError,
        match="operator with known singular values; this posterior has LinearPhysics",
    ):
        inverse.solve(p, inverse.get_method("mcg-diff"))


def test_tds_says_that_its_evidence_is_high_with_few_steps():
    problem = inverse.get_problem("gaussian", side=4, view="random")
    p = problem.posterior(0, dtype=torch.float64)
    exact = problem.law().log_evidence(problem.matrix(), problem.sigma_y, p.y[0].flatten())
    few = inverse.get_method("tds", steps=50, particles=256)
    results = [inverse.solve(p, few, samples=256, seed=seed) for seed in range(3)]
    high = torch.stack([result.log_evidence[0] for result in results]) - exact
    assert 0.1 < high.mean() < 0.4
    assert any("log-evidence" in note for note in results[0].provenance["notes"])
    assert inverse.get_method("tds").notes(p) == []
