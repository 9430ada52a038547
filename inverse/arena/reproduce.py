"""Computes a cell again from its record alone, and compares the answers."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

from inverse.arena.bank import Bank
from inverse.arena.cell import Cell
from inverse.arena.record import Record, read_records
from inverse.arena.run import load_artifact
from inverse.arena.source import core_version, prior_hash
from inverse.arena.worker import Outcome, Worker
from inverse.engine import versions
from inverse.errors import InputError
from inverse.registry.source import version_of
from inverse.result import Result


@dataclass(frozen=True)
class Comparison:
    """A recorded answer against a new one.

    Args:
        equal: whether the artifacts are the same bit for bit.
        differences: what differs from the record, in words.
        largest_difference: of a sample; None without the recorded artifact.
        outcome: the new answer.
    """

    equal: bool
    differences: list[str]
    largest_difference: float | None
    outcome: Outcome


def find(folder: Path, cell: str) -> Record:
    """The record of the cell whose name begins with these digits.

    Raises: InputError if there is none, or more than one.
    """
    matches = [record for record in read_records(folder) if record.cell.startswith(cell)]
    if len(matches) != 1:
        raise InputError(
            f"cell '{cell}': {len(matches) or 'no'} records in {folder} begin with these digits; "
            f"`inverse bench ls {folder}` lists them"
        )
    return matches[0]


def reproduce(folder: Path, cell: str) -> Comparison:
    """Draw the observation again, solve and compare.

    Raises: InputError if y or the prior differs from the record, so that answers do not compare.
    """
    record = find(folder, cell)
    worker = Worker()
    wanted = Cell.of(record)
    problem = wanted.build_problem()
    sha256 = prior_hash(problem.resolve_prior(wanted.prior["source"]))
    if sha256 != record.prior["sha256"]:
        raise InputError(
            f"cell {cell}: prior {record.prior['name']} has sha256 {sha256[:12]}..., "
            f"the record has {record.prior['sha256'][:12]}..."
        )
    observation = Bank(None).get(problem, wanted.problem, record.truth, record.seed)
    if observation.sha256 != record.observation:
        now, recorded = observation.sha256[:12], record.observation[:12]
        raise InputError(
            f"cell {cell}: y has sha256 {now}... now, {recorded}... in the record; "
            f"{_changed_versions(record, wanted) or 'no version changed'}"
        )
    outcome = worker.compute(wanted, observation)
    new = outcome.record
    differences = [
        f"{name} is {getattr(new, name)!r}, was {getattr(record, name)!r}"
        for name in ("status", "reason", "cost", "metrics")
        if getattr(new, name) != getattr(record, name)
    ]
    digest = None if outcome.artifact is None else hashlib.sha256(outcome.artifact).hexdigest()
    equal = digest == record.artifact_sha256 and not differences
    if not equal and (changed := _changed_versions(record, wanted)):
        differences.append(changed)
    return Comparison(equal, differences, _largest_difference(folder, record, outcome), outcome)


def _changed_versions(record: Record, cell: Cell) -> str:
    """Which versions differ from those of the record, in words."""
    method, problem = record.method["name"], record.problem["name"]
    now = {
        **versions(),
        "core": core_version(),
        method: version_of(type(cell.build_method())),
        problem: version_of(type(cell.build_problem())),
    }
    then = {
        **record.versions,
        method: record.method.get("version", ""),
        problem: record.problem.get("version", ""),
    }
    changed = [
        f"{name} {then[name]} -> {now[name]}"
        for name in now
        if name in then and then[name] != now[name]
    ]
    return f"versions changed: {', '.join(changed)}" if changed else ""


def _largest_difference(folder: Path, record: Record, outcome: Outcome) -> float | None:
    if outcome.artifact is None or record.artifact is None:
        return None
    if not (folder / record.artifact).is_file():
        return None
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "again.h5"
        path.write_bytes(outcome.artifact)
        difference = Result.load(path).samples - load_artifact(folder, record).samples
    return float(difference.abs().max())
