"""Distances against closed forms and brute force."""

import math

import pytest
import torch
from conftest import normal

from inverse.checks import distances


def covariance(d, seed):
    root = normal(d, d, seed=seed)
    return root @ root.T / d


def test_w2_of_commuting_gaussians_is_the_distance_of_their_roots():
    m = torch.zeros(3).double()
    n = torch.tensor([1.0, 2.0, 2.0]).double()
    a = torch.tensor([1.0, 4.0, 9.0]).double()
    b = torch.tensor([4.0, 4.0, 1.0]).double()
    assert distances.gaussian_w2(m, a.diag(), n, b.diag()) == pytest.approx(
        math.sqrt(9 + 1 + 0 + 4)
    )


def test_w2_of_gaussians_is_symmetric_and_invariant_to_rotation():
    m, n, C, D = normal(4, seed=1), normal(4, seed=2), covariance(4, 3), covariance(4, 4)
    Q = torch.linalg.qr(normal(4, 4, seed=5)).Q
    w = distances.gaussian_w2(m, C, n, D)
    assert distances.gaussian_w2(n, D, m, C) == pytest.approx(w)
    assert distances.gaussian_w2(Q @ m, Q @ C @ Q.T, Q @ n, Q @ D @ Q.T) == pytest.approx(w)
    assert distances.gaussian_w2(m, C, m, C) == pytest.approx(0, abs=1e-7)


def test_w2_of_large_samples_approaches_that_of_their_gaussians():
    """In one dimension, where sorting gives the optimal assignment."""
    x, y = normal(20000, 1, seed=1), 1 + 2 * normal(20000, 1, seed=2)
    exact = distances.gaussian_w2(
        torch.zeros(1).double(),
        torch.eye(1).double(),
        torch.ones(1).double(),
        4 * torch.eye(1).double(),
    )
    assert float(distances.wasserstein_1d(x.T, y.T, p=2)) == pytest.approx(exact, rel=0.02)
    assert exact == pytest.approx(math.sqrt(2))


def test_sliced_distance_of_a_shift():
    """|<u, shift>| of a random direction in three dimensions has mean 1/2 and maximum 1."""
    x = normal(50, 3, seed=1)
    y = x + torch.tensor([0.0, 0.0, 1.0]).double()
    for p in (1, 2):
        mean, largest = (
            distances.sliced_wasserstein(
                x, y, torch.Generator().manual_seed(0), p=p, slices=20000, reduce=r
            )
            for r in ("mean", "max")
        )
        assert mean == pytest.approx(0.5, abs=0.01)
        assert largest == pytest.approx(1, abs=0.01)


def test_optimal_transport_finds_the_permutation_and_equals_the_sorted_distance_on_a_line():
    x = normal(60, 3, seed=1)
    shuffled = x[torch.randperm(60, generator=torch.Generator().manual_seed(0))]
    assert distances.optimal_transport(x, shuffled + 0.01) == pytest.approx(0.01 * math.sqrt(3))
    a, b = normal(60, 1, seed=2), normal(60, 1, seed=3)
    assert distances.optimal_transport(a, b, p=1) == pytest.approx(
        float(distances.wasserstein_1d(a.T, b.T, p=1))
    )


def test_interval_mass_of_the_right_a_narrow_and_a_wide_law():
    reference = normal(20000, 2, seed=1)
    widths = {
        k: distances.interval_mass(k * normal(20000, 2, seed=2), reference, 0.9)
        for k in (0.5, 1.0, 2.0)
    }
    for k, mass in widths.items():
        assert mass == pytest.approx(math.erf(1.6449 * k / math.sqrt(2)), abs=0.01)


def test_crps_is_the_double_sum():
    x, y = normal(9, 2, seed=1), normal(7, 2, seed=2)
    cross = (x[:, None] - y).abs().mean((0, 1))
    within = (x[:, None] - x).abs().sum((0, 1)) / (9 * 8)
    assert distances.crps(x, y) == pytest.approx(float((cross - within / 2).mean()))


def test_crps_of_a_gaussian_is_its_closed_form():
    """E|x - x*| - E|x - x'| / 2 = 1 / sqrt(pi) for two standard normals."""
    assert distances.crps(normal(20000, 1, seed=1), normal(20000, 1, seed=2)) == pytest.approx(
        1 / math.sqrt(math.pi), rel=0.02
    )
