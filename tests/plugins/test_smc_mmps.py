"""SMC-MMPS against closed forms: the law, the masses of modes, the evidence."""

import math

import pytest
import torch

import inverse
from inverse.checks import distances
from inverse.particles import cloud as smc
from inverse.seeding import seeded

pytest_plugins = "cli_fixtures"

PARTICLES = 1000


def run(problem, samples=PARTICLES, seed=0, **options):
    posterior = problem.posterior(0, dtype=torch.float64)
    method = inverse.get_method("smc-mmps", **options)
    return inverse.solve(posterior, method, samples=samples, seed=seed), problem.exact(
        posterior.y[0]
    )


def moments(result):
    x, w = result.samples[0].flatten(1), result.weights[0].double()[:, None]
    mean = (w * x).sum(0)
    return mean, ((x - mean).T * w[:, 0]) @ (x - mean)


def size(result):
    return float(1 / result.weights.square().sum())


@pytest.mark.parametrize("view", ["inpainting", "random"])
@pytest.mark.parametrize("explicit", [0, 8])
def test_a_gaussian_posterior_and_its_evidence(view, explicit):
    """Weights stay nearly equal: only the chain's discretisation changes them."""
    problem = inverse.get_problem("gaussian", side=3, view=view)
    result, exact = run(problem, explicit=explicit, steps=60)
    mean, covariance = moments(result)
    n = size(result)
    assert n > 0.4 * PARTICLES
    assert (
        float(
            ((mean - exact.mean.flatten()) / (exact.covariance.diagonal() / n).sqrt()).abs().max()
        )
        < 4
    )
    distance = distances.gaussian_w2(
        mean, covariance, exact.mean.flatten(), exact.covariance
    ) / float(exact.covariance.trace().sqrt())
    assert distance < 3 * math.sqrt(9 / (4 * n)) + 0.05
    assert float(result.log_evidence[0]) == pytest.approx(exact.log_evidence, abs=0.15)


def test_both_modes_keep_their_mass_where_a_point_estimate_sees_one():
    problem = inverse.get_problem("bimodal", mass=0.3)
    result, exact = run(problem)
    x, w = result.samples[0].flatten(1), result.weights[0].double()
    right = float((w * (x[:, 0] > 0)).sum())
    assert right == pytest.approx(0.3, abs=0.05)
    assert float(result.log_evidence[0]) == pytest.approx(exact.log_evidence, abs=0.1)


@pytest.mark.parametrize("options", [{}, {"final": "metropolis"}, {"power": 0.5}, {"islands": 2}])
def test_a_mixture_within_twice_its_floor(options):
    """A cell of the published mixture experiment, where the published method is ten floors away."""
    problem = inverse.get_problem("mixture", d=8, d_y=4, instance=1)
    result, exact = run(problem, **options)
    x = result.samples[0].flatten(1)
    at = torch.searchsorted(
        result.weights[0].double().cumsum(0), (torch.arange(PARTICLES) + 0.5) / PARTICLES
    ).clamp_max(PARTICLES - 1)
    reference, other = (exact.sample(PARTICLES, seeded("exact", k)).flatten(1) for k in (0, 1))
    floor = distances.sliced_wasserstein(other, reference, seeded("slices"))
    assert distances.sliced_wasserstein(x[at], reference, seeded("slices")) < 2 * floor
    if options.get("final") == "metropolis":
        assert torch.equal(result.weights[0], result.weights[0].flip(0))


def test_the_two_forms_of_the_twist_agree_where_the_solver_is_exact():
    problem = inverse.get_problem("mixture", d=8, d_y=4)
    rows = problem.posterior(0, dtype=torch.float64).rows(5)
    x = 0.5 * torch.randn(5, *rows.shape, generator=seeded(0), dtype=torch.float64)
    few, many = (inverse.get_method("smc-mmps", explicit=e, tolerance=1e-12) for e in (8, 0))
    a, b = few.twist(rows, x, torch.tensor(0.3)), many.twist(rows, x, torch.tensor(0.3))
    torch.testing.assert_close(a[0], b[0])
    torch.testing.assert_close(a[1], b[1], rtol=1e-8, atol=1e-10)


def cloud(log_weights):
    n = len(log_weights)
    made = smc.Cloud(
        torch.arange(n, dtype=torch.float64)[:, None],
        smc.CloudGenerators([seeded("cloud")]),
        ess_threshold=1.0,
    )
    made.reweight(log_weights, 1.0)
    return made


def test_metropolis_turns_weights_into_frequencies():
    W = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64).repeat_interleave(2500) / 2500
    made = cloud(W.log())
    smc.metropolis(made)
    shares = (made.x[:, 0] // 2500).long().bincount(minlength=4) / 10000
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.15, 0.05]), rtol=0, atol=0.02)
    assert torch.allclose(made.log_weights, torch.tensor(1e-4, dtype=torch.float64).log())


@pytest.mark.parametrize("power", [0.25, 0.5, 1.0])
def test_partial_resampling_keeps_expectations_and_evidence(power):
    """Weighted mean of f and mean of the evidence over repeats, against the weights before."""
    log_weights = torch.randn(20, generator=seeded("w"), dtype=torch.float64)
    streams, means, evidence = seeded("repeats"), [], []
    before = cloud(log_weights)
    truth = float((before.log_weights.exp()[0] * before.x[:, 0]).sum())
    for _ in range(2000):
        made = cloud(log_weights)
        made.generator = smc.CloudGenerators([streams])
        made.resample(power)
        growth = float((made.log_evidence - before.log_evidence).exp())
        means.append(growth * float((made.log_weights.exp()[0] * made.x[:, 0]).sum()))
        evidence.append(growth)
    for values, expected in ((means, truth), (evidence, 1.0)):
        values = torch.tensor(values, dtype=torch.float64)
        assert (
            float((values.mean() - expected).abs())
            < 4 * float(values.std()) / math.sqrt(2000) + 1e-12
        )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"power": 0.0}, "power must be positive and at most 1"),
        ({"iterations": 0}, "iterations must be"),
        ({"particles": 1}, "at least 2"),
        ({"ess_threshold": 0.0}, "ess_threshold must be positive and at most 1"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(inverse.InverseError, match=words):
        inverse.get_method("smc-mmps", **options)


def test_the_command_reports_the_ensembles_size_and_evidence(command):
    done = command(
        "solve", "--problem", "bimodal", "--method", "smc-mmps", "--samples", 20, "--steps", 10
    )
    assert done.code == 0
    assert "effective sample size" in done.out
    assert "log p(y) = " in done.out


def test_the_first_level_covers_an_exact_law_of_wide_spread():
    """The mixture deviates by 7 in its widest direction, and its levels end at 14."""
    law = inverse.get_problem("mixture", d=80).law()
    draws = law.sample(2000, torch.Generator().manual_seed(0))
    widest = float(torch.linalg.svdvals(draws)[0]) / len(draws) ** 0.5
    assert law.covering_level == pytest.approx(5 * widest, rel=0.05)
    assert law.covering_level > 2 * law.sigma_max
    small = inverse.get_problem("mixture", d=8).law()
    assert small.covering_level == small.sigma_max
