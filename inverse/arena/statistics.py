"""What records say, and how surely: pure functions of records.

A *setting* is a problem with its options, prior, device and precision; a *contestant* a method with its options and number of
samples; a *group* the records of one contestant in one setting under one budget, a row of the leaderboard. An *observation* is
one truth and seed of a setting.

Missing cells. A cell that failed, was skipped or has not run has no score; every group counts those, and its own mean is over the
cells that finished. Whatever compares contestants (ranks, tests, cliques) does so on observations that all of them finished: while
fewer than `KEEP` of the observations are common to all, the contestant that finished fewest is left out, and named. A target
(`solved`) counts an unfinished cell as one that did not reach it.

Seeds of one truth are averaged before anything is tested or resampled: they are no independent draws of the problem.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from scipy import stats

from inverse.arena.record import Record

LEVEL = 0.95
KEEP = 0.8
"""Share of the observations that a comparison must keep."""
MOST = 30
"""Contestants of one comparison: of more, those of best average rank."""
RESAMPLES = 4000
STEPS = "steps"
"""The option that a budget sets, and along which quality makes a curve."""


@dataclass(frozen=True)
class Metric:
    """How a score is read.

    Args:
        label, unit, digits: how it is printed.
        better: "higher", "lower", or the number it should be close to; None where we do not know, and do not rank.
        within: distances to the best (to the number, where there is one) that count as solved, from strict to lenient.
        relative: whether these are fractions of the best rather than in the metric's unit.
    """

    label: str
    better: str | float | None = None
    within: tuple[float, ...] = ()
    relative: bool = False
    unit: str = ""
    digits: int = 3

    def loss(self, value: float) -> float:
        """Smaller is better."""
        if isinstance(self.better, float):
            return abs(value - self.better)
        return -value if self.better == "higher" else value


METRICS: dict[str, Metric] = {
    "psnr": Metric("PSNR", "higher", (0.5, 1.0, 3.0), unit="dB", digits=2),
    "ssim": Metric("SSIM", "higher", (0.01, 0.03, 0.1)),
    "ms-ssim": Metric("MS-SSIM", "higher", (0.01, 0.03, 0.1)),
    "haarpsi": Metric("HaarPSI", "higher", (0.01, 0.03, 0.1)),
    "lpips": Metric("LPIPS", "lower", (0.01, 0.03, 0.1)),
    "dists": Metric("DISTS", "lower", (0.01, 0.03, 0.1)),
    "rmse": Metric("RMSE", "lower", (0.05, 0.1, 0.5), relative=True, digits=4),
    "area-rmse": Metric("area-weighted RMSE", "lower", (0.05, 0.1, 0.5), relative=True, digits=4),
    "crps": Metric("CRPS", "lower", (0.05, 0.1, 0.5), relative=True, digits=4),
    "energy-score": Metric("energy score", "lower", (0.05, 0.1, 0.5), relative=True, digits=4),
    "misfit": Metric("residual χ²", 1.0, (0.05, 0.1, 0.3)),
    "coverage": Metric("80 % coverage", 0.8, (0.05, 0.1, 0.2)),
    "spread-skill": Metric("spread/skill", 1.0, (0.05, 0.1, 0.3)),
}
"""Every score we ship and its direction; a plug-in's own is shown unranked until it is entered here."""

COSTS: dict[str, Metric] = {
    "seconds": Metric("seconds", "lower"),
    "calls": Metric("evaluations + VJPs", "lower", digits=0),
    "nfe": Metric("evaluations", "lower", digits=0),
    "vjp": Metric("VJPs", "lower", digits=0),
    "A": Metric("A", "lower", digits=0),
    "A_adjoint": Metric("Aᵀ", "lower", digits=0),
    "peak_memory": Metric("peak memory", "lower", unit="B", digits=0),
}
"""What a cell spent; calls are what a budget of evaluations limits: prior evaluations and VJPs together."""


def metric(name: str) -> Metric:
    """How to read a metric or a cost; a name that no table knows is read without a direction."""
    return METRICS.get(name) or COSTS.get(name) or Metric(name)


def value(record: Record, name: str) -> float | None:
    """A metric or a cost of one cell; None where it did not finish, or does not apply."""
    if record.status != "ok":
        return None
    found: float | None
    if name == "calls":
        found = record.cost.get("nfe", math.nan) + record.cost.get("vjp", math.nan)
    elif name in ("seconds", "peak_memory"):
        found = getattr(record, name)
    else:
        found = (record.cost if name in COSTS else record.metrics).get(name)
    return None if found is None or not math.isfinite(found) else float(found)


def metrics_of(records: Iterable[Record]) -> list[str]:
    """The metrics that occur, those of the table first and in its order."""
    found = {name for record in records for name in record.metrics}
    return [name for name in METRICS if name in found] + sorted(found - METRICS.keys())


