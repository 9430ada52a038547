"""Distances between samples and a law that is known, by a formula or by its own draws.

Samples are (n, d) float64, flattened and unweighted. Every distance between finite sets has a floor above zero: compare it with
the same distance between two sets of exact draws.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def gaussian_w2(
    mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor
) -> float:
    """Wasserstein-2 distance of two Gaussians: sqrt(|m - m'|^2 + tr(C + C' - 2 (C^1/2 C' C^1/2)^1/2))."""
    root = square_root(covariance)
    cross = torch.linalg.eigvalsh(root @ other_covariance @ root).clamp_min(0).sqrt().sum()
    squared = (
        (mean - other_mean).square().sum()
        + covariance.trace()
        + other_covariance.trace()
        - 2 * cross
    )
    return float(squared.clamp_min(0).sqrt())


def square_root(covariance: Tensor) -> Tensor:
    """The symmetric square root of a covariance (d, d); eigenvalues below zero count as zero."""
    values, vectors = torch.linalg.eigh((covariance + covariance.mT) / 2)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.mT


def wasserstein_1d(x: Tensor, y: Tensor, p: int = 1) -> Tensor:
    """W_p along the last dimension between two sets of equally many points: (..., n), (..., n) -> (...)."""
    return (_sorted(x) - _sorted(y)).abs().pow(p).mean(-1).pow(1 / p)


def _sorted(x: Tensor) -> Tensor:
    """Along the last dimension, by NumPy: ten times faster than torch's, which finds the order as well."""
    return torch.from_numpy(np.sort(x.numpy(force=True), axis=-1)).to(x.device)


def sliced_wasserstein(
    x: Tensor,
    y: Tensor,
    generator: torch.Generator,
    p: int = 1,
    slices: int = 100,
    reduce: str = "mean",
) -> float:
    """Mean (or max) of W_p over random directions on the sphere.

    Args:
        x, y: (n, d), equally many points.
        generator: of the directions; the same one makes two distances comparable.
        reduce: "mean" or "max" over the directions.
    """
    directions = torch.randn(x.shape[1], slices, generator=generator, dtype=x.dtype)
    directions /= directions.norm(dim=0)
    distances = wasserstein_1d((x @ directions).T, (y @ directions).T, p)
    return float(distances.max() if reduce == "max" else distances.mean())


def optimal_transport(x: Tensor, y: Tensor, p: int = 2) -> float:
    """W_p between two sets of equally many points, by the best assignment: (n, d), (n, d); n up to a few thousand."""
    from scipy.optimize import linear_sum_assignment

    cost = torch.cdist(x, y).pow(p)
    rows, columns = linear_sum_assignment(cost.numpy())
    return float(cost[rows, columns].mean() ** (1 / p))


def interval_mass(x: Tensor, reference: Tensor, level: float) -> float:
    """Share of the reference draws (m, d) inside the central interval of the samples (n, d) at this level, mean over coordinates; right is `level`."""
    tail = (1 - level) / 2
    low, high = x.quantile(torch.tensor([tail, 1 - tail], dtype=x.dtype), dim=0)
    return float(((reference >= low) & (reference <= high)).to(x.dtype).mean())


def crps(x: Tensor, reference: Tensor) -> float:
    """Continuous ranked probability score of the samples (n, d) against draws of the truth (m, d): E|x - x*| - E|x - x'| / 2, fair, mean over coordinates."""
    return float((_mean_distance(x, reference) - _mean_pair_distance(x) / 2).mean())


def _mean_pair_distance(x: Tensor) -> Tensor:
    """Mean of |x_i - x_j| over the pairs i != j, per coordinate: (n, d) -> (d,)."""
    n = len(x)
    rank = torch.arange(1, n + 1, dtype=x.dtype)[:, None]
    return 2 * ((2 * rank - n - 1) * x.sort(0).values).sum(0) / (n * (n - 1))


def _mean_distance(x: Tensor, y: Tensor) -> Tensor:
    """Mean of |x_i - y_j| over all pairs, per coordinate, in O((n + m) log(n + m)): the pairs of the union less those within each set."""
    n, m = len(x), len(y)
    pairs = lambda z, k: _mean_pair_distance(z) * (k * (k - 1) / 2)  # noqa: E731
    return (pairs(torch.cat([x, y]), n + m) - pairs(x, n) - pairs(y, m)) / (n * m)
