"""Statistics by which a truth would stand out from the samples of an exact sampler, and their null laws.

Member 0 of M = m + 1 is the truth, members 1, ..., m are samples; one image for each independent pair of truth and measurement.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

from inverse.metrics.ensemble import distances

# --- roles ------------------------------------------------------------------------------------------------------------


def ranks(values: Tensor, generator: torch.Generator) -> Tensor:
    """Rank of member 0 among members 1, ..., m, in 0, ..., m, ties broken at random: (images, m + 1, ...) -> (images, ...), integers.

    Uniform for an exact sampler: simulation-based calibration where the values are a test quantity f(x), TARP where they are
    distances to a reference point.

    Sources: Talts, Betancourt, Simpson, Vehtari, Gelman, Validating Bayesian Inference Algorithms with Simulation-Based
    Calibration, 2018, https://arxiv.org/abs/1804.06788; Lemos, Coogan, Hezaveh, Perreault-Levasseur, Sampling-Based Accuracy
    Testing of Posterior Estimators for General Inference, ICML 2023, https://arxiv.org/abs/2302.03026.
    """
    first, others = values[:, :1], values[:, 1:]
    below, ties = (others < first).sum(1), (others == first).sum(1)
    u = torch.rand(ties.shape, generator=generator, dtype=torch.float64, device=values.device)
    return below + (u * (ties + 1)).long()


def members_ranks(x: Tensor, generator: torch.Generator) -> Tensor:
    """Rank of every member among the others, per entry, ties broken at random: (images, M, n) -> (images, M, n), 0 to M - 1."""
    shuffle = torch.stack(
        [torch.randperm(x.shape[1], generator=generator, device=x.device) for _ in range(len(x))]
    )
    return torch.stack(
        [
            one[order].argsort(dim=0, stable=True).argsort(dim=0)[order.argsort()]
            for one, order in zip(x, shuffle, strict=True)
        ]
    )


def randomisation_p_value(table: Tensor, generator: torch.Generator, draws: int = 1999) -> float:
    """Whether the truths' statistics stand out from those of the samples in the truth's place; exact in every sample size.

    table[i, k] (images, M, c) holds c statistics of image i with member k cast as the truth (0 is the truth). For an exact sampler
    the role is uniform over members, so that the mean over images has a known null law, from which `draws` are taken. The
    statistic is the squared distance of the mean from its expectation, each of the c in units of its null deviation.
    """
    images, members, _ = table.shape
    table = table - table.mean(1, keepdim=True)
    variance = table.square().mean(1).sum(0)
    table = table / variance.clamp_min(torch.finfo(table.dtype).tiny).sqrt()
    observed = table[:, 0].sum(0).square().sum()
    rows = torch.arange(images, device=table.device)
    exceeded = 0
    for begin in range(0, draws, 100):
        roles = torch.randint(
            members, (min(100, draws - begin), images), generator=generator, device=table.device
        )
        exceeded += int((table[rows, roles].sum(1).square().sum(1) >= observed * (1 - 1e-9)).sum())
    return (1 + exceeded) / (1 + draws)


def three_decibel_table(x: Tensor) -> tuple[Tensor, Tensor]:
    """mean_j |x_j - x_k|^2 and |mean_j x_j - x_k|^2 over the members j other than k: (images, M, n) -> (images, M) twice."""
    m = x.shape[1] - 1
    squared = distances(x).square()
    total = squared.sum(2)
    among_others = total.sum(1, keepdim=True) - 2 * total
    return total / m, (total / m - among_others / (2 * m * m)).clamp_min(0)


def jackknife_ratio(numerator: Tensor, denominator: Tensor) -> tuple[float, float, float]:
    """mean(numerator) / mean(denominator) over images and its 95 % interval, by the jackknife of its logarithm; NaN for 0 / 0."""
    from scipy.special import stdtrit

    n = len(numerator)
    a, b = numerator.sum(), denominator.sum()
    logs = ((a - numerator) / (b - denominator)).log()
    reach = float(stdtrit(n - 1, 0.975)) * float(
        ((n - 1) / n * (logs - logs.mean()).square().sum()).sqrt()
    )
    ratio = float(a / b)
    return ratio, ratio * math.exp(-reach), ratio * math.exp(reach)


# --- uniform laws -----------------------------------------------------------------------------------------------------


def chi_square_ks(chi_square: Tensor, degrees: int) -> tuple[float, float]:
    """Kolmogorov-Smirnov distance of |y - A x|^2 / sigma^2 (images,), one x for each image, from chi^2 with `degrees`, and its p-value.

    Several samples of one image share its y: taking more than one each would make the test reject an exact sampler.
    """
    from scipy.special import chdtr
    from scipy.stats import kstest

    found = kstest(chdtr(degrees, chi_square.double().cpu().numpy()), "uniform")
    return float(found.statistic), float(found.pvalue)


def rank_chi_square(r: Tensor, m: int) -> tuple[float, float]:
    """Pearson's chi^2 of ranks (images,) in 0, ..., m against the uniform law, and its p-value; bins hold at least 5 expected ranks."""
    from scipy.special import chdtrc

    bins = max(2, min(m + 1, len(r) // 5))
    width = torch.bincount(torch.arange(m + 1) * bins // (m + 1), minlength=bins).double()
    count, expected = (
        torch.bincount(r.cpu() * bins // (m + 1), minlength=bins).double(),
        len(r) * width / (m + 1),
    )
    statistic = float(((count - expected).square() / expected).sum())
    return statistic, float(chdtrc(bins - 1, statistic))


def ecdf_p_value(r: Tensor, m: int) -> float:
    """Exact p-value of ranks (images,) in 0, ..., m against the uniform law, by the largest pointwise departure of their ECDF.

    gamma = 2 min_k min(P(B_k <= c_k), P(B_k >= c_k)), c_k the number of ranks up to k and B_k ~ Bin(images, (k + 1) / (m + 1));
    its law under uniformity follows from the recursion over k of the probability that an ECDF stays within its bands.

    Source: Sailynoja, Burkner, Vehtari, Graphical test for discrete uniformity and its applications in goodness-of-fit
    evaluation and multiple sample comparison, Statistics and Computing 2022, https://arxiv.org/abs/2103.10522 (sections 2, 3.1).
    """
    counts, (points, z) = torch.bincount(r.cpu(), minlength=m + 1).cumsum(0).numpy(), _points(m)
    at_most, at_least = _tails(len(r), m)
    rows, c = np.arange(len(z)), counts[points]
    return _escape(len(r), m, float(2 * np.minimum(at_most[rows, c], at_least[rows, c]).min()))


@functools.cache
def ecdf_band(images: int, m: int, level: float) -> tuple[list[float], list[float], list[float]]:
    """z, lower and upper: limits within which the ECDF of uniform ranks lies at all z at once with probability `level` or more, sharply.

    Source: as `ecdf_p_value`, whose p-value is at most 1 - level exactly when the ECDF leaves the band.
    """
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _escape(images, m, middle) <= 1 - level else (low, middle)
    lower, upper = _limits(images, m, low)
    return _points(m)[1].tolist(), (lower / images).tolist(), (upper / images).tolist()


def _points(m: int) -> tuple[np.ndarray, np.ndarray]:
    """Ranks k, at most 100 of them, and the probabilities (k + 1) / (m + 1) at which an ECDF of ranks is compared."""
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
def _escape(n: int, m: int, gamma: float) -> float:
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
