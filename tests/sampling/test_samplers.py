"""Schedules against their formulas; samplers against the linear, known flow of a Gaussian.

Along an eigenvector of C with variance c the probability-flow ODE maps x at level s to
m + (x - m) sqrt((c + t^2) / (c + s^2)) at level t.
Orders of all samplers on a curved law are in test_integrator.py.
"""

import math

import pytest
import torch

import inverse
from inverse.errors import OptionError, UnknownNameError
from inverse.registry.discovery import registry
from inverse.sampling.samplers import ancestral, ddim, heun
from inverse.sampling.schedules import SCHEDULES, karras, log_uniform, schedule, vp_levels
from inverse.sampling.traits import traits

pytest_plugins = "cli_fixtures"
LOW, HIGH = 0.02, 50.0
every_schedule = pytest.mark.parametrize("name", SCHEDULES)


# --- schedules --------------------------------------------------------------------------------


@every_schedule
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_a_schedule_decreases_strictly_to_zero(name, steps):
    sigmas = schedule(name, steps, LOW, HIGH)
    assert sigmas.shape == (steps + 1,)
    assert (sigmas.diff() < 0).all()
    assert sigmas[-1] == 0


@every_schedule
def test_a_schedule_stays_within_its_range(name):
    """1e-12: the roots and logarithms of the ends, in float64."""
    sigmas = schedule(name, 50, LOW, HIGH)[:-1]
    assert sigmas.max() <= HIGH * (1 + 1e-12)
    assert sigmas.min() >= LOW * (1 - 1e-12)


@pytest.mark.parametrize("name", sorted(set(SCHEDULES) - {"vp"}))
def test_a_continuous_schedule_reaches_both_ends(name):
    sigmas = schedule(name, 50, LOW, HIGH)
    torch.testing.assert_close(
        sigmas[[0, -2]], torch.tensor([HIGH, LOW], dtype=torch.float64), rtol=1e-10, atol=0
    )


def test_karras_is_equation_5():
    i, n = 3, 10
    expected = (HIGH ** (1 / 7) + i / (n - 1) * (LOW ** (1 / 7) - HIGH ** (1 / 7))) ** 7
    assert karras(n, LOW, HIGH)[i].item() == pytest.approx(expected, rel=1e-12)


