"""Gaussians times a tempered likelihood, and Langevin steps on them, against dense algebra."""

import math

import pytest
import torch
from conftest import dense, image_prior, normal, problems

import inverse
from inverse.particles import tempered_likelihood as tilted
from inverse.particles.tempered_likelihood import TemperedLikelihood, lanczos
from inverse.sampling.langevin import adjusted_langevin, langevin
from inverse.seeding import SharedStream

SHAPE = (3, 8, 8)


@pytest.fixture(params=["blur", "blur-circular", "inpainting"])
def posterior(request):
    prior = image_prior()
    return problems()[request.param].posterior(
        normal(2, *SHAPE).sigmoid(), prior=prior, dtype=torch.float64
    )


def precision(posterior):
    """H = A^T R^-1 A in model units, and A^T R^-1 (y - A 0) of the first row."""
    A = posterior.prior.scale * dense(posterior.operator, SHAPE)
    r = (
        posterior.y
        - posterior.operator.A(posterior.prior.decode(torch.zeros(1, *SHAPE, dtype=torch.float64)))
    ).flatten(1)[0]
    return A.T @ A / posterior.sigma_y**2, A.T @ r / posterior.sigma_y**2, r


@pytest.mark.parametrize("power", [1.0, 0.3])
def test_the_mass_is_that_of_a_gaussian(posterior, power):
    """log N(y; A z, R + V A A^T) to the power, from the dense matrices."""
    z, variance = normal(2, *SHAPE), 0.7
    A = posterior.prior.scale * dense(posterior.operator, SHAPE)
    seen = A.abs().sum(1) > 0
    A, r, m = A[seen], posterior.residual(z).flatten(1)[0][seen], int(seen.sum())
    R = torch.eye(m, dtype=torch.float64) * posterior.sigma_y**2
    tempered = torch.distributions.MultivariateNormal(
        torch.zeros(m, dtype=torch.float64), variance * A @ A.T + R / power
    )
    scale = 0.5 * m * (1 - power) * math.log(
        2 * math.pi * posterior.sigma_y**2
    ) - 0.5 * m * math.log(power)
    torch.testing.assert_close(
        TemperedLikelihood(posterior).log_mass(z, variance, power)[0],
        tempered.log_prob(r) + scale,
        rtol=1e-6,
        atol=1e-6,
    )


def test_a_mass_without_variance_is_the_likelihood(posterior):
    z = normal(2, *SHAPE)
    torch.testing.assert_close(
        TemperedLikelihood(posterior).log_mass(z, 0.0, 0.4), 0.4 * posterior.log_likelihood(z)
    )


def test_draws_have_the_mean_and_covariance_of_the_product(posterior):
    """1000 draws along 5 directions: mean within 4 standard errors, variance 4 sqrt(2 / 1000)."""
    many, variance, power = posterior.rows(500), 0.7, 0.3
    many.y = posterior.y[:1].expand(1000, *posterior.y.shape[1:])
    x = (
        TemperedLikelihood(many)
        .draw(
            torch.zeros(1000, *SHAPE, dtype=torch.float64),
            variance,
            power,
            SharedStream(inverse.seeded("tilt"), 1000),
        )
        .flatten(1)
    )
    H, Ar, _ = precision(posterior)
    C = torch.linalg.inv(power * H + torch.eye(192, dtype=torch.float64) / variance)
    directions = torch.cat([normal(192, 3), torch.linalg.eigh(H)[1][:, [-1, -20]]], 1)
    expected, spread = directions.T @ (power * C @ Ar), ((directions.T @ C) * directions.T).sum(1)
    found = x @ directions
    assert ((found.mean(0) - expected).abs() < 4 * (spread / 1000).sqrt()).all()
    assert ((found.var(0) / spread - 1).abs() < 4 * (2 / 1000) ** 0.5).all()


