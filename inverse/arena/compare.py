"""Two record sets: what moved between them, with intervals, and whether anything got worse."""

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
class Move:
    """How one score of one method on one problem changed.

    Args:
        problem, method: in words.
        budget: its limits, or None.
        metric: a metric, nfe, vjp, seconds or peak_memory.
        before: mean over the truths of the first set.
        change: second less first, paired by truth, with its interval.
        worse: whether it is a regression: worse by more than the threshold, and the interval has no zero in it.
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
    """Moves, and cells without a partner or with another fate, in words."""

    moves: list[Move]
    broken: list[str]
    notes: list[str]

    @property
    def regressed(self) -> bool:
        return bool(self.broken) or any(move.worse for move in self.moves)


def compare_records(
    first: Iterable[Record],
    second: Iterable[Record],
    names: list[str] | None = None,
    threshold: float = 0.01,
) -> Comparison:
    """Pair the cells of two sets by what was asked (problem, method, the options a suite set, budget, truth, seed) and compare them.

    Args:
        names: metrics and costs; by default all metrics that have a direction, and nfe and vjp.
        threshold: the change of a mean, as a fraction of what it was (of the metric's ideal, where it has one), above which worse counts.

    Raises: InputError if no cell is in both, or a name is in neither.
    """
    before, after = ({_asked(record): record for record in records} for records in (first, second))
    both = sorted(before.keys() & after.keys())
    if not both:
        raise InputError(
            f"bench compare: none of {len(before)} and {len(after)} cells ask for the same; were they made by one suite?"
        )
    broken, notes = [], []
    for where, count in (
        ("first", len(before.keys() - after.keys())),
        ("second", len(after.keys() - before.keys())),
    ):
        if count:
            notes.append(f"{count} cells are in the {where} set alone")
    for key in both:
        if before[key].status == "ok" and after[key].status != "ok":
            record = after[key]
            broken.append(
                f"{record.problem['name']}, {label(record)}, truth {record.truth}, seed {record.seed}: {record.status} ({record.reason})"
            )
    cells = defaultdict(list)
    for key in both:
        cells[key[:-2]].append((before[key], after[key]))
    chosen = names or [*_directed(before.values()), "nfe", "vjp"]
    moves = [
        move
        for pairs in cells.values()
        for name in chosen
        if (move := _move(pairs, name, threshold))
    ]
    if names and (unknown := sorted(set(names) - {move.metric for move in moves})):
        raise InputError(f"bench compare: no cell of both sets has the metric '{unknown[0]}'")
    return Comparison(moves, broken, notes)


def label(record: Record) -> str:
    """A method with the options that the suite set: "dps (steps 50)"."""
    given = ", ".join(f"{name} {option}" for name, option in record.method.get("given", {}).items())
    return f"{record.method['name']} ({given})" if given else record.method["name"]


def _move(pairs: list[tuple[Record, Record]], name: str, threshold: float) -> Move | None:
    changes, levels = defaultdict(list), defaultdict(list)
    for old, new in pairs:
        a, b = value(old, name), value(new, name)
        if a is not None and b is not None:
            changes[old.truth].append((a, b))
            levels[old.truth].append(a)
    if not changes:
        return None
    rule, record = metric(name), pairs[0][0]
    change = estimate([_mean(b - a for a, b in found) for found in changes.values()])
    loss = estimate(
        [_mean(rule.loss(b) - rule.loss(a) for a, b in found) for found in changes.values()]
    )
    before = _mean(_mean(found) for found in levels.values())
    assert change is not None
    assert loss is not None
    scale = abs(before if rule.ideal is None else rule.ideal)
    worse = (
        rule.better is not None
        and loss.mean > threshold * scale
        and (loss.low is None or loss.low > 0)
    )
    return Move(_problem(record), label(record), record.budget, name, before, change, worse)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def _directed(records: Iterable[Record]) -> list[str]:
    return sorted(
        {name for record in records for name in record.metrics if metric(name).better is not None}
    )


def _problem(record: Record) -> str:
    options = ", ".join(
        f"{name} {option}" for name, option in record.problem.get("given", {}).items()
    )
    return f"{record.problem['name']} ({options})" if options else record.problem["name"]


def _asked(record: Record) -> tuple[Any, ...]:
    return json.dumps(record.asked, sort_keys=True), record.truth, record.seed
