"""Fusion of a coarse field with stations, compared with the closed-form posterior.

The field is Gaussian and periodic; computations are in float64.
"""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import dense, draws, image_prior, matrix_operator, normal

import inverse
from inverse.analytic_start import amplified, analytic_start, fitted_amplitude
from inverse.errors import OptionError
from inverse.seeding import Generators
from inverse_problems.atmosphere.grid import Grid
from inverse_problems.atmosphere.operators import coarsen, sample

GLOBE = Grid.of(np.linspace(75, -75, 6), np.arange(0, 360, 30.0))
SHAPE = (1, 6, 12)
PLACES = (
    torch.tensor([71.0, 33.0, 12.0, -20.0, -62.0], dtype=torch.float64),
    torch.tensor([359.0, 100.0, 215.0, -8.0, 300.0], dtype=torch.float64),
)
SIGMA = {"coarse": 0.7, "stations": 0.5}


def field() -> inverse.GaussianPrior:
    """Standardised temperature around 280 K, stationary in longitude.

    Its correlation length is about two grid points.
    """
    rows = 0.7 ** (torch.arange(6)[:, None] - torch.arange(6)).abs().double()
    gap = torch.arange(12)
    columns = torch.stack([0.7 ** torch.minimum(gap, 12 - gap).double().roll(i) for i in range(12)])
    covariance = torch.kron(rows, 0.5 * (columns + columns.T)) + 0.02 * torch.eye(
        72, dtype=torch.float64
    )
    return inverse.GaussianPrior(
        0.3 * normal(*SHAPE, seed=5),
        covariance,
        shift=280.0,
        scale=3.0,
        sigma_min=0.01,
        sigma_max=30.0,
    )


def parts(turn: float = 0.0) -> dict:
    return {"coarse": coarsen(GLOBE, 3), "stations": sample(GLOBE, PLACES[0], PLACES[1] + turn)}


def measured(sigma=SIGMA, order=("coarse", "stations"), prior=None, truth=None):
    """A posterior of these modalities; the noise of each does not depend on their order."""
    prior = prior or field()
    truth = draws(prior, 1) if truth is None else truth
    each = {name: part for name, part in parts().items() if name in order}
    y = {
        name: part.A(truth).flatten(1)
        + SIGMA[name] * normal(1, part.A(truth).numel(), seed=len(name))
        for name, part in each.items()
    }
    operator = inverse.stack({name: each[name] for name in order}, SHAPE)
    noise = inverse.stacked_noise(operator, {name: sigma[name] for name in order})
    return inverse.Posterior(
        prior,
        operator,
        torch.cat([y[name] for name in order], 1)[:, None, None],
        noise,
        dtype=torch.float64,
    )


def exact(posterior):
    matrix = dense(posterior.operator, SHAPE)
    return posterior.prior.given(matrix, posterior.noise.sigma.flatten(), posterior.y.flatten())


def fused(posterior, samples=1, seed=0, **options):
    return posterior.prior.encode(
        inverse.solve(
            posterior, inverse.get_method("multimodal", **options), samples, seed
        ).samples[0]
    )


# --- the closed form ---------------------------------------------------------------------


def test_mmps_draws_from_the_joint_posterior():
    """Mean, variance and covariance of 400 draws.

    Tolerances: 5 % for a standard deviation; the squared error of the mean averages to 1 in units
    of its variance.
    """
    posterior, n = measured(), 400
    law, x = exact(posterior), fused(posterior, n, steps=30, tolerance=1e-4)
    variance = law.covariance.diagonal()
    error = (x.mean(0) - law.mean).flatten() / (variance / n).sqrt()
    assert float(error.square().mean()) < 2
    ratio = x.var(0).flatten() / variance
    assert abs(float(ratio.mean()) - 1) < 0.05
    assert float((torch.cov(x.flatten(1).T) - law.covariance).norm() / law.covariance.norm()) < 0.3


