"""Trajectories: the Gaussian of consecutive hours, and compositions of windows.

References are the dense Gaussian and a Kalman smoother.
"""

from __future__ import annotations

import itertools

import pytest
import torch

import inverse
from inverse.analytic_start import analytic_start
from inverse.errors import OptionError
from inverse.priors.analytic import GaussianPrior, LowRankPrior
from inverse_problems.atmosphere.trajectory import ComposedPrior, TrajectoryPrior, fit_persistence

F64 = torch.float64


def hour(n=12, r=4, seed=0):
    """The law of a field (1, 3, 4)."""
    generator = inverse.seeded("hour", seed)
    basis, _ = torch.linalg.qr(torch.randn(n, r, generator=generator, dtype=F64))
    mean = torch.randn(1, 3, n // 3, generator=generator, dtype=F64)
    return LowRankPrior(
        mean,
        basis,
        torch.tensor([4.0, 2.0, 1.0, 0.5], dtype=F64),
        torch.tensor(0.2, dtype=F64),
        shift=280.0,
        scale=2.0,
    )


RHO = torch.tensor([0.95, 0.9, 0.7, 0.5, 0.3], dtype=F64)


def dense(law):
    """The dense Gaussian of a trajectory."""
    one, hours = law.hour, law.hours
    lag = (torch.arange(hours)[:, None] - torch.arange(hours)).abs()
    projections = [
        *[torch.outer(q, q) for q in one.basis.T],
        torch.eye(12, dtype=F64) - one.basis @ one.basis.T,
    ]
    levels = torch.cat([one.variances, one.floor[None]])
    C = sum(
        torch.kron(v * rho**lag, P)
        for v, rho, P in zip(levels, law.persistence, projections, strict=True)
    )
    return GaussianPrior(one.mean.repeat(hours, 1, 1), C)


@pytest.mark.parametrize("hours", [1, 2, 5])
def test_a_trajectory_matches_the_dense_gaussian(hours):
    law = TrajectoryPrior(hour(), RHO, hours)
    other = dense(law)
    x = law.sample(3, inverse.seeded(0)) + 0.3
    sigma = torch.tensor([0.05, 0.7, 9.0], dtype=F64)
    torch.testing.assert_close(law.covariance, other.covariance)
    torch.testing.assert_close(law(x, sigma), other(x, sigma))
    torch.testing.assert_close(law.log_density(x, sigma), other.log_density(x, sigma))
    torch.testing.assert_close(law.log_density(x), other.log_density(x))
    torch.testing.assert_close(law.spread.flatten(), other.covariance.diagonal().sqrt())
    values, share = law.eigenvalues
    assert float(share.sum()) == pytest.approx(1)
    assert float((values * share).sum()) == pytest.approx(
        float(other.covariance.trace()) / len(other.covariance)
    )
    half = law.spectral(
        torch.eye(12 * hours, dtype=F64).reshape(-1, *law.mean.shape), torch.sqrt
    ).flatten(1)
    torch.testing.assert_close(half @ half, other.covariance)


def test_a_trajectory_is_a_first_order_markov_chain():
    """The precision matrix of a Markov chain of first order is block tridiagonal."""
    precision = torch.linalg.inv(TrajectoryPrior(hour(), RHO, 4).covariance).reshape(4, 12, 4, 12)
    for i in range(4):
        for j in range(4):
            assert (float(precision[i, :, j].abs().max()) < 1e-9) == (abs(i - j) > 1)


def test_the_persistence_is_estimated():
    """4000 pairs of hours; the tolerance is four standard errors, 4 (1 - rho^2) / sqrt(n)."""
    pairs = TrajectoryPrior(hour(), RHO, 2)
    fields = pairs.decode(pairs.sample(4000, inverse.seeded(1)))
    found = fit_persistence(pairs.hour, fields[:, :1], fields[:, 1:])
    assert bool(((found - RHO).abs() < 4 * (1 - RHO**2) / 4000**0.5).all())


def smoothed(law, H, sigma, y):
    """Mean and variance (hours, n) of a Kalman filter and Rauch-Tung-Striebel smoother.

    y is (hours, m), model units.
    """
    one = law.hour
    n = one.mean.numel()
    Q, rest = one.basis, torch.eye(n, dtype=F64) - one.basis @ one.basis.T
    F = (Q * law.persistence[:-1]) @ Q.T + law.persistence[-1] * rest
    C = one.covariance
    W = C - F @ C @ F.T
    m, P, kept = torch.zeros(n, dtype=F64), C, []
    for i, seen in enumerate(y):
        ahead = (m, P) if i == 0 else (F @ m, F @ P @ F.T + W)
        m, P = ahead
        gain = torch.linalg.solve(H @ P @ H.T + sigma**2 * torch.eye(len(H), dtype=F64), H @ P).T
        m, P = m + gain @ (seen - H @ m), P - gain @ H @ P
        kept.append((ahead, (m, P)))
    means, variances = [m], [P.diagonal()]
    for (ahead_m, ahead_P), (own_m, own_P) in zip(
        [k[0] for k in kept[:0:-1]], [k[1] for k in kept[-2::-1]], strict=True
    ):
        G = torch.linalg.solve(ahead_P, F @ own_P).T
        m, P = own_m + G @ (m - ahead_m), own_P + G @ (P - ahead_P) @ G.T
        means, variances = [m, *means], [P.diagonal(), *variances]
    return torch.stack(means), torch.stack(variances)


def measured(law, sigma=0.4, seed=3):
    """A posterior with measurements of four places every hour, and the Kalman smoother's answer."""
    hours, H = law.shape[0], torch.zeros(4, 12, dtype=F64)
    H[torch.arange(4), torch.tensor([0, 3, 7, 10])] = 1
    truth = law.decode(law.sample(1, inverse.seeded("truth", seed)))

    @inverse.operator(shape=tuple(law.shape))
    def seen(x):
        return (x.flatten(2) @ H.T)[:, None]

    y = seen.A(truth) + sigma * torch.randn(
        1, 1, hours, 4, generator=inverse.seeded("noise", seed), dtype=F64
    )
    posterior = inverse.Posterior(
        law, seen, y, inverse.GaussianNoise(sigma), shape=tuple(law.shape), dtype=F64
    )
    answer = smoothed(law, H * law.scale, sigma, (y[0, 0] - law.decode(law.mean).flatten(1) @ H.T))
    return posterior, answer


def test_posterior_draws_match_the_kalman_smoother():
    """Mean and variance of each entry, within four standard errors of 1000 draws."""
    law = TrajectoryPrior(hour(), RHO, 6)
    posterior, (mean, variance) = measured(law)
    x = analytic_start(
        posterior.rows(1000), 0.0, inverse.seeding.SharedStream(inverse.seeded("draws"), 1000)
    )
    x = (x - law.mean).flatten(2)
    assert float(((x.mean(0) - mean).abs() / (variance / 1000).sqrt()).max()) < 4
    assert float((x.var(0) / variance - 1).abs().max()) < 4 * (2 / 1000) ** 0.5


def test_mmps_over_a_trajectory_matches_the_kalman_smoother():
    """At sigma = 200, x is nearly uninformative and E[x0 | x, y] is the posterior mean.

    The tolerance is 1 / 200 of a standard deviation.
    """
    law = TrajectoryPrior(hour(), RHO, 6)
    posterior, (mean, variance) = measured(law)
    method = inverse.get_method("multimodal", tolerance=1e-10, iterations=100)
    found = method.denoise(posterior, law.mean[None], torch.tensor(200.0, dtype=F64)) - law.mean
    assert float(((found[0].flatten(1) - mean).abs() / variance.sqrt()).max()) < 1 / 200


def test_a_window_of_all_hours_is_the_trajectory():
    law = TrajectoryPrior(hour(), RHO, 5)
    x = law.sample(2, inverse.seeded(2))
    torch.testing.assert_close(
        ComposedPrior(law, 1, 5)(x, torch.tensor(0.6)), law(x, torch.tensor(0.6))
    )


def test_composed_windows_approach_the_chain_as_they_widen():
    """The error of the score is of order sigma^2 for small noise, and falls with the window."""
    law = TrajectoryPrior(hour(), RHO, 11)
    x0 = law.sample(64, inverse.seeded(3))
    noise = torch.randn(64, *law.shape, generator=inverse.seeded(4), dtype=F64)
    composed = [ComposedPrior(law.over(2 * k + 1), 1, 11) for k in (0, 1, 2, 3)]

    def apart(prior, sigma):
        x, s = x0 + sigma * noise, torch.tensor(sigma, dtype=F64)
        exact = law.score(x, s)
        return float((prior.score(x, s) - exact).norm() / exact.norm())

    assert apart(composed[1], 1e-3) < 1e-4 < 0.1 < apart(composed[0], 1e-3)
    errors = [apart(prior, 0.5) for prior in composed]
    assert all(wider < 0.75 * narrower for narrower, wider in itertools.pairwise(errors)), errors
    assert apart(composed[1], 100.0) < 1e-3


def test_the_posterior_of_composed_windows_approaches_the_exact_one():
    """100 members of a deterministic sampler.

    With an exact prior their mean is 0.1 standard deviations from the Kalman smoother's. The
    distance is three times as large with windows of one hour, which ignore the neighbouring hours.
    It is the same as with the exact prior for windows of seven of nine hours.
    """
    law = TrajectoryPrior(hour(), RHO, 9)
    posterior, (mean, variance) = measured(law)
    method = inverse.get_method(
        "multimodal", sampler="dpmpp-2m", steps=15, sigma_max=20.0, sigma_min=0.03
    )
    found = {}
    for k in (0, 3):
        prior = ComposedPrior(law.over(2 * k + 1), 1, 9)
        own = inverse.Posterior(
            prior,
            posterior.operator,
            posterior.y,
            posterior.noise,
            shape=tuple(law.shape),
            dtype=F64,
        )
        x = (law.encode(inverse.solve(own, method, 100).samples[0].double()) - law.mean).flatten(2)
        found[k] = (
            float(((x.mean(0) - mean).square() / variance).mean().sqrt()),
            float((x.var(0) / variance).mean()),
        )
    assert found[0][0] > 0.3
    assert found[3][0] < 0.2
    assert abs(found[3][1] - 1) < 0.08 < abs(found[0][1] - 1)


@pytest.mark.parametrize(("wide", "hours"), [(2, 5), (7, 5)])
def test_impossible_compositions_are_refused(wide, hours):
    with pytest.raises(OptionError, match="odd number of hours, at most 5"):
        ComposedPrior(TrajectoryPrior(hour(), RHO, wide), 1, hours)
