"""What the arena keeps of a cell: one JSON object a line in `records.jsonl`, appended and synced as soon as the cell ends.

A cell is one method with its options on one observation; its name is the hash of all that decides its numbers. Rows are only
ever appended: where a cell was run again the last row counts, and one that was cut off in the middle is no row.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inverse.errors import InputError
from inverse.io.files import strict_json

FORMAT = "inverse-record 1"
RECORDS = "records.jsonl"
STATUSES = ("ok", "failed", "skipped")


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a cell asks. Plain values only, so that it travels to any worker and into JSON.

    Args:
        problem: name, options and version (of its source), `given` (the options that the suite set); crop (pixels) where the truth is
            cut to a square.
        method: name, options, version (of its source) and `given` (the options that the suite set; a budget's steps are not among them).
        prior: name, sha256 (of its weights) and source (the name or path it is loaded from; None for the problem's own).
        truth: index of the truth among those of the problem.
        seed: of the measurement noise and of the method.
        samples: posterior samples to draw.
        budget: the limit under which it runs: nfe, vjp (with nfe, their sum) or seconds; None for no limit.
        tuned: "defaults", "set by the suite", or the tuning split that the options come from.
        observation: sha256 of y.
        device, dtype: where and in which precision.
    """

    problem: dict[str, Any]
    method: dict[str, Any]
    prior: dict[str, Any]
    truth: int
    seed: int
    samples: int
    budget: dict[str, float] | None = None
    tuned: str = "defaults"
    observation: str = ""
    device: str = "cpu"
    dtype: str = "float32"

    def asks(self) -> dict[str, Any]:
        """These fields, without those of a subclass."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(Question)}


@dataclass(frozen=True, kw_only=True)
class Record(Question):
    """One row of the leaderboard: a question and what came of it.

    Args:
        cell: hex digest, the content address of everything that decides the numbers.
        status: ok, failed or skipped.
        reason: why it failed or was skipped.
        metrics: by name; None where a metric does not apply.
        cost: nfe, vjp, A and A_adjoint per sample.
        seconds: wall time inside the method.
        floor_seconds: what its evaluations alone take here, measured; None where that was not measured.
        peak_memory: bytes above what was held before the solve.
        executor: how it ran.
        versions: of what decides a result.
        artifact: path of the HDF5 result, relative to the records' folder.
        artifact_sha256: of that file.
        command: the shell command that does the cell again.
        started: ISO time.
    """

    cell: str
    status: str = "ok"
    reason: str | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    floor_seconds: float | None = None
    peak_memory: int | None = None
    executor: str = "local"
    versions: dict[str, str] = field(default_factory=dict)
    artifact: str | None = None
    artifact_sha256: str | None = None
    command: str = ""
    started: str = ""

    @property
    def asked(self) -> list[Any]:
        """What a suite asked of every truth and seed: names, the options that it set, budget, samples, device and precision."""
        problem, method = (
            table.get("given", table.get("options", {})) for table in (self.problem, self.method)
        )
        names = [
            self.problem["name"],
            problem,
            self.problem.get("crop"),
            self.prior["name"],
            self.method["name"],
            method,
        ]
        return [*names, self.budget, self.samples, self.device, self.dtype]

    @property
    def slot(self) -> str:
        """What was asked of this truth and seed, without the versions it was answered with: two rows of one slot are an old and a new answer."""
        return json.dumps([*self.asked, self.truth, self.seed], sort_keys=True)

    def to_json(self) -> str:
        """One line of strict JSON; NaN and infinity are null."""
        row = {"format": FORMAT, "cell": self.cell, **dataclasses.asdict(self)}
        return strict_json(row)

    @classmethod
    def from_json(cls, line: str) -> Record:
        """Read one line.

        Raises: InputError if it is no record, or one of another version.
        """
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"not a record ({error})") from error
        found = row.pop("format", None) if isinstance(row, dict) else None
        if found != FORMAT:
            raise InputError(
                f"a record of another version: this one reads '{FORMAT}', found {found!r}; run the suite into a new folder"
            )
        known = {f.name for f in dataclasses.fields(cls)}
        required = {
            f.name
            for f in dataclasses.fields(cls)
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        }
        if wrong := sorted((row.keys() - known) | (required - row.keys())):
            raise InputError(
                f"not a record: {', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} unknown or missing"
            )
        if row.get("status", "ok") not in STATUSES:
            raise InputError(
                f"not a record: status must be one of {', '.join(STATUSES)}, got {row['status']!r}"
            )
        return cls(**row)


def complain(message: str) -> None:
    """Tell the user on standard error."""
    sys.stderr.write(f"inverse: {message}\n")


def read_records(folder: str | Path, say: Callable[[str], None] = complain) -> list[Record]:
    """The records of a folder (or of a records.jsonl), the last of each slot, in the order of problem, method, truth and seed.

    A last line that was cut off is left out and said; `repair` removes it from the file.

    Raises: InputError, with the line, if there are none or a line is damaged or of another version.
    """
    path = _file(folder)
    if not path.is_file():
        raise InputError(
            f"{folder}: no {RECORDS} there; `inverse bench run SUITE --out {folder}` makes one"
        )
    whole, rest = _lines(path)
    if rest:
        say(
            f"{path}: the last line was cut off after {len(rest)} bytes and is left out; its cell will run again"
        )
    newest: dict[str, Record] = {}
    for number, line in enumerate(whole, 1):
        try:
            record = Record.from_json(line.decode())
        except (InputError, UnicodeDecodeError) as error:
            raise InputError(f"{path}, line {number}: {error}") from error
        newest[record.slot] = record
    return sorted(newest.values(), key=order)


def order(record: Record) -> tuple[str, ...]:
    """Sorts records by problem, method, truth and seed, whatever order they were finished in."""
    problem = json.dumps(
        [record.problem.get("options"), record.problem.get("crop")], sort_keys=True
    )
    method = json.dumps([record.method.get("options"), record.budget], sort_keys=True)
    return (
        record.problem["name"],
        problem,
        record.method["name"],
        method,
        f"{record.truth:09d}",
        f"{record.seed:020d}",
        record.cell,
    )


def repair(folder: str | Path) -> int:
    """Cut an unfinished last line off the file; returns how many bytes that were."""
    path = _file(folder)
    if not path.is_file():
        return 0
    whole, rest = _lines(path)
    if rest:
        os.truncate(path, sum(len(line) + 1 for line in whole))
    return len(rest)


def append(folder: str | Path, record: Record) -> None:
    """Add one line and wait until the disk has it; where that fails nothing of the line remains."""
    path, line = _file(folder), (record.to_json() + "\n").encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        before = os.fstat(descriptor).st_size
        try:
            if os.write(descriptor, line) != len(line):
                os.ftruncate(descriptor, before)
                raise InputError(
                    f"{path}: cannot write (the disk is full); the rows before are whole, run the same command again to continue"
                )
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)


def _file(folder: str | Path) -> Path:
    path = Path(folder)
    return path if path.suffix == ".jsonl" else path / RECORDS


def _lines(path: Path) -> tuple[list[bytes], bytes]:
    """The finished lines without their ends, and what follows the last one."""
    *whole, rest = path.read_bytes().split(b"\n")
    return whole, rest