def test_two_modalities_reduce_the_variance_of_either():
    """The closed-form total variance falls with each modality, and so does that of the samples."""
    total = {
        order: float(exact(measured(order=order)).covariance.trace())
        for order in (("coarse",), ("stations",), ("coarse", "stations"))
    }
    assert total["coarse", "stations"] < 0.95 * min(total[("coarse",)], total[("stations",)])
    spread = {
        order: float(fused(measured(order=order), 100, steps=20).var(0).sum()) for order in total
    }
    assert all(spread[order] == pytest.approx(total[order], rel=0.15) for order in total)


def scalar_law(
    gamma: float, c: float, R: float, y: float, sigmas: np.ndarray
) -> tuple[float, float]:
    """Mean and variance at the end of the probability-flow ODE of sda, for scalars.

    x ~ N(0, c) and y = x + N(0, R). The ODE is linear; it is solved with the midpoint rule.
    """
    a, b = 1.0, 0.0
    for u, v in pairwise(np.geomspace(*sigmas, 20_001)):
        m = (u + v) / 2
        J, R_m = (
            c / (c + m * m),
            R + gamma * m * m,
        )  # slope (x - D) / s - s J (y - D) / (R + gamma s^2), D = J x
        slope = (1 - J) / m + m * J * J / R_m
        a = a * np.exp((v - u) * slope)
        b = b * np.exp((v - u) * slope) - (v - u) * m * J * y / R_m * np.exp((v - u) * slope / 2)
    return b, a * a * sigmas[0] ** 2


@pytest.mark.parametrize(("gamma", "shift", "share"), [(0.01, 0.346, 0.135), (0.3, -0.045, 0.764)])
def test_sda_has_the_bias_of_its_ode(gamma, shift, share):
    """x ~ N(0, 1), R = 0.25 and y = 1, so that the posterior is N(0.8, 0.2).

    The exact gamma is 1 / (1 + sigma^2); a constant gamma is exact at a single noise level.
    """
    prior = inverse.GaussianPrior(
        torch.zeros(1, 1, 4000, dtype=torch.float64),
        torch.tensor([1.0], dtype=torch.float64),
        sigma_min=0.01,
        sigma_max=30.0,
    )
    operator = inverse.operator(lambda x: 1.0 * x, shape=(1, 1, 4000))
    y = torch.ones(1, 1, 1, 4000, dtype=torch.float64)
    posterior = inverse.Posterior(
        prior, operator, y, inverse.GaussianNoise(0.5), dtype=torch.float64
    )
    x = fused(posterior, guidance="sda", gamma=f"{gamma}", steps=400, sigma_min=0.01)
    mean, variance = scalar_law(gamma, 1.0, 0.25, 1.0, np.array([30.0, 0.01]))
    assert float(x.mean()) == pytest.approx(mean, abs=0.01)
    assert float(x.var()) == pytest.approx(variance, rel=0.1)
    assert (mean - 0.8, variance / 0.2) == (
        pytest.approx(shift, abs=0.005),
        pytest.approx(share, abs=0.005),
    )


def test_mmps_is_unbiased():
    prior = inverse.GaussianPrior(
        torch.zeros(1, 1, 4000, dtype=torch.float64),
        torch.tensor([1.0], dtype=torch.float64),
        sigma_min=0.01,
        sigma_max=30.0,
    )
    operator = inverse.operator(lambda x: 1.0 * x, shape=(1, 1, 4000))
    posterior = inverse.Posterior(
        prior,
        operator,
        torch.ones(1, 1, 1, 4000, dtype=torch.float64),
        inverse.GaussianNoise(0.5),
        dtype=torch.float64,
    )
    x = fused(posterior, steps=60)
    assert float(x.mean()) == pytest.approx(0.8, abs=0.02)
    assert float(x.var()) == pytest.approx(0.2, rel=0.07)


# --- invariances ------------------------------------------------------------------------


