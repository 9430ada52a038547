"""Tests of the differences between contestants: differences to the best, ranks, pairs, cliques.

Contestants are compared on the observations that all of them finished. While fewer than `KEEP` of
the observations are common to all, the contestant that finished the fewest is left out and named.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import stats

from inverse.arena.estimate import LEVEL, estimate
from inverse.arena.groups import Group
from inverse.arena.values import metric, value

KEEP = 0.8
"""Smallest share of the observations that a comparison keeps."""
MAX_CONTESTANTS = 30
"""Largest number of contestants in a comparison; those of best average rank are kept."""
MIN_TRUTHS = 5
"""Smallest number of truths that can separate a contestant from the best.

Five differences are all positive by chance once in 32 times, four once in 16.
"""


@dataclass(frozen=True)
class Comparison:
    """Contestants ranked and tested on common observations.

    Args:
        metric: name of the metric.
        contestants: best average rank first.
        ranks: average ranks; 1 is the best.
        blocks: number of truths (seeds averaged) that the ranks are averaged over.
        observations: number of observations common to all, of `possible`.
        p: Holm-adjusted p values of the paired Wilcoxon signed-rank tests, (k, k), 1 on the
            diagonal.
        friedman: p value of the Friedman test of equality; None for two contestants.
        critical_difference: Nemenyi's critical difference of average ranks.
        cliques: (first, last) of each maximal run of at least two contestants among whom no test
            found a difference.
        nemenyi: the same by the critical difference.
        left_out: number of finished observations of each contestant outside the comparison.
    """

    metric: str
    contestants: tuple[str, ...]
    ranks: tuple[float, ...]
    blocks: int
    observations: int
    possible: int
    p: np.ndarray
    friedman: float | None
    critical_difference: float
    cliques: tuple[tuple[int, int], ...]
    nemenyi: tuple[tuple[int, int], ...]
    left_out: dict[str, int]


def compare(groups: Sequence[Group], name: str) -> Comparison | None:
    """Compare the contestants of groups under one budget by a metric.

    None for fewer than two contestants, or for a metric without direction.

    Average ranks over blocks, the Friedman test, Wilcoxon signed-rank tests of all pairs with
    Holm's correction, and Nemenyi's critical difference. Cliques follow the pairwise tests, which,
    unlike mean ranks, do not depend on the other contestants. Blocks of several problems are
    treated as independent.

    Sources: Demšar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 2006;
    Benavoli, Corani, Mangili, Should We Really Use Post-Hoc Tests Based on Mean-Ranks?, JMLR 2016.

    Raises: ValueError if the groups are of several budgets.
    """
    if len({group.budget for group in groups}) > 1:
        raise ValueError("compare: groups of one budget only")
    rule = metric(name)
    if rule.better is None:
        return None
    losses: dict[str, dict[tuple[str, int, int], float]] = defaultdict(dict)
    possible = set()
    for group in groups:
        losses.setdefault(group.contestant, {})
        for record in group.records:
            possible.add(observation := (group.setting, record.truth, record.seed))
            if (score := value(record, name)) is not None:
                losses[group.contestant][observation] = rule.loss(score)
    possible &= {observation for finished in losses.values() for observation in finished}
    entered, common, left_out = _common(losses, possible)
    if len(entered) < 2 or not common:
        return None
    table = _blocks(losses, entered, common)
    if len(entered) > MAX_CONTESTANTS:
        best = np.argsort(stats.rankdata(table, axis=1).mean(0), kind="stable")
        left_out |= {entered[i]: len(common) for i in best[MAX_CONTESTANTS:]}
        entered = [entered[i] for i in best[:MAX_CONTESTANTS]]
        table = table[:, best[:MAX_CONTESTANTS]]
    average = stats.rankdata(table, axis=1).mean(0)
    order = np.argsort(average, kind="stable")
    ranks, table = average[order], table[:, order]
    p, difference = pairwise(table), critical_difference(len(order), len(table))
    return Comparison(
        metric=name,
        contestants=tuple(entered[i] for i in order),
        ranks=tuple(float(rank) for rank in ranks),
        blocks=len(table),
        observations=len(common),
        possible=len(possible),
        p=p,
        friedman=friedman(table),
        critical_difference=difference,
        cliques=cliques(p > 1 - LEVEL),
        nemenyi=cliques(np.abs(ranks[:, None] - ranks) < difference),
        left_out=left_out,
    )


def leaders(groups: Sequence[Group], name: str) -> list[int]:
    """Indices of the groups of a setting that are not significantly worse than the best mean.

    The best group comes first, the others follow by their means. A group is worse if there are at
    least `MIN_TRUTHS` truths and the 95 % interval of its paired difference to the best, over
    truths with their seeds averaged, lies above zero. Only the groups with the largest number of
    finished cells take part. Empty for a metric without direction.
    """
    rule = metric(name)
    largest = max((group.count("ok") for group in groups), default=0)
    losses = {
        i: {truth: rule.loss(score) for truth, score in group.by_truth(name).items()}
        for i, group in enumerate(groups)
        if group.count("ok") == largest
    }
    means = {i: rule.loss(mean.mean) for i in losses if (mean := groups[i].estimate(name))}
    if rule.better is None or not means:
        return []
    first, *rest = sorted(means, key=lambda i: (means[i], i))
    return [first, *(i for i in rest if not _is_worse(losses[i], losses[first]))]


def _is_worse(losses: dict[int, float], best: dict[int, float]) -> bool:
    """Whether the paired differences over common truths are significantly positive."""
    difference = estimate([losses[truth] - best[truth] for truth in losses.keys() & best.keys()])
    if difference is None or difference.truths < MIN_TRUTHS or difference.low is None:
        return False
    return difference.low > 0


def _common(
    losses: dict[str, dict[Any, float]], possible: set[Any]
) -> tuple[list[str], list[Any], dict[str, int]]:
    """Contestants, their common observations, and those left out (see the module docstring)."""
    entered = {contestant: finished for contestant, finished in losses.items() if finished}
    left_out = {contestant: 0 for contestant, finished in losses.items() if not finished}
    while len(entered) > 1:
        common = set.intersection(*(set(finished) for finished in entered.values()))
        if len(common) >= KEEP * len(possible):
            break
        fewest = min(entered, key=lambda contestant: (len(entered[contestant]), contestant))
        left_out[fewest] = len(entered.pop(fewest))
    common = (
        set.intersection(*(set(finished) for finished in entered.values())) if entered else set()
    )
    return sorted(entered), sorted(common), left_out


def _blocks(
    losses: dict[str, dict[Any, float]], entered: Sequence[str], common: Sequence[Any]
) -> np.ndarray:
    """Losses averaged over the seeds of a truth: (blocks, contestants)."""
    blocks: dict[Any, list[list[float]]] = defaultdict(list)
    for observation in common:
        row = [losses[contestant][observation] for contestant in entered]
        blocks[observation[:-1]].append(row)
    return np.array([np.mean(rows, axis=0) for rows in blocks.values()])


def pairwise(table: np.ndarray) -> np.ndarray:
    """Holm-adjusted p values of two-sided Wilcoxon signed-rank tests: (blocks, k) -> (k, k).

    Exact up to 50 blocks without ties. Columns that never differ have p = 1.
    """
    k = table.shape[1]
    left, right = np.triu_indices(k, 1)
    p = np.ones((k, k))
    p[left, right] = holm([wilcoxon(column) for column in (table[:, left] - table[:, right]).T])
    return np.minimum(p, p.T)


def wilcoxon(differences: np.ndarray) -> float:
    """Two-sided p value of the signed-rank test, without zeros.

    Exact up to 50 differences without ties and up to 13 with ties; otherwise the normal
    approximation.
    """
    kept = differences[differences != 0]
    n = len(kept)
    if not n:
        return 1.0
    _, place, counts = np.unique(np.abs(kept), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    positive, total = float(ranks[kept > 0].sum()), n * (n + 1) / 2
    tied = len(counts) < n
    if n <= 50 and not tied:
        return min(1.0, 2 * float(_signed_rank(n)[int(min(positive, total - positive))]))
    if tied and n <= 13:
        signs = np.meshgrid(*[[0, rank] for rank in ranks])  # every assignment of signs
        sums = np.array(signs).reshape(n, -1).sum(0)
        tails = np.mean(sums <= positive + 1e-9), np.mean(sums >= positive - 1e-9)
        return min(1.0, 2 * float(min(tails)))
    variance = total * (2 * n + 1) / 12 - float((counts**3 - counts).sum()) / 48
    return math.erfc(abs(positive - total / 2) / math.sqrt(2 * variance))


@lru_cache(maxsize=64)
def _signed_rank(n: int) -> np.ndarray:
    """Distribution function, under the null hypothesis, of the sum of positive ranks 1..n."""
    counts = np.ones(1)
    for rank in range(1, n + 1):
        counts = np.pad(counts, (0, rank)) + np.pad(counts, (rank, 0))
    return np.cumsum(counts) / 2.0**n


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's step-down adjusted p values, which control the family-wise error: (m,) -> (m,)."""
    raw = np.asarray(p, dtype=float)
    order = np.argsort(raw, kind="stable")
    stepped = np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1))
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def friedman(table: np.ndarray) -> float | None:
    """p value of the Friedman test that the columns of (blocks, k) are equal.

    None for two columns; 1 if all columns are identical.
    """
    if table.shape[1] < 3:
        return None
    if (table == table[:, :1]).all():
        return 1.0
    return float(stats.friedmanchisquare(*table.T).pvalue)


def critical_difference(k: int, blocks: int) -> float:
    """Nemenyi's critical difference of average ranks of k contestants over N blocks.

    q sqrt(k (k + 1) / (6 N)), where q is the quantile of the studentized range over sqrt(2).
    """
    return _studentized_range(k) / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * blocks))


@lru_cache(maxsize=64)
def _studentized_range(k: int) -> float:
    return float(stats.studentized_range.ppf(LEVEL, k, np.inf))


def cliques(alike: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Maximal runs (first, last) of at least two indices among which all pairs are alike.

    alike: symmetric (k, k).
    """
    runs: list[tuple[int, int]] = []
    for first in range(len(alike)):
        last = first
        while last + 1 < len(alike) and alike[first : last + 1, last + 1].all():
            last += 1
        if last > first and (not runs or last > runs[-1][1]):
            runs.append((first, last))
    return tuple(runs)