# --- groups -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """The records of one contestant in one setting under one budget; the three are canonical JSON.

    `family` is the contestant without its steps: the points of one curve.
    """

    setting: str
    contestant: str
    budget: str
    family: str
    records: tuple[Record, ...] = field(repr=False)
    _estimates: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def count(self, status: str) -> int:
        return sum(record.status == status for record in self.records)

    def by_truth(self, name: str) -> dict[int, float]:
        """The mean over seeds at every truth that has one."""
        found = defaultdict(list)
        for record in self.records:
            if (score := value(record, name)) is not None:
                found[record.truth].append(score)
        return {truth: math.fsum(scores) / len(scores) for truth, scores in found.items()}

    def estimate(self, name: str) -> Estimate | None:
        """The mean over truths with its interval; None where no cell has the metric."""
        if name not in self._estimates:
            self._estimates[name] = estimate(list(self.by_truth(name).values()))
        return self._estimates[name]

    @cached_property
    def efficiency(self) -> float | None:
        """What the counted evaluations alone would take, over what the method took: sums over the cells where both were measured."""
        both = [(r.floor_seconds, r.seconds) for r in self.records if r.status == "ok" and r.floor_seconds is not None and r.seconds]
        return sum(floor for floor, _ in both) / sum(seconds for _, seconds in both) if both else None


def groups(records: Iterable[Record]) -> list[Group]:
    """Records by setting, contestant and budget, in the order in which they come.

    The steps that a budget has chosen are no part of the contestant, which is the same under every budget and on every problem;
    steps that the suite asked for are.
    """
    found: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        found[_setting(record), _contestant(record, without_steps=record.budget is not None), _key(record.budget)].append(record)
    pinned = {contestant for (_, contestant, _), cells in found.items() if len({(r.truth, r.seed) for r in cells}) < len(cells)}
    split: dict[tuple[str, str, str, str], list[Record]] = defaultdict(list)
    for (setting, contestant, budget), cells in found.items():
        for record in cells:
            own = _contestant(record, without_steps=False) if contestant in pinned else contestant
            split[setting, own, budget, _contestant(record, without_steps=True)].append(record)
    return [Group(setting, contestant, budget, family, tuple(cells)) for (setting, contestant, budget, family), cells in split.items()]


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _setting(record: Record) -> str:
    problem = {name: record.problem.get(name) for name in ("name", "options", "crop")}
    return _key({**problem, "prior": {name: record.prior.get(name) for name in ("name", "sha256")}, "device": record.device, "dtype": record.dtype})


def _contestant(record: Record, without_steps: bool) -> str:
    options = {name: option for name, option in record.method.get("options", {}).items() if not (without_steps and name == STEPS)}
    return _key({"name": record.method["name"], "options": options, "samples": record.samples})


# --- means and their intervals ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A mean over `truths` truths and its 95 % interval; no interval from a single truth."""

    mean: float
    low: float | None
    high: float | None
    truths: int


def estimate(values: Sequence[float]) -> Estimate | None:
    """The mean with an expanded bootstrap percentile interval, the same for the same values.

    The plain percentile interval of few values is too short: by sqrt((n - 1) / n), and for taking a normal for a t quantile. Its
    level is therefore raised to that of z = sqrt(n / (n - 1)) t(n - 1).
    Source: Hesterberg, What Teachers Should Know About the Bootstrap, The American Statistician 2015, section 4.
    """
    n = len(values)
    if not n:
        return None
    scores = np.asarray(sorted(values), dtype=float)  # whatever order the cells finished in
    mean = math.fsum(scores) / n
    if n == 1:
        return Estimate(mean, None, None, 1)
    level = _expanded(n)
    low, high = np.quantile(_resampling(n) @ (scores - mean), [1 - level, level]) + mean
    return Estimate(mean, float(low), float(high), n)


@lru_cache(maxsize=64)
def _resampling(n: int) -> np.ndarray:
    """Weights of the values in each resample: (RESAMPLES, n)."""
    return np.random.default_rng(n).multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n


@lru_cache(maxsize=256)
def _expanded(n: int) -> float:
    return float(stats.norm.cdf(math.sqrt(n / (n - 1)) * stats.t.ppf((1 + LEVEL) / 2, n - 1)))


# --- comparisons ------------------------------------------------------------------------------------------------------


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


def _common(losses: dict[str, dict[Any, float]], possible: set[Any]) -> tuple[list[str], list[Any], dict[str, int]]:
    """Who competes, on which observations, and who is left out; see the head of this module."""
    entered = {contestant: finished for contestant, finished in losses.items() if finished}
    left_out = {contestant: 0 for contestant, finished in losses.items() if not finished}
    while len(entered) > 1:
        common = set.intersection(*(set(finished) for finished in entered.values()))
        if len(common) >= KEEP * len(possible):
            break
        fewest = min(entered, key=lambda contestant: (len(entered[contestant]), contestant))
        left_out[fewest] = len(entered.pop(fewest))
    common = set.intersection(*(set(finished) for finished in entered.values())) if entered else set()
    return sorted(entered), sorted(common), left_out