@pytest.mark.parametrize(("guidance", "options"), [("mmps", {}), ("pigdm", {"step": "score"})])
def test_one_modality_equals_the_linear_method_bit_by_bit(guidance, options):
    posterior = measured(order=("coarse",))
    alone = inverse.get_method(guidance, steps=12, **options)
    settings = {"steps": 12, "sampler": alone.sampler, "schedule": alone.schedule}
    expected = inverse.solve(posterior, alone, 3).samples
    assert torch.equal(
        inverse.solve(
            posterior, inverse.get_method("multimodal", guidance=guidance, **settings), 3
        ).samples,
        expected,
    )


def test_one_modality_with_dps_equals_dps_with_score_steps():
    """Levels and noise are equal; the order of the additions differs."""
    posterior = measured(order=("stations",))
    zeta = posterior.y.numel() ** 0.5 * posterior.prior.scale / SIGMA["stations"]
    expected = inverse.solve(
        posterior, inverse.get_method("dps", step="score", zeta=zeta, steps=30), 2
    ).samples
    found = inverse.solve(
        posterior,
        inverse.get_method(
            "multimodal", guidance="dps", sampler="ancestral", schedule="vp", steps=30
        ),
        2,
    ).samples
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


GUIDANCES = {"mmps": {"tolerance": 1e-10, "iterations": 60}, "pigdm": {}, "sda": {}, "dps": {}}


def with_tight_tolerance(posterior):
    """The posterior with a with_tight_tolerance tolerance for the linear solve of pigdm."""
    posterior.execution = dataclasses.replace(posterior.execution, solver=inverse.CG(1e-12, 200))
    return posterior


@pytest.mark.parametrize("guidance", GUIDANCES)
def test_the_order_of_modalities_does_not_matter(guidance):
    a, b = (
        with_tight_tolerance(measured(order=order))
        for order in (("coarse", "stations"), ("stations", "coarse"))
    )
    options = {"guidance": guidance, "steps": 20, **GUIDANCES[guidance]}
    torch.testing.assert_close(fused(a, 2, **options), fused(b, 2, **options), rtol=0, atol=1e-7)


