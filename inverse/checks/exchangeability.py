"""Tests of exchangeability: whether a ground truth can be told from samples of its posterior.

The M = m + 1 members of an image are the ground truth (member 0) and the samples (1, ..., m). There
is one image for each independent pair of ground truth and measurement.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

from inverse.metrics.ensemble import distances

# --- members ----------------------------------------------------------------------------------


def ranks(values: Tensor, generator: torch.Generator) -> Tensor:
    """Rank of member 0 among the others, with ties broken at random.

    The rank is uniform for an exact sampler. It is simulation-based calibration if the values are a
    test quantity f(x), and TARP if they are distances to a reference point.

    Args:
        values: (images, m + 1, ...).

    Returns: (images, ...), integers from 0 to m.

    Sources: Talts, Betancourt, Simpson, Vehtari, Gelman, Validating Bayesian Inference Algorithms
    with Simulation-Based Calibration, 2018, https://arxiv.org/abs/1804.06788; Lemos, Coogan,
    Hezaveh, Perreault-Levasseur, Sampling-Based Accuracy Testing of Posterior Estimators for
    General Inference, ICML 2023, https://arxiv.org/abs/2302.03026.
    """
    first, others = values[:, :1], values[:, 1:]
    below, ties = (others < first).sum(1), (others == first).sum(1)
    u = torch.rand(ties.shape, generator=generator, dtype=torch.float64, device=values.device)
    return below + (u * (ties + 1)).long()


def members_ranks(x: Tensor, generator: torch.Generator) -> Tensor:
    """Rank of every member among the others, for each entry, with ties broken at random.

    Args:
        x: (images, M, n).

    Returns: (images, M, n), integers from 0 to M - 1.
    """
    shuffle = torch.stack(
        [torch.randperm(x.shape[1], generator=generator, device=x.device) for _ in range(len(x))]
    )
    return torch.stack(
        [
            members[order].argsort(dim=0, stable=True).argsort(dim=0)[order.argsort()]
            for members, order in zip(x, shuffle, strict=True)
        ]
    )


def randomisation_p_value(table: Tensor, generator: torch.Generator, draws: int = 1999) -> float:
    """Exact p-value of the ground truths' statistics, by exchanging the ground truth with samples.

    For an exact sampler each member is equally likely to be the ground truth, so the mean over
    images has a known null law. The test statistic is the squared distance of the mean from its
    expectation, with each of the c components in units of its null standard deviation.

    Args:
        table: (images, M, c); entry (i, k) holds c statistics of image i with member k in the place
            of the ground truth.
        draws: number of draws from the null law.
    """
    images, members, _ = table.shape
    table = table - table.mean(1, keepdim=True)
    variance = table.square().mean(1).sum(0)
    table = table / variance.clamp_min(torch.finfo(table.dtype).tiny).sqrt()
    observed = table[:, 0].sum(0).square().sum()
    rows = torch.arange(images, device=table.device)
    exceeded = 0
    for first in range(0, draws, 100):
        shape = (min(100, draws - first), images)
        chosen = torch.randint(members, shape, generator=generator, device=table.device)
        null = table[rows, chosen].sum(1).square().sum(1)
        exceeded += int((null >= observed * (1 - 1e-9)).sum())
    return (1 + exceeded) / (1 + draws)


def three_decibel_table(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared distance to the others, and squared distance to their mean, for each member.

        mean_j |x_j - x_k|^2    and    |mean_j x_j - x_k|^2    over j != k

    Args:
        x: (images, M, n).

    Returns: two tensors (images, M).
    """
    m = x.shape[1] - 1
    squared = distances(x).square()
    total = squared.sum(2)
    among_others = total.sum(1, keepdim=True) - 2 * total
    return total / m, (total / m - among_others / (2 * m * m)).clamp_min(0)


def jackknife_ratio(numerator: Tensor, denominator: Tensor) -> tuple[float, float, float]:
    """Ratio mean(numerator) / mean(denominator) and its 95 % interval.

    The interval comes from the jackknife of the ratio's logarithm.

    Args:
        numerator, denominator: (images,).

    Returns: the ratio and its lower and upper limit; NaN for 0 / 0.
    """
    from scipy.special import stdtrit

    n = len(numerator)
    a, b = numerator.sum(), denominator.sum()
    logs = ((a - numerator) / (b - denominator)).log()
    reach = float(stdtrit(n - 1, 0.975)) * float(
        ((n - 1) / n * (logs - logs.mean()).square().sum()).sqrt()
    )
    ratio = float(a / b)
    return ratio, ratio * math.exp(-reach), ratio * math.exp(reach)


# --- uniform laws -----------------------------------------------------------------------------


def chi_square_ks(chi_square: Tensor, degrees: int) -> tuple[float, float]:
    """Kolmogorov-Smirnov test of |y - A x|^2 / sigma^2 against its chi-square law.

    Use one sample of each image: samples of one image share y, and more of them would make the test
    reject an exact sampler.

    Args:
        chi_square: (images,).
        degrees: degrees of freedom, the number of measurements in y.

    Returns: the distance and its p-value.
    """
    from scipy.special import chdtr
    from scipy.stats import kstest

    test = kstest(chdtr(degrees, chi_square.double().cpu().numpy()), "uniform")
    return float(test.statistic), float(test.pvalue)


