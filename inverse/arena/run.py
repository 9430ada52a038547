"""Runs a suite into a folder: what is there is kept, what is missing is computed, and every finished cell is safe at once.

records.jsonl     one line a cell
artifacts/        its samples, HDF5
observations/     what was measured, the same for every method
budgets.json      steps fitted to budgets
suite.toml        what was asked last
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
from inverse.arena.record import RECORDS, Record, append, complain, read_records, repair
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
        address: of a Ray cluster; None for one on this machine.
        workers: Ray workers; None for as many as the cluster has room for.
        retry: run failed cells again.
        refresh: run cells again that were computed by another core.
        plugins: files that are loaded as plug-ins here, for other processes to load.
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
    """Cells of the suite by status, how many of them this run computed, and whether it was interrupted."""

    total: int
    computed: int
    failed: int
    skipped: int
    interrupted: bool


def run_suite(suite: Suite, request: Request) -> Summary:
    """Compute every cell of a suite that the folder does not have.

    Raises: InputError if another run is at work in the folder, or something in it cannot be trusted.
    """
    folder = request.out
    with locked(folder):
        if cut := repair(folder):
            complain(
                f"{folder / RECORDS}: the last line was cut off after {cut} bytes and was removed; its cell runs again"
            )
        known = (
            {record.cell: record for record in read_records(folder)}
            if (folder / RECORDS).is_file()
            else {}
        )
        executor = make_executor(request, suite)
        try:
            planner = Planner(suite, folder, executor, Bank(folder / "observations"))
            with Progress() as progress:
                try:
                    return _compute(planner, executor, known, request, progress)
                except KeyboardInterrupt:
                    kept = (
                        len(read_records(folder, say=lambda _: None))
                        if (folder / RECORDS).is_file()
                        else 0
                    )
                    progress.stop()
                    complain(
                        f"interrupted; {kept} cells are kept in {folder}: run the same command again to continue"
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
    folder, cells = request.out, []
    for cell in progress.planning(planner.cells()):
        cells.append(cell)
    wanted = {cell.digest: cell for cell in cells}
    if len(wanted) < len(cells):
        complain(
            f"{len(cells) - len(wanted)} cells of the suite ask for what another asks for already, and run once"
        )
    if old := [
        c
        for c in wanted
        if c in known and known[c].versions.get("core") not in (core_version(), None)
    ]:
        fate = "run again" if request.refresh else "kept; --refresh runs them again"
        complain(
            f"{len(old)} of {len(wanted)} cells were computed by another version of the core: {fate}"
        )
    again = {
        c
        for c in wanted
        if c in known
        and ((request.retry and known[c].status == "failed") or (request.refresh and c in old))
    }
    for digest in wanted.keys() & known.keys() - again:
        rescore(folder, known[digest], planner.suite.metrics)
    todo = [cell for digest, cell in wanted.items() if digest not in known or digest in again]
    kept = [known[digest] for digest in wanted.keys() & known.keys() - again]
    progress.start(len(wanted), kept, executor)
    work: Iterator[tuple[Cell, Observation]] = ((cell, planner.observe(cell)) for cell in todo)
    for outcome in executor.run(work):
        progress.finished(keep(folder, outcome, executor.name, request.plugins))
    return Summary(len(wanted), len(todo), progress.failed, progress.skipped, False)


def keep(folder: Path, outcome: Outcome, executor: str, plugins: tuple[str, ...] = ()) -> Record:
    """Write the artifact, then the line that names it; both are on the disk when this returns."""
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
    """What to type to compute a cell again."""
    files = [part for path in plugins for part in ("--plugin", path)]
    return shlex.join(
        ["inverse", "bench", "reproduce", cell[:16], "--records", str(folder), *files]
    )


def load_artifact(folder: Path, record: Record) -> Result:
    """The samples behind a record.

    Raises: InputError if they are missing, or not those that were recorded.
    """
    path = folder / str(record.artifact)
    if record.artifact is None or not path.is_file():
        raise InputError(
            f"cell {record.cell[:16]}: its artifact {path if record.artifact else ''} is not there".replace(
                "  ", " "
            )
        )
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != record.artifact_sha256:
        raise InputError(
            f"artifact {path}: sha256 is {found[:12]}..., the record says {str(record.artifact_sha256)[:12]}...; it is not what was computed"
        )
    return Result.load(path)


def rescore(folder: Path, record: Record, metrics: list[str]) -> None:
    """Add a row with metrics that the suite asks for by now, computed from the artifact; the cell is not run again."""
    if record.status != "ok" or not (
        missing := tuple(m for m in metrics if m not in record.metrics)
    ):
        return
    scores = {**record.metrics, **score(load_artifact(folder, record), missing)}
    append(
        folder,
        replace(record, metrics=scores, versions={**record.versions, **metric_versions(missing)}),
    )


def make_executor(request: Request, suite: Suite) -> Executor:
    """The executor that was asked for, on the command line or by the suite.

    Raises: InputError for an unknown name; OptionError for a device that this machine does not have.
    """
    name = request.executor or suite.executor
    if name == "local":
        if request.address:
            raise InputError("bench run: --address is for --executor ray")
        check_device(suite.device)
        return Local()
    if name == "ray":
        from inverse.arena.cluster import Ray

        return Ray(request.plugins, request.address, request.workers, suite.gpus)
    raise InputError(f"executor must be local or ray, got '{name}'")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder for this process alone; the lock goes with the process, however it ends.

    Raises: InputError if another run has it, or it cannot be written.
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
            raise InputError(
                f"{folder}: another run is at work there (process {file.read().strip() or 'unknown'}); wait for it, or choose another --out"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