@pytest.mark.parametrize("guidance", ["mmps", "pigdm", "sda"])
def test_a_modality_with_infinite_noise_has_no_effect(guidance):
    vague = with_tight_tolerance(measured({"coarse": 0.7, "stations": 1e8}))
    without = with_tight_tolerance(measured(order=("coarse",)))
    options = {"guidance": guidance, "steps": 20, **GUIDANCES[guidance]}
    torch.testing.assert_close(
        fused(vague, 2, **options), fused(without, 2, **options), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("guidance", ["mmps", "pigdm", "sda"])
def test_a_weight_is_a_power_of_the_likelihood(guidance):
    """A weight of 1/4 equals twice the noise.

    The variance of sda has another term, so its gamma is four times as large.
    """
    half = {name: 2 * sigma if name == "stations" else sigma for name, sigma in SIGMA.items()}
    options = {"guidance": guidance, "steps": 20, **GUIDANCES[guidance]}
    with_noise = options | ({"gamma": "coarse:0.01,stations:0.04"} if guidance == "sda" else {})
    tempered = fused(with_tight_tolerance(measured()), 2, weights="stations:0.25", **options)
    noisier = fused(with_tight_tolerance(measured(half)), 2, **with_noise)
    torch.testing.assert_close(tempered, noisier, rtol=0, atol=1e-7)


@pytest.mark.parametrize("guidance", GUIDANCES)
def test_rolling_longitude_rolls_the_output(guidance):
    """Field, stations and noise rotated by 90 degrees rotate the samples.

    The denoiser is the same at every longitude.
    """
    flat = inverse.GaussianPrior(
        torch.zeros(SHAPE, dtype=torch.float64),
        field().covariance,
        shift=280.0,
        scale=3.0,
        sigma_min=0.01,
        sigma_max=30.0,
    )
    turned = [inverse.stack(parts(90.0 * k), SHAPE) for k in (0, 1)]
    truth, noise = draws(flat, 1), inverse.stacked_noise(turned[0], SIGMA)
    clean = turned[0].A(truth)
    y = clean + noise.sigma * normal(*clean.shape, seed=9)
    rolled = torch.cat([y[..., :8].unflatten(-1, (2, 4)).roll(1, -1).flatten(-2), y[..., 8:]], -1)
    method = inverse.get_method(
        "multimodal", guidance=guidance, steps=20, sampler="heun", **GUIDANCES[guidance]
    )
    answers = []
    for operator, observed, shift in zip(turned, (y, rolled), (0, 3), strict=True):
        posterior = with_tight_tolerance(
            inverse.Posterior(flat, operator, observed, noise, dtype=torch.float64)
        )
        generator = inverse.Generators.for_samples(0, 1, 1)
        with torch.no_grad():
            x, sigmas = method.begin(posterior, generator)
            *_, last = inverse.get_sampler("heun")(
                lambda x, sigma, p=posterior: method.denoise(p, x, sigma),
                x.roll(shift, -1),
                sigmas,
                generator,
            )
        answers.append(last)
    torch.testing.assert_close(answers[1], answers[0].roll(3, -1), rtol=0, atol=1e-6)


# --- the published settings -------------------------------------------------------------------


def test_the_preset_sets_options_left_at_their_defaults():
    method = inverse.get_method("multimodal", preset="published", steps=10)
    assert (
        method.guidance,
        method.steps,
        method.sigma_min,
        method.sigma_max,
        method.corrected,
        method.clamp,
    ) == ("sda", 10, 0.001, 80.0, True, None)
    assert method.derived(measured()) == {"weight_coarse": 1.0, "weight_stations": 0.25}
    assert method.derived(measured(order=("stations",))) == {"weight_stations": 1.0}


def test_the_published_slope_follows_its_formula():
    """Residuals are averaged over the stations and summed over the coarse field."""
    posterior, sigma = measured(), torch.tensor(0.8, dtype=torch.float64)
    x, law = normal(1, *SHAPE, seed=3), posterior.prior
    x0_hat, score = inverse.get_method("multimodal", preset="published").likelihood(
        posterior, x, sigma
    )
    H = dense(posterior.operator, SHAPE)
    J = law.covariance @ torch.linalg.inv(
        law.covariance + 0.64 * torch.eye(72, dtype=torch.float64)
    )
    D = law.mean.flatten() + J @ (x.flatten() - law.mean.flatten())
    r = (posterior.y.flatten() - H @ (280 + 3 * D)) / 3
    expected = sum(
        weight * J.T @ H[part].T @ r[part] / (size * (std**2 + gamma * 0.64))
        for part, weight, size, std, gamma in (
            (slice(0, 8), 1.0, 1, 0.1, 5e-3),
            (slice(8, 13), 0.25, 5, 5e-4, 2e-6),
        )
    )
    torch.testing.assert_close(x0_hat.flatten(), D, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        score.flatten(), expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max())
    )


def test_the_published_step_costs_two_evaluations_and_one_gradient():
    cost = inverse.solve(
        measured(), inverse.get_method("multimodal", preset="published", clamp=1.0, steps=10)
    ).cost
    assert (cost.nfe, cost.vjp) == (19, 9)


def test_without_a_likelihood_the_published_step_is_heun():
    """The slope of the likelihood vanishes with the weights."""
    posterior = measured()
    free = fused(posterior, guidance="sda", corrected=True, weights="1e-14", steps=15)
    plain = fused(posterior, guidance="sda", sampler="heun", weights="1e-14", steps=15)
    torch.testing.assert_close(free, plain, rtol=0, atol=1e-8)


