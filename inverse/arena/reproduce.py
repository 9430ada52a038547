"""Computes one recorded cell again, from nothing but its record, and says whether the answer is the same."""

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
    """What came of it.

    Args:
        equal: whether the artifact is the same bit for bit.
        differs: what is not as recorded, in words.
        difference: largest difference of a sample, where the recorded artifact is there.
        outcome: the cell as computed now.
    """

    equal: bool
    differs: list[str]
    difference: float | None
    outcome: Outcome


def find(folder: Path, cell: str) -> Record:
    """The record whose cell begins so.

    Raises: InputError if there is none, or more than one.
    """
    found = [record for record in read_records(folder) if record.cell.startswith(cell)]
    if len(found) != 1:
        raise InputError(
            f"cell '{cell}': {len(found) or 'no'} records in {folder} begin so; `inverse bench ls {folder}` lists them"
        )
    return found[0]


def reproduce(folder: Path, cell: str) -> Comparison:
    """Draw the observation anew, solve, compare.

    Raises: InputError if y or the prior is not what was recorded: then nothing can be compared.
    """
    record = find(folder, cell)
    worker = Worker()
    wanted = Cell.of(record)
    problem = wanted.build_problem()
    if (found := prior_hash(problem.resolve_prior(wanted.prior["source"]))) != record.prior[
        "sha256"
    ]:
        raise InputError(
            f"cell {cell}: prior {record.prior['name']} has sha256 {found[:12]}..., the record says {record.prior['sha256'][:12]}..."
        )
    observation = Bank(None).get(problem, wanted.problem, record.truth, record.seed)
    if observation.sha256 != record.observation:
        here, then = observation.sha256[:12], record.observation[:12]
        raise InputError(
            f"cell {cell}: y has sha256 {here}... here, {then}... in the record; {_changed(record, wanted) or 'no version changed'}"
        )
    outcome = worker.compute(wanted, observation)
    new = outcome.record
    pairs = {
        name: (getattr(new, name), getattr(record, name))
        for name in ("status", "reason", "cost", "metrics")
    }
    differs = [
        f"{name} is {now!r}, was {then!r}" for name, (now, then) in pairs.items() if now != then
    ]
    digest = None if outcome.artifact is None else hashlib.sha256(outcome.artifact).hexdigest()
    equal = digest == record.artifact_sha256 and not differs
    if not equal and (changed := _changed(record, wanted)):
        differs.append(changed)
    return Comparison(equal, differs, _difference(folder, record, outcome), outcome)


def _changed(record: Record, cell: Cell) -> str:
    """Which versions are others than they were, in words."""
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


def _difference(folder: Path, record: Record, outcome: Outcome) -> float | None:
    if (
        outcome.artifact is None
        or record.artifact is None
        or not (folder / record.artifact).is_file()
    ):
        return None
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "again.h5"
        path.write_bytes(outcome.artifact)
        return float(
            (Result.load(path).samples - load_artifact(folder, record).samples).abs().max()
        )
