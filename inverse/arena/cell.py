"""A cell: a method with its options on an observation, and the hash that identifies it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from inverse.arena.record import Question, Record
from inverse.engine import versions
from inverse.errors import InputError
from inverse.problem import Problem
from inverse.registry.discovery import get_method, get_problem
from inverse.registry.options import values

PACKAGES = ("inverse-posterior", "torch", "deepinv")
"""Packages whose version is part of the hash of a cell."""
HASHED_FIELDS = (
    "truth",
    "seed",
    "samples",
    "budget",
    "tuned",
    "observation",
    "dtype",
    "packages",
)
"""Fields that enter the hash of a cell unchanged."""


@dataclass(frozen=True, kw_only=True)
class Cell(Question):
    """A question with everything that its computation needs.

    Args:
        metrics: names of the metrics.
        skip: reason why the cell is not run; None if it is.
        packages: versions that are part of the hash.
    """

    metrics: tuple[str, ...] = ()
    skip: str | None = None
    packages: dict[str, str] = field(
        default_factory=lambda: {name: versions()[name] for name in PACKAGES}
    )

    @property
    def digest(self) -> str:
        """The content address: 32 hex digits."""
        inputs = {name: getattr(self, name) for name in HASHED_FIELDS}
        inputs["device"] = self.device.split(":")[0]
        inputs["problem"] = {
            name: option for name, option in self.problem.items() if name != "given"
        }
        inputs["prior"] = self.prior["sha256"]
        inputs["method"] = {name: self.method[name] for name in ("name", "options", "version")}
        text = json.dumps(inputs, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def build_problem(self) -> Problem:
        """The problem with its options."""
        return get_problem(self.problem["name"], **self.problem["options"])

    def build_method(self) -> Any:
        """The method with its options."""
        return get_method(self.method["name"], **self.method["options"])

    def record(self, **measured: Any) -> Record:
        """The record of this cell with the fields that were measured."""
        question = {**self.question(), "device": self.device.split(":")[0]}
        return Record(cell=self.digest, **question, **measured)

    @classmethod
    def of(cls, record: Record) -> Cell:
        """The cell of a record, under the versions installed now."""
        return cls(**record.question(), metrics=tuple(record.metrics))


def describe(
    problem: Problem, version: str, crop: int | None, given: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The field `problem` of a record; `given` are the options that a suite set."""
    description = {
        "name": problem.name,
        "options": plain(values(problem)),
        "version": version,
        "given": given or {},
    }
    return description if crop is None else {**description, "crop": crop}


def plain(options: dict[str, Any]) -> dict[str, Any]:
    """Options after a round trip through JSON, so that a cell read from a record has the same hash.

    Raises: InputError for NaN and infinity, which JSON cannot represent.
    """
    try:
        return json.loads(json.dumps(options, default=str, allow_nan=False))
    except ValueError as error:
        raise InputError(f"options {options}: a record cannot hold NaN or infinity") from error
