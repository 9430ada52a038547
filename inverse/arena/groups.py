"""Records as rows of a leaderboard.

A *setting* is a problem with its options, prior, device and precision. A *contestant* is a method
with its options and number of samples. A *group* is the records of a contestant in a setting under
a budget: a row of the leaderboard. An *observation* is a truth and a seed of a setting.

A cell that failed, was skipped or has not run has no score. Every group counts these cells; its
mean is over the cells that finished. The seeds of a truth are averaged before anything is tested
or resampled, because they are not independent draws of the problem.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from inverse.arena.estimate import Estimate, estimate
from inverse.arena.record import Record
from inverse.arena.values import value

STEPS = "steps"
"""The option that a budget sets, and that quality is plotted against."""


CLOCK_ERROR = 0.05
"""Relative error of a timed solve, within which an efficiency above 1 is 1."""


@dataclass(frozen=True)
class Group:
    """The records of a contestant in a setting under a budget.

    Args:
        setting, contestant, budget: canonical JSON.
        family: the contestant without its steps, canonical JSON; groups of a family are the
            points of a curve.
    """

    setting: str
    contestant: str
    budget: str
    family: str
    records: tuple[Record, ...] = field(repr=False)
    _estimates: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def count(self, status: str) -> int:
        """Number of cells with this status."""
        return sum(record.status == status for record in self.records)

    def by_truth(self, name: str) -> dict[int, float]:
        """Mean of a metric or cost over seeds, by truth."""
        scores = defaultdict(list)
        for record in self.records:
            if (score := value(record, name)) is not None:
                scores[record.truth].append(score)
        return {truth: math.fsum(seeds) / len(seeds) for truth, seeds in scores.items()}

    def estimate(self, name: str) -> Estimate | None:
        """Mean of a metric or cost over truths with its interval; None if no cell has it."""
        if name not in self._estimates:
            self._estimates[name] = estimate(list(self.by_truth(name).values()))
        return self._estimates[name]

    @cached_property
    def efficiency(self) -> float | None:
        """Time of the counted evaluations alone over the time of the method.

        Both are sums over the cells that have both; None if no cell has. The floor is the time of
        evaluations one after another, so that a ratio above 1 is an error of the two clocks: up to
        `CLOCK_ERROR` it counts as 1, and beyond it the efficiency is unknown.
        """
        times = [
            (r.floor_seconds, r.seconds)
            for r in self.records
            if r.status == "ok" and r.floor_seconds is not None and r.seconds
        ]
        if not times:
            return None
        ratio = sum(floor for floor, _ in times) / sum(seconds for _, seconds in times)
        return min(ratio, 1.0) if ratio <= 1 + CLOCK_ERROR else None


def grouped(records: Iterable[Record]) -> list[Group]:
    """Groups of records by setting, contestant and budget, in the order of the records.

    Steps that a budget chose do not belong to the contestant, which is the same under every budget
    and on every problem. Steps that the suite set do.
    """
    merged: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        contestant = _contestant(record, without_steps=record.budget is not None)
        merged[_setting(record), contestant, _key(record.budget)].append(record)
    with_steps = {
        contestant
        for (_, contestant, _), cells in merged.items()
        if len({(r.truth, r.seed) for r in cells}) < len(cells)
    }
    split: dict[tuple[str, str, str, str], list[Record]] = defaultdict(list)
    for (setting, merged_contestant, budget), cells in merged.items():
        for record in cells:
            family = _contestant(record, without_steps=True)
            contestant = (
                _contestant(record, without_steps=False)
                if merged_contestant in with_steps
                else merged_contestant
            )
            split[setting, contestant, budget, family].append(record)
    return [
        Group(setting, contestant, budget, family, tuple(cells))
        for (setting, contestant, budget, family), cells in split.items()
    ]


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _setting(record: Record) -> str:
    problem = {name: record.problem.get(name) for name in ("name", "options", "crop")}
    return _key(
        {
            **problem,
            "prior": {name: record.prior.get(name) for name in ("name", "sha256")},
            "device": record.device,
            "dtype": record.dtype,
        }
    )


def _contestant(record: Record, without_steps: bool) -> str:
    options = {
        name: option
        for name, option in record.method.get("options", {}).items()
        if not (without_steps and name == STEPS)
    }
    return _key({"name": record.method["name"], "options": options, "samples": record.samples})


def observations_asked(groups: Iterable[Group]) -> dict[tuple[str, str], int]:
    """Number of observations of each (setting, budget): the size of a complete group."""
    asked: dict[tuple[str, str], set[tuple[int, int]]] = defaultdict(set)
    for group in groups:
        observed = {(record.truth, record.seed) for record in group.records}
        asked[group.setting, group.budget] |= observed
    return {key: len(observed) for key, observed in asked.items()}


def observations(groups: Iterable[Group]) -> int:
    """Number of observations (setting, truth, seed) of all groups: the denominator of an ECDF."""
    return len(
        {(group.setting, record.truth, record.seed) for group in groups for record in group.records}
    )
