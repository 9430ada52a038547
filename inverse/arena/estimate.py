"""A mean over truths with its expanded bootstrap interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 4000


@dataclass(frozen=True)
class Estimate:
    """A mean over `truths` truths and its 95 % interval; a single truth gives no interval."""

    mean: float
    low: float | None
    high: float | None
    truths: int


def estimate(values: Sequence[float]) -> Estimate | None:
    """The mean with an expanded bootstrap percentile interval; None without values.

    The interval is deterministic and does not depend on the order of the values.

    The plain percentile interval of few values is too short: by sqrt((n - 1) / n), and because it
    uses a normal quantile in place of a t quantile. Its level is therefore raised to that of
    z = sqrt(n / (n - 1)) t(n - 1).

    Source: Hesterberg, What Teachers Should Know About the Bootstrap, The American Statistician
    2015, section 4.
    """
    n = len(values)
    if not n:
        return None
    scores = np.asarray(sorted(values), dtype=float)
    mean = math.fsum(scores) / n
    if n == 1:
        return Estimate(mean, None, None, 1)
    level = _expanded_level(n)
    low, high = np.quantile(_resampling_weights(n) @ (scores - mean), [1 - level, level]) + mean
    return Estimate(mean, float(low), float(high), n)


@lru_cache(maxsize=64)
def _resampling_weights(n: int) -> np.ndarray:
    """Weights of the values in each resample: (RESAMPLES, n)."""
    return np.random.default_rng(n).multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n


@lru_cache(maxsize=256)
def _expanded_level(n: int) -> float:
    return float(stats.norm.cdf(math.sqrt(n / (n - 1)) * stats.t.ppf((1 + LEVEL) / 2, n - 1)))
