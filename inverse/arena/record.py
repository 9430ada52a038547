"""The record of a cell: one JSON object per line of `records.jsonl`, appended when the cell ends.

A cell is a method with its options on an observation; its name is the hash of everything that
determines its numbers. Records are only ever appended. If a cell was run again, the last record
counts. An incomplete last line is ignored.
"""

from __future__ import annotations

import dataclasses
import hashlib
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
CHECKSUM = "checksum"
STATUSES = ("ok", "failed", "skipped")


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a cell is asked to compute, as plain values that any worker and JSON can hold.

    Args:
        problem: name, options, version (hash of the source), `given` (the options that the suite
            set), and crop (pixels) if the truth is cut to a square.
        method: name, options, version (hash of the source) and `given` (the options that the suite
            set, without the steps that a budget chose).
        prior: name, sha256 of the weights, and source (the name or path that it is loaded from;
            None for the problem's own prior).
        truth: index among the truths of the problem.
        seed: random seed for the measurement noise and the method.
        samples: number of posterior samples.
        budget: limits of the run: nfe (prior evaluations and VJPs together), vjp (VJPs alone) or
            seconds; None for no limit.
        tuned: "defaults", "set by the suite", or the tuning split that chose the options.
        observation: sha256 of y.
        device, dtype: device and precision of the computation.
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

    def question(self) -> dict[str, Any]:
        """The fields of `Question`, without those of a subclass."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(Question)}


@dataclass(frozen=True, kw_only=True)
class Record(Question):
    """One row of the leaderboard: a question and its answer.

    Args:
        cell: hex digest, the content address of everything that determines the numbers.
        status: ok, failed or skipped.
        reason: why the cell failed or was skipped.
        metrics: value of each metric; None where a metric does not apply.
        cost: nfe, vjp, A and A_adjoint per sample.
        seconds: wall time inside the method.
        floor_seconds: time of the counted evaluations alone, on the same machine; None if it was
            not measured.
        peak_memory: bytes above the memory in use before the solve.
        executor: name of the executor.
        versions: versions of the packages and the source code that determine a result.
        artifact: path of the HDF5 result, relative to the folder of the records.
        artifact_sha256: hash of that file.
        command: shell command that computes the cell again.
        started: time in ISO format.
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
    def suite_settings(self) -> list[Any]:
        """What a suite sets for all truths and seeds.

        Names, the options that the suite gives, budget, samples, device and precision.
        """
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
        """The question without versions; a newer record of a slot replaces an older one."""
        return json.dumps([*self.suite_settings, self.truth, self.seed], sort_keys=True)

    def to_json(self) -> str:
        """One line of strict JSON, with its checksum; NaN and infinity are null."""
        row = {"format": FORMAT, "cell": self.cell, **dataclasses.asdict(self)}
        row = json.loads(strict_json(row))
        return strict_json(row | {CHECKSUM: checksum(row)})

    @classmethod
    def from_json(cls, line: str) -> Record:
        """Read one line; lines of older versions have no checksum.

        Raises: InputError if the line is not a record, has another format version, or was changed
            after it was written.
        """
        try:
            row = json.loads(line, parse_constant=_refuse_constant)
        except ValueError as error:
            raise InputError(f"not a record ({error})") from error
        version = row.pop("format", None) if isinstance(row, dict) else None
        if version != FORMAT:
            raise InputError(
                f"a record of another version: expected '{FORMAT}', found {version!r}; "
                "run the suite into a new folder"
            )
        written = row.pop(CHECKSUM, None)
        found = checksum({"format": version, **row})
        known = {f.name for f in dataclasses.fields(cls)}
        required = {
            f.name
            for f in dataclasses.fields(cls)
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        }
        if wrong := sorted((row.keys() - known) | (required - row.keys())):
            verb = "is" if len(wrong) == 1 else "are"
            raise InputError(f"not a record: {', '.join(wrong)} {verb} unknown or missing")
        if row.get("status", "ok") not in STATUSES:
            raise InputError(
                f"not a record: status must be one of {', '.join(STATUSES)}, got {row['status']!r}"
            )
        if written is not None and written != found:
            raise InputError(
                f"the row was changed after it was written: its checksum is {written}, its values "
                f"have {found}; restore the line, or delete it and run its cell again"
            )
        return cls(**row)


def checksum(row: dict[str, Any]) -> str:
    """The first 16 hex digits of the SHA-256 of a row of plain values, in any order of its keys."""
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:16]


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON; an absent number is null")


def warn(message: str) -> None:
    """Print a message for the user on standard error."""
    sys.stderr.write(f"inverse: {message}\n")


def read_records(folder: str | Path, report: Callable[[str], None] = warn) -> list[Record]:
    """The records of a folder (or of a records.jsonl), the last of each slot, in `order`.

    An incomplete last line is reported and skipped; `repair` removes it from the file.

    Rows without a checksum are reported and read.

    Raises: InputError if there is no file; with the line number, if a line is damaged or changed,
        or has another format version.
    """
    path = _file(folder)
    if not path.is_file():
        raise InputError(
            f"{folder}: no {RECORDS} found; `inverse bench run SUITE --out {folder}` writes one"
        )
    whole, rest = _lines(path)
    if rest:
        report(
            f"{path}: the last line was cut off after {len(rest)} bytes and is skipped; "
            "its cell will run again"
        )
    newest: dict[str, Record] = {}
    for number, line in enumerate(whole, 1):
        try:
            record = Record.from_json(line.decode())
        except (InputError, UnicodeDecodeError) as error:
            raise InputError(f"{path}, line {number}: {error}") from error
        newest[record.slot] = record
    if unsealed := sum(f'"{CHECKSUM}": '.encode() not in line for line in whole):
        report(
            f"{path}: {unsealed} of {len(whole)} rows were written without a checksum; "
            "a change in them goes unnoticed"
        )
    return sorted(newest.values(), key=order)


def order(record: Record) -> tuple[str, ...]:
    """Sort key of a record: problem, method, truth and seed."""
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
    """Remove an incomplete last line from the file; returns its length in bytes."""
    path = _file(folder)
    if not path.is_file():
        return 0
    whole, rest = _lines(path)
    if rest:
        os.truncate(path, sum(len(line) + 1 for line in whole))
    return len(rest)


def append(folder: str | Path, record: Record) -> None:
    """Add a line and wait until it is on the disk; if that fails, nothing of the line remains.

    Raises: InputError if the disk is full.
    """
    path, line = _file(folder), (record.to_json() + "\n").encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        before = os.fstat(descriptor).st_size
        try:
            if os.write(descriptor, line) != len(line):
                os.ftruncate(descriptor, before)
                raise InputError(
                    f"{path}: cannot write (the disk is full); the earlier records are complete: "
                    "run the same command again to continue"
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
    """The complete lines without their line ends, and the bytes after the last of them."""
    *whole, rest = path.read_bytes().split(b"\n")
    return whole, rest
