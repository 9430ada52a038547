"""Runs a suite into a folder: existing cells are kept, missing ones computed and stored at once.

records.jsonl     one line per cell
artifacts/        the samples of each cell, HDF5
observations/     the measurements, the same for every method
budgets.json      steps fitted to budgets
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from inverse.arena.bank import Bank, Observation
from inverse.arena.cell import Cell
from inverse.arena.local import Executor, Local
from inverse.arena.plan import Planner
from inverse.arena.progress import Progress
from inverse.arena.record import RECORDS, Record, append, read_records, repair, warn
from inverse.arena.source import core_version
from inverse.arena.suite import Suite
from inverse.arena.worker import Outcome, metric_versions, score
from inverse.errors import InputError
from inverse.io.devices import check_device
from inverse.io.files import atomic_write
from inverse.result import Result


@dataclass(frozen=True)
class Request:
    """How a suite is run.

    Args:
        out: folder of the records.
        executor: "local" or "ray"; None for the suite's.
        address: address of a Ray cluster; None for a new one on this machine.
        workers: number of Ray workers; None for as many as fit on the cluster.
        retry: whether failed cells run again.
        refresh: whether cells run again that another version of the core computed.
        plugins: plug-in files that the other processes load too.
    """

    out: Path
    executor: str | None = None
    address: str | None = None
    workers: int | None = None
    retry: bool = False
    refresh: bool = False
    plugins: tuple[str, ...] = ()


@dataclass(frozen=True)
class Summary:
    """Number of cells of the suite, of those that this run computed, and by status.

    Args:
        interrupted: whether the run was stopped before its end.
    """

    total: int
    computed: int
    failed: int
    skipped: int
    interrupted: bool


def run_suite(suite: Suite, request: Request) -> Summary:
    """Compute the cells of a suite that are missing in the folder.

    Raises: InputError if another run uses the folder, or a file in it was changed.
    """
    folder = request.out
    with locked(folder):
        if cut := repair(folder):
            warn(
                f"{folder / RECORDS}: the last line was cut off after {cut} bytes and was removed; "
                "its cell runs again"
            )
        has_records = (folder / RECORDS).is_file()
        known = {record.cell: record for record in read_records(folder)} if has_records else {}
        executor = make_executor(request, suite)
        try:
            planner = Planner(suite, folder, executor, Bank(folder / "observations"))
            with Progress() as progress:
                try:
                    return _compute(planner, executor, known, request, progress)
                except KeyboardInterrupt:
                    has_records = (folder / RECORDS).is_file()
                    stored = read_records(folder, lambda _: None) if has_records else []
                    progress.stop()
                    warn(
                        f"interrupted; {len(stored)} cells are kept in {folder}: "
                        "run the same command again to continue"
                    )
                    return Summary(
                        progress.total, progress.done, progress.failed, progress.skipped, True
                    )
        finally:
            executor.close()


def _compute(
    planner: Planner,
    executor: Executor,
    known: dict[str, Record],
    request: Request,
    progress: Progress,
) -> Summary:
    folder, cells = request.out, list(progress.planning(planner.cells()))
    wanted = {cell.digest: cell for cell in cells}
    if len(wanted) < len(cells):
        warn(f"{len(cells) - len(wanted)} cells of the suite are duplicates and run once")
    existing = {digest: known[digest] for digest in wanted if digest in known}
    current = (core_version(), None)
    outdated = {d for d, record in existing.items() if record.versions.get("core") not in current}
    if outdated:
        action = "run again" if request.refresh else "kept; --refresh runs them again"
        warn(
            f"{len(outdated)} of {len(wanted)} cells were computed by another version of the core: "
            f"{action}"
        )
    failed = {digest for digest, record in existing.items() if record.status == "failed"}
    repeated = (failed if request.retry else set()) | (outdated if request.refresh else set())
    kept = [record for digest, record in existing.items() if digest not in repeated]
    for record in kept:
        rescore(folder, record, planner.suite.metrics)
    missing = [cell for d, cell in wanted.items() if d not in existing or d in repeated]
    progress.start(len(wanted), kept, executor)
    work: Iterator[tuple[Cell, Observation]] = ((cell, planner.observe(cell)) for cell in missing)
    for outcome in executor.run(work):
        progress.finished(keep(folder, outcome, executor.name, request.plugins))
    return Summary(len(wanted), len(missing), progress.failed, progress.skipped, False)


def keep(folder: Path, outcome: Outcome, executor: str, plugins: tuple[str, ...] = ()) -> Record:
    """Write the artifact, then the record that names it; both are on the disk at the end."""
    record = replace(
        outcome.record, executor=executor, command=command(outcome.record.cell, folder, plugins)
    )
    if outcome.artifact is not None:
        path = folder / "artifacts" / f"{record.cell}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            file.write(outcome.artifact)
            file.flush()
            os.fsync(file.fileno())
        record = replace(
            record,
            artifact=f"artifacts/{path.name}",
            artifact_sha256=hashlib.sha256(outcome.artifact).hexdigest(),
        )
    append(folder, record)
    return record


def command(cell: str, folder: Path, plugins: tuple[str, ...] = ()) -> str:
    """The shell command that computes a cell again."""
    files = [part for path in plugins for part in ("--plugin", path)]
    return shlex.join(
        ["inverse", "bench", "reproduce", cell[:16], "--records", str(folder), *files]
    )


def load_artifact(folder: Path, record: Record) -> Result:
    """The result of a record.

    Raises: InputError if its artifact is missing, or was changed.
    """
    path = folder / str(record.artifact)
    if record.artifact is None or not path.is_file():
        raise InputError(
            f"cell {record.cell[:16]}: its artifact {path} is missing"
            if record.artifact
            else f"cell {record.cell[:16]}: it has no artifact"
        )
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != record.artifact_sha256:
        raise InputError(
            f"artifact {path}: sha256 is {sha256[:12]}..., the record has "
            f"{str(record.artifact_sha256)[:12]}...; the file is not what was computed"
        )
    return Result.load(path)


def rescore(folder: Path, record: Record, metrics: list[str]) -> None:
    """Append the record with the metrics that it lacks, computed from the artifact."""
    if record.status != "ok" or not (
        missing := tuple(m for m in metrics if m not in record.metrics)
    ):
        return
    scores = {**record.metrics, **score(load_artifact(folder, record), missing)}
    versions = {**record.versions, **metric_versions(missing)}
    append(folder, replace(record, metrics=scores, versions=versions))


def make_executor(request: Request, suite: Suite) -> Executor:
    """The executor that the request or the suite names.

    Raises: InputError for an unknown name; OptionError for a device that does not exist.
    """
    name = request.executor or suite.executor
    if name == "local":
        if request.address:
            raise InputError("bench run: --address needs --executor ray")
        check_device(suite.device)
        return Local()
    if name == "ray":
        from inverse.arena.cluster import Ray

        return Ray(request.plugins, request.address, request.workers, suite.gpus)
    raise InputError(f"executor must be local or ray, got '{name}'")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the folder for this process; the lock ends with the process.

    Raises: InputError if another run holds the lock, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a+")
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); choose another with --out"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise InputError(
                f"{folder}: another run uses this folder (process {holder}); "
                "wait for it, or choose another --out"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