def test_the_clamp_bounds_the_slope_and_counts():
    posterior, sigma = measured(), torch.tensor(2.0, dtype=torch.float64)
    x, trace = 3 * normal(1, *SHAPE, seed=3), []
    slope = inverse.get_method("multimodal", preset="published").likelihood(posterior, x, sigma)[1]
    median = float(slope.abs().median())
    clamped = inverse.get_method("multimodal", preset="published", clamp=median).likelihood(
        posterior, x, sigma, trace
    )[1]
    assert torch.equal(clamped, slope.clamp(-median, median))
    assert trace == [{"sigma": 2.0, "saturated": 0.5}]


def test_the_result_records_the_saturated_fraction():
    result = inverse.solve(
        measured(), inverse.get_method("multimodal", preset="published", clamp=1.0, steps=10)
    )
    assert result.provenance["trace"][0]["sigma"] == pytest.approx(80.0)
    assert len(result.provenance["trace"]) == 9
    assert result.log_weights is None


# --- amplitude and inflation ---------------------------------------------------


def scaled(law, scale):
    return inverse.GaussianPrior(law.mean, scale**2 * law.covariance, **law.units)


def test_the_amplitude_is_the_most_probable_one_for_each_measurement():
    """Truths have anomalies half and twice as large; the grid of amplitudes has a step of 1.2 %."""
    law = field()
    for factor in (0.5, 2.0):
        posterior = measured(truth=draws(scaled(law, factor), 1))
        H = dense(posterior.operator, SHAPE)
        sigma = posterior.noise.sigma.flatten()
        y = posterior.y.flatten()
        tried = torch.logspace(-0.5, 0.5, 4001, dtype=torch.float64)
        best = tried[
            torch.stack(
                [scaled(law, float(s)).log_evidence(H, sigma, y) for s in tried[::10]]
            ).argmax()
            * 10
        ]
        assert float(fitted_amplitude(posterior)) == pytest.approx(float(best), rel=0.02)


def test_the_amplitude_is_recovered_from_many_truths():
    """Geometric mean over 300 truths with anomalies 1.5 times as large.

    The 13 measurements of a truth determine the logarithm to 0.2, with a bias of -0.04.
    """
    law = field()
    truth = draws(scaled(law, 1.5), 300)
    one = measured(truth=truth[:1])
    y = one.operator.A(truth) + one.noise.sigma * normal(300, one.y.numel(), seed=8)[:, None, None]
    many = inverse.Posterior(law, one.operator, y, one.noise, dtype=torch.float64)
    assert float(fitted_amplitude(many).log().mean().exp()) == pytest.approx(1.5, rel=0.08)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_amplified_is_the_posterior_of_the_wider_law(factor):
    """Denoiser, Jacobian, analytic start and mmps mean equal those of the wider law."""
    law, one = field(), measured(truth=draws(scaled(field(), factor), 1))
    wide = amplified(one)
    own = scaled(law, float(fitted_amplitude(one)))
    x, sigma = draws(law, 2, seed=3), torch.tensor([0.4, 3.0], dtype=torch.float64)
    x0_hat, vjp = wide.tweedie(x, sigma)
    torch.testing.assert_close(x0_hat, own(x, sigma))
    given = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(own(given, sigma), given, torch.ones_like(x))
    torch.testing.assert_close(vjp(torch.ones_like(x)), gradient)
    method = inverse.get_method("multimodal", amplitude="evidence", tolerance=1e-12, iterations=200)
    far = torch.tensor(300.0, dtype=torch.float64)
    exactly = inverse.Posterior(own, one.operator, one.y, one.noise, dtype=torch.float64)
    seen = method.denoise(wide, law.mean.expand(1, *SHAPE), far)
    torch.testing.assert_close(seen[0], exact(exactly).mean, rtol=0, atol=1e-3)
    starts = [
        analytic_start(p.rows(1), 0.0, Generators.for_samples(0, 1, 1)) for p in (wide, exactly)
    ]
    # conjugate gradients stop at 1e-5
    torch.testing.assert_close(*starts, rtol=0, atol=1e-4)


