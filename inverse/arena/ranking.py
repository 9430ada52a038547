"""Which differences between contestants are real: paired differences to the best, average ranks, tests of all pairs, cliques.

Contestants are compared on observations that all of them finished: while fewer than `KEEP` of the observations are common to all,
the contestant that finished fewest is left out, and named.
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
"""Share of the observations that a comparison must keep."""
MOST = 30
"""Contestants of one comparison: of more, those of best average rank."""
LEAST = 5
"""Truths below which nobody is told from the best: five differences have one sign by chance once in 32 times, four in 16."""


@dataclass(frozen=True)
class Comparison:
    """Contestants ranked and tested on common observations.

    Args:
        metric: what they are compared by.
        contestants: best average rank first.
        ranks: average ranks, 1 the best.
        blocks: truths (seeds averaged) that the ranks are over.
        observations: common to all, of `possible`.
        p: Holm-adjusted p values of the paired Wilcoxon signed-rank tests, (k, k), 1 on the diagonal.
        friedman: p value of the hypothesis that all are equal; None for two.
        critical_difference: Nemenyi's, of average ranks.
        cliques: (first, last) of each maximal run of contestants among whom no test found a difference, longer than one.
        nemenyi: the same by the critical difference.
        left_out: contestants outside the comparison with the observations they finished.
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
    """Compare the contestants of groups under one budget by a metric; None with fewer than two, or a metric without direction.

    Average ranks over blocks, the Friedman test, Wilcoxon signed-rank tests of all pairs with Holm's correction, and Nemenyi's
    critical difference. Cliques follow the pairwise tests, which unlike mean ranks do not depend on who else competes.

    Sources: Demšar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 2006; Benavoli, Corani, Mangili, Should We
    Really Use Post-Hoc Tests Based on Mean-Ranks?, JMLR 2016. Blocks of several problems are taken as independent.

    Raises: ValueError if the groups are of several budgets.
    """
    if len({group.budget for group in groups}) > 1:
        raise ValueError("compare: groups of one budget only")
    if metric(name).better is None:
        return None
    losses: dict[str, dict[tuple[str, int, int], float]] = defaultdict(dict)
    possible = set()
    for group in groups:
        losses.setdefault(group.contestant, {})
        for record in group.records:
            possible.add(seen := (group.setting, record.truth, record.seed))
            if (score := value(record, name)) is not None:
                losses[group.contestant][seen] = metric(name).loss(score)
    possible = {seen for seen in possible if any(seen in finished for finished in losses.values())}
    entered, common, left_out = _common(losses, possible)
    if len(entered) < 2 or not common:
        return None
    table = _blocks(losses, entered, common)
    if len(entered) > MOST:
        best = np.argsort(stats.rankdata(table, axis=1).mean(0), kind="stable")
        left_out |= {entered[i]: len(common) for i in best[MOST:]}
        entered, table = [entered[i] for i in best[:MOST]], table[:, best[:MOST]]
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
    """Indices of the groups of one setting that its best mean is not told from: that one first, the others by their means.

    A group is told apart where the 95 % interval of its paired difference to the best, over truths with their seeds averaged, lies
    above zero, and there are at least `LEAST` truths. Only groups that finished the most cells take part. Empty without a direction.
    """
    reader = metric(name)
    most = max((group.count("ok") for group in groups), default=0)
    losses = {
        i: {truth: reader.loss(score) for truth, score in group.by_truth(name).items()}
        for i, group in enumerate(groups)
        if group.count("ok") == most
    }
    means = {i: reader.loss(found.mean) for i in losses if (found := groups[i].estimate(name))}
    if reader.better is None or not means:
        return []
    first, *rest = sorted(means, key=lambda i: (means[i], i))
    return [first, *(i for i in rest if not _behind(losses[i], losses[first]))]


def _behind(losses: dict[int, float], best: dict[int, float]) -> bool:
    """Whether the paired differences over common truths leave no doubt."""
    found = estimate([losses[truth] - best[truth] for truth in losses.keys() & best.keys()])
    return found is not None and found.truths >= LEAST and found.low is not None and found.low > 0


def _common(
    losses: dict[str, dict[Any, float]], possible: set[Any]
) -> tuple[list[str], list[Any], dict[str, int]]:
    """Who competes, on which observations, and who is left out; see the head of this module."""
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
    """Losses with the seeds of a truth averaged: (blocks, contestants)."""
    blocks: dict[Any, list[list[float]]] = defaultdict(list)
    for seen in common:
        blocks[seen[:-1]].append([losses[contestant][seen] for contestant in entered])
    return np.array([np.mean(rows, axis=0) for rows in blocks.values()])


def pairwise(table: np.ndarray) -> np.ndarray:
    """Holm-adjusted p values of two-sided Wilcoxon signed-rank tests between the columns of (blocks, k): (k, k).

    Exact up to 50 blocks without ties; pairs that never differ have p = 1.
    """
    k = table.shape[1]
    left, right = np.triu_indices(k, 1)
    p = np.ones((k, k))
    p[left, right] = holm([wilcoxon(column) for column in (table[:, left] - table[:, right]).T])
    return np.minimum(p, p.T)


def wilcoxon(differences: np.ndarray) -> float:
    """Two-sided p value of the signed-rank test, zeros dropped; exact up to 50 differences without ties, else the normal approximation."""
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
        sums = (
            np.array(np.meshgrid(*[[0, rank] for rank in ranks])).reshape(n, -1).sum(0)
        )  # every assignment of signs
        return min(
            1.0, 2 * float(min(np.mean(sums <= positive + 1e-9), np.mean(sums >= positive - 1e-9)))
        )
    variance = total * (2 * n + 1) / 12 - float((counts**3 - counts).sum()) / 48
    return math.erfc(abs(positive - total / 2) / math.sqrt(2 * variance))


@lru_cache(maxsize=64)
def _signed_rank(n: int) -> np.ndarray:
    """Null distribution function of the sum of positive ranks 1..n."""
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
    """p value of the Friedman test that the columns of (blocks, k) are equal; None for two columns, 1 where nothing differs."""
    if table.shape[1] < 3:
        return None
    if (table == table[:, :1]).all():
        return 1.0
    return float(stats.friedmanchisquare(*table.T).pvalue)


def critical_difference(k: int, blocks: int) -> float:
    """Nemenyi's critical difference of average ranks, q sqrt(k (k + 1) / (6 N)) with q the studentized range over sqrt 2."""
    return _studentized_range(k) / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * blocks))


@lru_cache(maxsize=64)
def _studentized_range(k: int) -> float:
    return float(stats.studentized_range.ppf(LEVEL, k, np.inf))


def cliques(alike: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Maximal runs (first, last) of more than one index within which all pairs of the symmetric (k, k) are alike."""
    runs: list[tuple[int, int]] = []
    for first in range(len(alike)):
        last = first
        while last + 1 < len(alike) and alike[first : last + 1, last + 1].all():
            last += 1
        if last > first and (not runs or last > runs[-1][1]):
            runs.append((first, last))
    return tuple(runs)
