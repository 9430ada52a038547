"""A cell: one method with its options on one observation, and the hash that names it."""

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
"""Packages whose version is part of a cell's name."""


@dataclass(frozen=True, kw_only=True)
class Cell(Question):
    """What is to be computed.

    Args:
        metrics: names of the scores.
        skip: why it is not run, if it is not.
        packages: versions that are part of its name.
    """

    metrics: tuple[str, ...] = ()
    skip: str | None = None
    packages: dict[str, str] = field(
        default_factory=lambda: {name: versions()[name] for name in PACKAGES}
    )

    @property
    def digest(self) -> str:
        """The content address: 32 hex digits."""
        decides = {
            name: getattr(self, name)
            for name in (
                "truth",
                "seed",
                "samples",
                "budget",
                "tuned",
                "observation",
                "dtype",
                "packages",
            )
        }
        decides["device"] = self.device.split(":")[0]
        decides["problem"] = {
            name: option for name, option in self.problem.items() if name != "given"
        }
        decides["prior"] = self.prior["sha256"]
        decides["method"] = {name: self.method[name] for name in ("name", "options", "version")}
        return hashlib.sha256(
            json.dumps(decides, sort_keys=True, default=str).encode()
        ).hexdigest()[:32]

    def build_problem(self) -> Problem:
        return get_problem(self.problem["name"], **self.problem["options"])

    def build_method(self) -> Any:
        return get_method(self.method["name"], **self.method["options"])

    def record(self, **measured: Any) -> Record:
        """The row of this cell with what was measured."""
        return Record(
            cell=self.digest, **{**self.asks(), "device": self.device.split(":")[0]}, **measured
        )

    @classmethod
    def of(cls, record: Record) -> Cell:
        """The cell behind a record, under the versions of today."""
        return cls(**record.asks(), metrics=tuple(record.metrics))


def describe(
    problem: Problem, version: str, crop: int | None, given: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What a record says of a problem; `given` are the options that a suite set."""
    about = {
        "name": problem.name,
        "options": plain(values(problem)),
        "version": version,
        "given": given or {},
    }
    return about if crop is None else {**about, "crop": crop}


def plain(options: dict[str, Any]) -> dict[str, Any]:
    """Options as JSON gives them back, so that a cell read from a record has the same hash.

    Raises: InputError for a value that JSON does not have.
    """
    try:
        return json.loads(json.dumps(options, default=str, allow_nan=False))
    except ValueError as error:
        raise InputError(f"options {options}: a record cannot hold NaN or infinity") from error
