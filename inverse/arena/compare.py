"""Compares two record sets: changes of every score with intervals, and regressions."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from inverse.arena.estimate import Estimate, estimate
from inverse.arena.record import Record
from inverse.arena.values import metric, value
from inverse.errors import InputError


@dataclass(frozen=True)
class Change:
    """The change of one score of one method on one problem.

    Args:
        problem, method: labels.
        budget: limits, or None.
        metric: a metric, nfe, vjp, seconds or peak_memory.
        before: mean over the truths of the first set.
        change: second set minus first, paired by truth, with its interval.
        worse: whether the change is a regression: it is worse by more than the threshold, and the
            interval does not contain zero.
    """

    problem: str
    method: str
    budget: dict[str, float] | None
    metric: str
    before: float
    change: Estimate
    worse: bool


@dataclass(frozen=True)
class Comparison:
    """Changes, and in words the cells that no longer finish and those in one set only."""

    changes: list[Change]
    broken: list[str]
    notes: list[str]

    @property
    def regressed(self) -> bool:
        """Whether a score got worse, or a cell no longer finishes."""
        return bool(self.broken) or any(change.worse for change in self.changes)


def compare_records(
    first: Iterable[Record],
    second: Iterable[Record],
    names: list[str] | None = None,
    threshold: float = 0.01,
) -> Comparison:
    """Compare the cells of two sets, paired by their question.

    The question is the problem, the method, the options that a suite set, budget, truth and seed.

    Args:
        names: metrics and costs; by default all metrics that have a direction, nfe and vjp.
        threshold: smallest relative loss that counts as worse, as a fraction of the mean before
            (of the ideal value, for a metric that has one).

    Raises: InputError if no cell is in both sets, or a name is in neither.
    """
    before, after = ({_question(record): record for record in rows} for rows in (first, second))
    both = sorted(before.keys() & after.keys())
    if not both:
        raise InputError(
            f"bench compare: the sets of {len(before)} and {len(after)} cells have none in common; "
            "were they made by one suite?"
        )
    broken, notes = [], []
    if count := len(before.keys() - after.keys()):
        notes.append(f"{count} cells are in the first set only")
    if count := len(after.keys() - before.keys()):
        notes.append(f"{count} cells are in the second set only")
    for key in both:
        if before[key].status == "ok" and after[key].status != "ok":
            record = after[key]
            broken.append(
                f"{record.problem['name']}, {label(record)}, truth {record.truth}, "
                f"seed {record.seed}: {record.status} ({record.reason})"
            )
    cells = defaultdict(list)
    for key in both:
        cells[key[:-2]].append((before[key], after[key]))
    chosen = names or [*_directed(before.values()), "nfe", "vjp"]
    changes = [
        change
        for pairs in cells.values()
        for name in chosen
        if (change := _change(pairs, name, threshold))
    ]
    if names and (unknown := sorted(set(names) - {change.metric for change in changes})):
        raise InputError(f"bench compare: no cell of both sets has the metric '{unknown[0]}'")
    return Comparison(changes, broken, notes)


def label(record: Record) -> str:
    """A method with the options that the suite set: "dps (steps 50)"."""
    given = ", ".join(f"{name} {option}" for name, option in record.method.get("given", {}).items())
    return f"{record.method['name']} ({given})" if given else record.method["name"]


def _change(pairs: list[tuple[Record, Record]], name: str, threshold: float) -> Change | None:
    by_truth = defaultdict(list)
    for old, new in pairs:
        a, b = value(old, name), value(new, name)
        if a is not None and b is not None:
            by_truth[old.truth].append((a, b))
    if not by_truth:
        return None
    rule, record = metric(name), pairs[0][0]
    change = estimate([_mean(b - a for a, b in seeds) for seeds in by_truth.values()])
    loss = estimate(
        [_mean(rule.loss(b) - rule.loss(a) for a, b in seeds) for seeds in by_truth.values()]
    )
    before = _mean(_mean(a for a, _ in seeds) for seeds in by_truth.values())
    assert change is not None
    assert loss is not None
    scale = abs(before if rule.ideal is None else rule.ideal)
    worse = (
        rule.better is not None
        and loss.mean > threshold * scale
        and (loss.low is None or loss.low > 0)
    )
    return Change(_problem(record), label(record), record.budget, name, before, change, worse)


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)


def _directed(records: Iterable[Record]) -> list[str]:
    return sorted(
        {name for record in records for name in record.metrics if metric(name).better is not None}
    )


def _problem(record: Record) -> str:
    options = ", ".join(
        f"{name} {option}" for name, option in record.problem.get("given", {}).items()
    )
    return f"{record.problem['name']} ({options})" if options else record.problem["name"]


def _question(record: Record) -> tuple[Any, ...]:
    return json.dumps(record.suite_settings, sort_keys=True), record.truth, record.seed
