"""Records as rows of a leaderboard.

A *setting* is a problem with its options, prior, device and precision; a *contestant* a method with its options and number of
samples; a *group* the records of one contestant in one setting under one budget, a row of the leaderboard. An *observation* is
one truth and seed of a setting.

A cell that failed, was skipped or has not run has no score; every group counts those, and its own mean is over the cells that
finished. Seeds of one truth are averaged before anything is tested or resampled: they are no independent draws of the problem.
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
"""The option that a budget sets, and along which quality makes a curve."""


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
        both = [
            (r.floor_seconds, r.seconds)
            for r in self.records
            if r.status == "ok" and r.floor_seconds is not None and r.seconds
        ]
        return (
            sum(floor for floor, _ in both) / sum(seconds for _, seconds in both) if both else None
        )


def grouped(records: Iterable[Record]) -> list[Group]:
    """Records by setting, contestant and budget, in the order in which they come.

    The steps that a budget has chosen are no part of the contestant, which is the same under every budget and on every problem;
    steps that the suite asked for are.
    """
    found: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        found[
            _setting(record),
            _contestant(record, without_steps=record.budget is not None),
            _key(record.budget),
        ].append(record)
    pinned = {
        contestant
        for (_, contestant, _), cells in found.items()
        if len({(r.truth, r.seed) for r in cells}) < len(cells)
    }
    split: dict[tuple[str, str, str, str], list[Record]] = defaultdict(list)
    for (setting, contestant, budget), cells in found.items():
        for record in cells:
            own = _contestant(record, without_steps=False) if contestant in pinned else contestant
            split[setting, own, budget, _contestant(record, without_steps=True)].append(record)
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
    """How many observations each (setting, budget) has: what every group there would hold if nothing were missing."""
    seen: dict[tuple[str, str], set[tuple[int, int]]] = defaultdict(set)
    for group in groups:
        seen[group.setting, group.budget] |= {
            (record.truth, record.seed) for record in group.records
        }
    return {key: len(found) for key, found in seen.items()}


def observations(groups: Iterable[Group]) -> int:
    """How many observations (setting, truth, seed) anyone was asked for: the denominator of an ECDF."""
    return len(
        {(group.setting, record.truth, record.seed) for group in groups for record in group.records}
    )
