"""A cell: one method with its options on one observation, and the hash that names it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from inverse.arena.record import Record
from inverse.engine import versions
from inverse.errors import InputError
from inverse.options import values
from inverse.plugins import get_method, get_problem
from inverse.problem import Problem

PACKAGES = ("inverse-posterior", "torch", "deepinv")
"""Packages whose version is part of a cell's name."""


@dataclass(frozen=True)
class Cell:
    """What is to be computed; plain values only, so that it travels to any worker.

    Args:
        problem: name, options, version, `given`, those options that the suite set, and crop (pixels) for squares of photographs.
        method: name, options, version and `given`, those options that the suite set.
        prior: name, sha256 and source, the name or path it is loaded from (None for the problem's own).
        truth, seed, samples: which observation, which randomness, how many samples.
        budget: its limits, or None.
        tuned: where the options come from.
        observation: sha256 of y.
        device, dtype: where and in which precision.
        metrics: names of the scores.
        gpus: share of a GPU that a Ray worker needs for it.
        skip: why it is not run, if it is not.
    """

    problem: dict[str, Any]
    method: dict[str, Any]
    prior: dict[str, Any]
    truth: int
    seed: int
    samples: int
    budget: dict[str, float] | None
    tuned: str
    observation: str
    device: str
    dtype: str
    metrics: tuple[str, ...] = ()
    skip: str | None = None
    packages: dict[str, str] = field(default_factory=lambda: {name: versions()[name] for name in PACKAGES})

    @property
    def digest(self) -> str:
        """The content address: 32 hex digits."""
        decides = {name: getattr(self, name) for name in ("truth", "seed", "samples", "budget", "tuned", "observation", "dtype", "packages")}
        decides["device"] = self.device.split(":")[0]
        decides["problem"] = {name: option for name, option in self.problem.items() if name != "given"}
        decides["prior"] = self.prior["sha256"]
        decides["method"] = {name: self.method[name] for name in ("name", "options", "version")}
        return hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()[:32]

    def build_problem(self) -> Problem:
        return get_problem(self.problem["name"], **self.problem["options"])

    def build_method(self) -> Any:
        return get_method(self.method["name"], **self.method["options"])

    def record(self, **measured: Any) -> Record:
        """The row of this cell with what was measured."""
        shared = {name: getattr(self, name) for name in ("problem", "method", "prior", "truth", "seed", "samples", "budget", "tuned", "observation", "dtype")}
        return Record(cell=self.digest, device=self.device.split(":")[0], **shared, **measured)

    @classmethod
    def of(cls, record: Record) -> Cell:
        """The cell behind a record, under the versions of today."""
        names = {f.name for f in dataclasses.fields(cls)} & {f.name for f in dataclasses.fields(Record)}
        return cls(**{**{name: getattr(record, name) for name in names}, "metrics": tuple(record.metrics)})


def describe(problem: Problem, version: str, crop: int | None, given: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a record says of a problem; `given` are the options that a suite set."""
    about = {"name": problem.name, "options": plain(values(problem)), "version": version, "given": given or {}}
    return about if crop is None else {**about, "crop": crop}


def plain(options: dict[str, Any]) -> dict[str, Any]:
    """Options as JSON gives them back, so that a cell read from a record has the same hash.

    Raises: InputError for a value that JSON does not have.
    """
    try:
        return json.loads(json.dumps(options, default=str, allow_nan=False))
    except ValueError as error:
        raise InputError(f"options {options}: a record cannot hold NaN or infinity") from error