def _blocks(losses: dict[str, dict[Any, float]], entered: Sequence[str], common: Sequence[Any]) -> np.ndarray:
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
        sums = np.array(np.meshgrid(*[[0, rank] for rank in ranks])).reshape(n, -1).sum(0)  # every assignment of signs
        return min(1.0, 2 * float(min(np.mean(sums <= positive + 1e-9), np.mean(sums >= positive - 1e-9))))
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


# --- cost against quality ---------------------------------------------------------------------------------------------


def solved(groups: Sequence[Group], name: str, within: float, cost: str) -> dict[str, list[Record]]:
    """The cells with which each family first reaches the target, cheapest first: the steps of its ECDF over `cost`.

    The target of an observation is the best value that anyone reached under any budget, give or take `within` (see `Metric`); for a
    metric with a number to be close to it is that number. Of several budgets and steps of a family the cheapest cell that
    reaches the target counts, so that a curve tells what share is solved if one may choose the steps. The denominator is
    `observations`, for everyone.

    Source of the idea: Hansen et al., COCO: a platform for comparing continuous optimizers, Optimization Methods and Software 2021.
    """
    reader = metric(name)
    if reader.better is None:
        return {}
    best: dict[Any, float] = {}
    cells: dict[str, dict[Any, list[tuple[float, Record]]]] = defaultdict(lambda: defaultdict(list))
    for group in groups:
        cells[group.family]
        for record in group.records:
            if (score := value(record, name)) is not None:
                seen = group.setting, record.truth, record.seed
                loss = reader.loss(score)
                best[seen] = 0.0 if isinstance(reader.better, float) else min(loss, best.get(seen, math.inf))
                cells[group.family][seen].append((loss, record))
    found = {}
    for family, blocks in cells.items():
        first = []
        for seen, tried in blocks.items():
            limit = best[seen] + within * (abs(best[seen]) if reader.relative else 1) + 1e-12
            reached = [record for loss, record in tried if loss <= limit and value(record, cost) is not None]
            if reached:
                first.append(min(reached, key=lambda record: (value(record, cost), record.cell)))
        found[family] = sorted(first, key=lambda record: (value(record, cost), record.cell))
    return found


def asked(groups: Iterable[Group]) -> dict[tuple[str, str], int]:
    """How many observations each (setting, budget) has: what every group there would hold if nothing were missing."""
    seen: dict[tuple[str, str], set[tuple[int, int]]] = defaultdict(set)
    for group in groups:
        seen[group.setting, group.budget] |= {(record.truth, record.seed) for record in group.records}
    return {key: len(found) for key, found in seen.items()}


def observations(groups: Iterable[Group]) -> int:
    """How many observations (setting, truth, seed) anyone was asked for: the denominator of an ECDF."""
    return len({(group.setting, record.truth, record.seed) for group in groups for record in group.records})


def pareto(points: Sequence[tuple[float, float] | None]) -> list[int]:
    """Indices of the (cost, loss) points that no other dominates, by rising cost; None is no point. Of equal points all stay."""
    order = sorted((point, i) for i, point in enumerate(points) if point is not None)
    front: list[int] = []
    lowest = math.inf
    for (cost, loss), i in order:
        if loss < lowest or (front and points[front[-1]] == (cost, loss)):
            front.append(i)
            lowest = loss
    return front


def front(groups: Sequence[Group], name: str, cost: str) -> list[int]:
    """Indices of the groups on the Pareto front of mean quality against mean cost."""
    reader = metric(name)
    if reader.better is None:
        return []
    means = [(group.estimate(cost), group.estimate(name)) for group in groups]
    return pareto([(c.mean, reader.loss(q.mean)) if c and q else None for c, q in means])


def curves(groups: Sequence[Group], axis: str) -> list[list[int]]:
    """Indices of the groups that make a curve, by rising `axis`: one family in one setting, at least two different values.

    axis: "steps", the option, or a cost, whose mean it is.
    """
    families: dict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)
    for i, group in enumerate(groups):
        if (at := position(group, axis)) is not None:
            families[group.setting, group.family].append((at, i))
    return [[i for _, i in sorted(points)] for points in families.values() if len({at for at, _ in points}) > 1]


def position(group: Group, axis: str) -> float | None:
    """Where a group stands along an axis of `curves`; None where it does not."""
    if axis != STEPS:
        found = group.estimate(axis)
        return found.mean if found else None
    steps = {record.method.get("options", {}).get(STEPS) for record in group.records if record.status == "ok"}
    (only,) = steps if len(steps) == 1 else (None,)
    return float(only) if isinstance(only, int | float) else None