def test_log_uniform_has_a_constant_ratio():
    ratio = log_uniform(20, LOW, HIGH)[1:] / log_uniform(20, LOW, HIGH)[:-1]
    torch.testing.assert_close(
        ratio, torch.full_like(ratio, (LOW / HIGH) ** (1 / 19)), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize(
    ("t", "level"),
    [(1, 0.010), (10, 0.044), (100, 0.339), (250, 0.953), (500, 3.42), (750, 17.2), (1000, 157.4)],
)
def test_vp_levels_are_those_of_the_linear_process(t, level):
    """Values to the printed digits; t counts from 1."""
    assert vp_levels()[t - 1].item() == pytest.approx(level, rel=0.02 if t <= 10 else 0.004)


def test_a_vp_schedule_visits_levels_of_the_process_only():
    sigmas = schedule("vp", 50, LOW, HIGH)[:-1]
    assert torch.isin(sigmas, vp_levels()).all()


def test_a_vp_schedule_with_more_steps_than_levels_visits_none_twice():
    """A level visited twice makes a step of length zero, by which multistep samplers divide."""
    assert (schedule("vp", 2000, LOW, HIGH).diff() < 0).all()


def test_a_vp_schedule_without_levels_is_refused():
    with pytest.raises(OptionError, match="no two levels between"):
        schedule("vp", 2, 0.001, 0.005)


def test_an_unknown_schedule_suggests_the_closest():
    with pytest.raises(UnknownNameError, match="did you mean 'karras'"):
        schedule("karas", 10, LOW, HIGH)


def test_noise_levels_stay_within_those_the_prior_was_trained_for(gaussian_posterior):
    """conftest's prior is trusted in [0.01, 20]."""
    sigmas = inverse.noise_levels(gaussian_posterior(), "karras", 10)
    torch.testing.assert_close(
        sigmas[[0, -2]], torch.tensor([20.0, 0.01], dtype=torch.float64), rtol=1e-10, atol=0
    )


def test_noise_levels_start_where_a_prior_of_wide_data_says():
    """Standard deviations 100 and 1: the flow gives 99.5 and 1 from 1000, but 62.5 from 80.

    1 % for 1000 steps of first order.
    """
    prior = inverse.GaussianPrior(
        torch.zeros(2).double(), torch.tensor([1e4, 1.0]).double(), sigma_min=0.01, sigma_max=1000.0
    )
    posterior = inverse.Posterior(
        prior,
        inverse.measurement.operators.dense(torch.zeros(1, 2).double(), (2,)),
        torch.zeros(1, 1).double(),
        inverse.GaussianNoise(1.0),
    )
    for first, wide in ((None, 99.5), (80.0, 62.5)):
        sigmas = inverse.noise_levels(posterior, "log-uniform", 1000, sigma_max=first)
        end = last(ddim(prior, sigmas[0] * torch.eye(2).double(), sigmas, inverse.Generators([])))
        torch.testing.assert_close(
            end.diagonal(), torch.tensor([wide, 1.0]).double(), rtol=0.01, atol=0
        )


def test_noise_levels_in_the_wrong_order_are_refused(gaussian_posterior):
    with pytest.raises(OptionError, match="sigma_min < sigma_max"):
        inverse.noise_levels(gaussian_posterior(), "karras", 10, sigma_min=3.0, sigma_max=1.0)


# --- samplers on a Gaussian -------------------------------------------------------------------

MEAN = torch.tensor([0.7, -1.2, 0.3], dtype=torch.float64)
VARIANCES = torch.tensor([1.0, 0.05, 4.0], dtype=torch.float64)
PRIOR = inverse.GaussianPrior(MEAN, VARIANCES)


def last(iterates):
    *_, x = iterates
    return x


def affine_map(sampler, sigmas):
    """Where a deterministic sampler takes 0, and how much it stretches each eigenvector."""
    start = torch.cat([torch.zeros(1, 3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)])
    end = last(sampler(PRIOR, start, sigmas, inverse.Generators([])))
    return end[0], (end[1:] - end[0]).diagonal()


def error(sampler, steps):
    """Error of mean and standard deviation at level 0.1, from N(0, 400 I) at level 20."""
    sigmas = log_uniform(steps + 1, 0.1, 20.0)
    mean, stretch = affine_map(sampler, sigmas)
    exact = ((VARIANCES + 0.1**2) / (VARIANCES + 20.0**2)).sqrt()
    return torch.cat([mean - (MEAN - exact * MEAN), 20 * (stretch - exact)]).norm().item()


@pytest.mark.parametrize(("sampler", "order"), [(ddim, 1), (heun, 2)])
def test_mean_and_variance_converge_at_the_samplers_order(sampler, order):
    """Halving the step from 200 divides the error by 2^order; 0.1 for the next order's term."""
    assert math.log2(error(sampler, 200) / error(sampler, 400)) == pytest.approx(order, abs=0.1)


SAMPLERS = {name: entry.thing for name, entry in registry().table("inverse_samplers").items()}
DECLARED = {name: found for name, f in SAMPLERS.items() if (found := traits(f))}
DETERMINISTIC = [
    name
    for name, found in DECLARED.items()
    if not (
        found.stochastic or found.adaptive
    )  # an adaptive step depends on x: its map is not affine
]


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_every_deterministic_sampler_transports_noise_to_the_prior(name):
    """N(0, sigma_max^2 I) to N(m, C) with 500 steps.

    The error is m sqrt(c) / sigma_max and the sampler's, 1.3% at first order.
    """
    mean, stretch = affine_map(SAMPLERS[name], schedule("karras", 500, 0.002, 80.0))
    torch.testing.assert_close(mean, MEAN, rtol=0, atol=0.05)
    torch.testing.assert_close((80 * stretch).square(), VARIANCES, rtol=0.02, atol=0)


def test_ancestral_sampling_ends_in_the_prior():
    """20000 chains of 300 steps: within 4 standard errors and the first-order bias, 2%."""
    n = 20_000
    generator = inverse.seeded("chains")

    class OneStream(inverse.Generators):
        def randn_like(self, x):
            return torch.randn(x.shape, generator=generator, dtype=x.dtype)

    sigmas = schedule("log-uniform", 300, 0.01, 80.0)
    start = sigmas[0] * torch.randn(n, 3, generator=generator, dtype=torch.float64)
    x = last(ancestral(PRIOR, start, sigmas, OneStream([])))
    assert ((x.mean(0) - MEAN).abs() < 4 * (VARIANCES / n).sqrt() + 0.02 * MEAN.abs()).all()
    assert ((x.var(0) / VARIANCES - 1).abs() < 4 * (2 / n) ** 0.5 + 0.02).all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_last_step_is_the_denoised_image(name):
    """Into level 0 every sampler returns x0_hat: on a schedule of one step, D(x, sigma_max)."""
    x = 5 * torch.ones(2, 3, dtype=torch.float64)
    sigmas = torch.tensor([5.0, 0.0], dtype=torch.float64)
    generator = inverse.Generators.for_samples(0, 2, 1)
    torch.testing.assert_close(
        last(SAMPLERS[name](PRIOR, x, sigmas, generator)), PRIOR(x, sigmas[0]), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(
    "name", [name for name, found in DECLARED.items() if not (found.adaptive or found.spanning)]
)
def test_a_sampler_yields_one_iterate_a_step_and_does_not_write_into_its_start(name):
    x, sigmas = 20 * torch.ones(2, 3, dtype=torch.float64), schedule("karras", 7, 0.1, 20.0)
    iterates = list(SAMPLERS[name](PRIOR, x, sigmas, inverse.Generators.for_samples(0, 2, 1)))
    assert len(iterates) == 7
    assert (x == 20).all()


# --- guidance ---------------------------------------------------------------------------------

GUIDANCE = {
    name: entry.thing
    for name, entry in registry().table("inverse_methods").items()
    if issubclass(entry.thing, inverse.Guidance)
}


@pytest.mark.parametrize("name", GUIDANCE)
def test_a_guidance_takes_a_level_for_each_row(name, gaussian_posterior):
    """A batch whose rows have different levels equals batches of one level each."""
    posterior = gaussian_posterior("blur-circular", images=2)
    streams = lambda: inverse.Generators.for_samples(0, 2, 1)  # noqa: E731
    x, levels = posterior.truth + 0.3, torch.tensor([0.3, 2.0], dtype=torch.float64)
    together = GUIDANCE[name]().guide(posterior, streams())(x, levels.reshape(2, 1, 1, 1))
    for row, level in enumerate(levels):
        torch.testing.assert_close(
            together[row],
            GUIDANCE[name]().guide(posterior, streams())(x, level)[row],
            rtol=0,
            atol=1e-9,
        )


@pytest.mark.parametrize("name", GUIDANCE)
@pytest.mark.parametrize(
    "sampler",
    [
        "dpm-solver-23:rtol=0.1",
        "dpm-solver-fast",
        "ddim:eta=0.5,threshold=0.995,ceiling=2",
        "heun:s_churn=5",
    ],
)
def test_every_guidance_takes_every_kind_of_sampler(name, sampler, gaussian_posterior):
    """The samples explain y better than the prior's mean, and the record names the sampler."""
    posterior = gaussian_posterior("blur-circular", images=1, sigma_y=0.02)
    result = inverse.solve(posterior, inverse.get_method(name, sampler=sampler, steps=20))
    assert (
        posterior.residual(posterior.prior.encode(result.samples[:, 0])).norm()
        < posterior.residual(posterior.prior.mean[None]).norm() / 2
    )
    assert result.provenance["method"]["options"]["sampler"] == sampler


def test_the_command_lists_and_checks_the_options_of_samplers(command):
    rows = {line.split()[0]: line for line in command("samplers").out.splitlines() if line.strip()}
    assert "eta=0.0" in rows["ddim"]
    assert "s_tmax=inf" in rows["heun"]
    assert "threshold=0.0" in rows["all"]
    asked = ("solve", "--problem", "gaussian", "--method", "mmps", "--steps", "2", "--set")
    command(*asked, "sampler=ddim:etta=1").refused(
        "sampler 'ddim' has no option 'etta'; did you mean 'eta'?", "final_denoise"
    )
    command(*asked, "sampler=heun:s_churn=lots").refused("s_churn must be a number, got 'lots'")
    assert command(*asked, "sampler=ddim:eta=1,final-denoise=off").code == 0