def test_each_image_of_a_batch_has_its_own_amplitude():
    law, truths = field(), [draws(scaled(field(), factor), 1) for factor in (0.5, 2.0)]
    method = inverse.get_method("multimodal", amplitude="evidence", steps=3)
    parts = [measured(truth=truth) for truth in truths]
    y = torch.cat([part.y for part in parts])
    both = inverse.Posterior(law, parts[0].operator, y, parts[0].noise, dtype=torch.float64)
    together = inverse.solve(both, method, 2)
    for i, part in enumerate(parts):
        alone = inverse.solve(part, method, 2, first_image=i)
        torch.testing.assert_close(together.samples[i], alone.samples[0], rtol=0, atol=1e-9)


def test_the_result_records_the_amplitude():
    posterior = measured(truth=draws(scaled(field(), 2.0), 1))
    result = inverse.solve(
        posterior, inverse.get_method("multimodal", amplitude="evidence", steps=2), 2
    )
    assert result.provenance["method"]["derived"]["amplitude"] == pytest.approx(
        float(fitted_amplitude(posterior))
    )


def test_inflation_moves_members_away_from_their_mean():
    plain, inflated = (fused(measured(), samples=5, steps=4, inflation=a) for a in (1.0, 1.3))
    torch.testing.assert_close(inflated.mean(0), plain.mean(0))
    torch.testing.assert_close(inflated - inflated.mean(0), 1.3 * (plain - plain.mean(0)))


# --- options and other posteriors -------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": "stations:0"}, "weights must be positive"),
        ({"weights": "stations:much"}, "name:number"),
        ({"gamma": "-1"}, "gamma must be at least 0"),
        ({"clamp": 0.0}, "must be positive"),
        ({"inflation": 0.0}, "inflation"),
        ({"iterations": 0}, "iterations"),
    ],
)
def test_impossible_options_are_refused(options, words):
    with pytest.raises(OptionError, match=words):
        inverse.get_method("multimodal", **options)


def test_an_unknown_modality_in_the_weights_is_named():
    with pytest.raises(
        OptionError, match="'satellite' is not measured here; measured: coarse, stations"
    ):
        inverse.solve(measured(), inverse.get_method("multimodal", weights="satellite:2"))


@pytest.mark.parametrize(
    "name", ["mmps", "pigdm", "dps", "daps", "tmpd", "langevin", "pseudo-inverse", "afdps"]
)
def test_other_methods_run_on_stacked_modalities(name):
    method = inverse.get_method(name)
    short = dataclasses.replace(method, steps=4) if hasattr(method, "steps") else method
    assert torch.isfinite(inverse.solve(measured(), short, 2).samples).all()


def test_linear_solves_are_scaled_by_unequal_noise():
    """(A S A^T + R)^-1 v compared with the dense matrix, with R over eight decades.

    Unscaled conjugate gradients would converge only in the largest entries.
    """
    prior, matrix = image_prior(2, 2), normal(9, 12, seed=4)
    sigma = torch.logspace(-4, 4, 9, dtype=torch.float64).reshape(1, 1, 9)
    operator = matrix_operator(matrix, (3, 2, 2))
    operator = inverse.stack({"y": operator}, (3, 2, 2))
    posterior = inverse.Posterior(
        prior, operator, normal(1, 1, 1, 9), inverse.GaussianNoise(sigma), dtype=torch.float64
    )
    v = normal(1, 1, 1, 9, seed=6)
    exact = torch.linalg.solve(
        0.25 * 0.3 * matrix @ matrix.T + torch.diag(sigma.flatten() ** 2), v.flatten()
    )
    found = posterior.solve_normal(v, 0.3, settings=inverse.CG(1e-12, 200)).flatten()
    torch.testing.assert_close(
        found * sigma.flatten(), exact * sigma.flatten(), rtol=1e-6, atol=1e-8
    )