def test_the_spectrum_is_that_of_the_dense_matrix(posterior):
    H, _, _ = precision(posterior)
    torch.testing.assert_close(TemperedLikelihood(posterior).trace(lambda h: h), float(H.trace()))
    torch.testing.assert_close(
        TemperedLikelihood(posterior).curvature, float(torch.linalg.eigvalsh(H)[-1])
    )


def test_the_quadrature_agrees_with_the_dense_spectrum(posterior, monkeypatch):
    """log det (1 + 0.3 H) from one probe of 192 entries.

    Within 4 sqrt(2 / 192) of the largest term of an entry.
    """
    exact = TemperedLikelihood(posterior).trace(lambda h: (0.3 * h).log1p())
    monkeypatch.setattr(tilted, "DENSE", 0)
    probed = TemperedLikelihood(posterior)
    assert abs(probed.trace(lambda h: (0.3 * h).log1p()) / exact - 1) < 4 * (2 / 192) ** 0.5
    assert probed.curvature == pytest.approx(TemperedLikelihood(posterior).curvature, rel=1e-3)


def test_lanczos_integrates_polynomials_exactly():
    M = normal(12, 12)
    M, v = M @ M.T, normal(12, seed=1)
    nodes, weights = lanczos(lambda u: M @ u, v, steps=4)
    for power in range(8):
        exact = v @ torch.linalg.matrix_power(M, power) @ v / (v @ v)
        torch.testing.assert_close((weights * nodes**power).sum(), exact, rtol=1e-9, atol=0)


def test_lanczos_stops_in_an_invariant_subspace():
    nodes, weights = lanczos(lambda u: 3 * u, normal(12))
    torch.testing.assert_close(nodes, torch.tensor([3.0], dtype=torch.float64))
    torch.testing.assert_close(weights, torch.ones(1, dtype=torch.float64))


# --- Langevin ---------------------------------------------------------------------------------

COUNT, STEP = 20_000, 0.3


def gaussian_parts():
    """p = N(0, 1), L = exp(-x^2), so that p L = N(0, 1/3)."""
    return lambda x: -x, lambda x: -2 * x, lambda x: -(x[:, 0] ** 2)


def test_unadjusted_langevin_has_its_known_bias():
    """x' = (1 - 3h) x + sqrt(2h) z has the stationary variance 1 / (3 (1 - 3h / 2)).

    Within 4 standard errors.
    """
    score, gradient, _ = gaussian_parts()
    x = langevin(
        normal(COUNT, 1), STEP, 40, score, gradient, SharedStream(inverse.seeded("ula"), COUNT)
    )
    expected = 1 / (3 * (1 - 1.5 * STEP))
    assert abs(float(x.var()) / expected - 1) < 4 * (2 / COUNT) ** 0.5


def test_adjusted_langevin_has_no_bias():
    score, gradient, log_factor = gaussian_parts()
    x = adjusted_langevin(
        normal(COUNT, 1),
        STEP,
        40,
        score,
        gradient,
        log_factor,
        SharedStream(inverse.seeded("mala"), COUNT),
    )
    assert abs(float(x.var()) * 3 - 1) < 4 * (2 / COUNT) ** 0.5


def test_adjusted_langevin_rejects_nan():
    score, gradient, _ = gaussian_parts()
    start, streams = normal(10, 1), SharedStream(inverse.seeded(0), 10)
    moved = adjusted_langevin(
        start,
        STEP,
        3,
        score,
        gradient,
        lambda x: torch.where(x == start, 0.0, math.nan)[:, 0],
        streams,
    )
    assert torch.equal(moved, start)


def test_a_tempered_likelihood_needs_a_linear_operator():
    saturating = inverse.operator(torch.tanh, shape=SHAPE, linear=False)
    posterior = inverse.Posterior(
        image_prior(),
        saturating,
        normal(1, *SHAPE),
        inverse.GaussianNoise(0.1),
        dtype=torch.float64,
    )
    with pytest.raises(inverse.InverseError, match="a tempered likelihood needs a linear operator"):
        TemperedLikelihood(posterior)