def rank_chi_square(r: Tensor, m: int) -> tuple[float, float]:
    """Pearson's chi-square test of ranks against the uniform law, with bins of 5 ranks or more.

    Args:
        r: ranks (images,), from 0 to m.

    Returns: the statistic and its p-value.
    """
    from scipy.special import chdtrc

    bins = max(2, min(m + 1, len(r) // 5))
    width = torch.bincount(torch.arange(m + 1) * bins // (m + 1), minlength=bins).double()
    count = torch.bincount(r.cpu() * bins // (m + 1), minlength=bins).double()
    expected = len(r) * width / (m + 1)
    statistic = float(((count - expected).square() / expected).sum())
    return statistic, float(chdtrc(bins - 1, statistic))


def ecdf_p_value(r: Tensor, m: int) -> float:
    """Exact p-value of ranks against the uniform law, from the largest departure of their ECDF.

        gamma = 2 min_k min(P(B_k <= c_k), P(B_k >= c_k)),    B_k ~ Bin(images, (k + 1) / (m + 1))

    with c_k the number of ranks up to k. The law of gamma under uniformity follows from a recursion
    over k of the probability that an ECDF stays within its limits.

    Args:
        r: ranks (images,), from 0 to m.

    Source: Sailynoja, Burkner, Vehtari, Graphical test for discrete uniformity and its applications
    in goodness-of-fit evaluation and multiple sample comparison, Statistics and Computing 2022,
    https://arxiv.org/abs/2103.10522 (sections 2, 3.1).
    """
    counts, (points, z) = torch.bincount(r.cpu(), minlength=m + 1).cumsum(0).numpy(), _points(m)
    at_most, at_least = _tails(len(r), m)
    rows, c = np.arange(len(z)), counts[points]
    return _escape_probability(
        len(r), m, float(2 * np.minimum(at_most[rows, c], at_least[rows, c]).min())
    )


@functools.cache
def ecdf_band(images: int, m: int, level: float) -> tuple[list[float], list[float], list[float]]:
    """The narrowest band that contains the whole ECDF of uniform ranks with probability `level`.

    The p-value of `ecdf_p_value` is at most 1 - level exactly if the ECDF leaves the band.

    Returns: the points z, and the lower and the upper limit at each.

    Source: that of `ecdf_p_value`.
    """
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        inside = _escape_probability(images, m, middle) <= 1 - level
        low, high = (middle, high) if inside else (low, middle)
    lower, upper = _limits(images, m, low)
    return _points(m)[1].tolist(), (lower / images).tolist(), (upper / images).tolist()


def _points(m: int) -> tuple[np.ndarray, np.ndarray]:
    """At most 100 ranks k, and the probabilities (k + 1) / (m + 1) of a rank up to k."""
    k = np.unique(np.linspace(0, m - 1, min(m, 100)).round().astype(int))
    return k, (k + 1) / (m + 1)


@functools.lru_cache(maxsize=8)
def _tails(n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """P(B <= c) and P(B >= c) for B ~ Bin(n, z), at every z and c = 0, ..., n: (K, n + 1) each."""
    from scipy.special import bdtr, bdtrc

    z, c = _points(m)[1][:, None], np.arange(n + 1.0)
    return bdtr(c, n, z), np.where(c > 0, bdtrc(np.maximum(c - 1, 0), n, z), 1.0)


def _limits(n: int, m: int, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest count at each z with both tails above gamma / 2."""
    at_most, at_least = _tails(n, m)
    floor = gamma / 2 * (1 + 1e-9)
    return (at_most <= floor).sum(1), (at_least > floor).sum(1) - 1


@functools.lru_cache(maxsize=4096)
def _escape_probability(n: int, m: int, gamma: float) -> float:
    """Probability that n uniform ranks have a pointwise tail of gamma / 2 or less at some z."""
    lower, upper = _limits(n, m, gamma)
    if (lower > upper).any():
        return 1.0
    factorial = np.concatenate([[0.0], np.log(np.arange(1, n + 1)).cumsum()])
    state, probability, before = np.array([0]), np.array([1.0]), 0.0
    for z, low, high in zip(_points(m)[1], lower, upper, strict=True):
        target, p = np.arange(low, high + 1), (z - before) / (1 - before)
        gained, left = target[:, None] - state, n - state
        k = np.clip(gained, 0, left)
        log_pmf = (
            factorial[left]
            - factorial[k]
            - factorial[left - k]
            + k * math.log(p)
            + (left - k) * math.log1p(-p)
        )
        probability = np.where(gained == k, np.exp(log_pmf), 0.0) @ probability
        state, before = target, z
    return float(min(1.0, max(0.0, 1 - probability.sum())))
