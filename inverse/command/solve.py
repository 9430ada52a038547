"""One run of `inverse solve`: read files, solve them in batches, write results, print a summary."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from inverse.command.background import read_ahead, write_behind
from inverse.command.batch_solver import PARALLEL, BatchSolver, Solved
from inverse.command.inputs import Input, batches
from inverse.command.outputs import check_not_inputs, locked, named_files, output_folders
from inverse.command.progress import progress
from inverse.command.request import Request
from inverse.command.summary import record, report
from inverse.command.volumes import (
    check_pictures,
    joined,
    prior_channels,
    put_together,
    slice_folders,
    unpacked,
    volume_of,
    with_one_noise,
)
from inverse.engine import Observer
from inverse.errors import InputError, OptionError
from inverse.io.files import check_writable
from inverse.io.images import input_files
from inverse.io.volumes import read_volume
from inverse.registry.discovery import registry

READ_AHEAD = 4
"""Number of files to read ahead of the solver."""


def run(request: Request) -> bool:
    """Solve every input of a request, write the files, and print the table and the path.

    Returns: whether the user interrupted the run.

    Raises: OptionError for impossible options; InputError for files that cannot be used;
    DeviceError if the device fails.
    """
    if request.parallel is None:
        return _run(request)
    if request.parallel not in PARALLEL:
        raise OptionError(
            f"parallel must be one of {', '.join(PARALLEL)}, got '{request.parallel}'"
        )
    from inverse.priors.evaluation.patches import process_group

    with process_group(request.device) as (device, first):
        return _run(replace(request, device=device), quiet=not first)


def _run(request: Request, quiet: bool = False) -> bool:
    """`run` in one process.

    Args:
        quiet: write and print nothing, because another process has the same results.
    """
    if (volume := volume_of(request.files)) is not None:
        return _solve_volume(request, volume, quiet)
    files: list[Path | None] = list(input_files(request.files)) if request.files else [None]
    folders = output_folders(files, request.out)
    with nullcontext() if quiet else locked(folders):
        solver = _solver(request, len(files), quiet)
        if request.measured and files[0] is not None and len(files) == 1:
            solver.parts = solver.problem.parts(files[0])
        if solver.parts:
            return _solve_parts(solver, files[0], quiet)
        return _solve_all(solver, files, folders, quiet)


def _solver(request: Request, count: int, quiet: bool) -> BatchSolver:
    check_writable(request.out)
    return BatchSolver(request, count, lambda batch: observers(batch, count, quiet))


def _solve_parts(solver: BatchSolver, file: Path | None, quiet: bool) -> bool:
    """`_run` for the slices of a measured file, which are joined once all are solved."""
    assert file is not None
    count, out = len(solver.parts), solver.request.out
    solver.count, folders = count, slice_folders(count, out)
    interrupted = _solve_all(solver, [file] * count, folders, quiet)
    if not (interrupted or quiet):
        print(joined(solver.problem, file, folders, out))
    return interrupted


def _solve_volume(request: Request, path: Path, quiet: bool) -> bool:
    """`_run` for the slices of a volume, which are put together once all are solved."""
    volume = read_volume(path)
    check_pictures(request, volume)
    folders = slice_folders(len(volume.slices), request.out)
    with nullcontext() if quiet else locked([request.out]):
        request = with_one_noise(request, volume)
        solver = _solver(request, len(folders), quiet)
        files = unpacked(volume, folders, prior_channels(solver.prior, volume))
        interrupted = _solve_all(solver, files, folders, quiet)
        if not (interrupted or quiet):
            print(put_together(volume, folders, request))
    return interrupted


def _solve_all(
    solver: BatchSolver, files: Sequence[Path | None], folders: list[Path], quiet: bool
) -> bool:
    named = named_files(solver.request.problem_options)
    check_not_inputs([*files, *named], folders, solver.problem)
    places = list(zip(range(len(files)), files, folders, strict=True))
    records: dict[int, dict[str, Any]] = {}
    with write_behind(write) as put:
        inputs = solver.usable(read_ahead(solver.read, places, READ_AHEAD))
        for batch in batches(inputs, solver.key, solver.batch_size):
            solved = solver.solve(batch)
            if not quiet:
                for _, result in solved:
                    registry().manager.hook.inverse_result(result=result)
                put(solved)
                records |= _records(solved)
            if solver.interrupted:
                break
    records |= _records(solver.resumed)
    if not quiet:
        print_outcome(solver, [records[index] for index in sorted(records)])
    return bool(solver.interrupted)


def _records(solved: Solved) -> dict[int, dict[str, Any]]:
    return {item.index: record(result, item.folder) for item, result in solved}


def print_outcome(solver: BatchSolver, records: list[dict[str, Any]]) -> None:
    """Print what an interruption saved, then the report.

    Raises: InputError if inputs were skipped.
    """
    interrupted, out = solver.interrupted, solver.request.out
    if len(interrupted) == 1:
        saved = f"the last iterate is saved in {interrupted[0].folder}"
        print(f"inverse: interrupted; {saved}", file=sys.stderr)
    elif interrupted:
        saved = f"the last iterates of {len(interrupted)} images are saved in {out}"
        print(f"inverse: interrupted; {saved}", file=sys.stderr)
    if records:
        if not solver.request.as_json:
            print(solver.request.opening)
        report(records, solver.request.as_json)
    if solver.skipped and not interrupted:
        rest = f"; the results of the others are in {out}" if records else ""
        raise InputError(f"{solver.skipped} of {solver.count} inputs skipped{rest}")


def write(solved: Solved) -> None:
    """Write each result.h5 and the files that the problem exports, under temporary names first.

    Raises: InputError if a folder cannot be written.
    """
    for item, result in solved:
        try:
            item.folder.mkdir(parents=True, exist_ok=True)
            result.save(item.folder / "result.h5")
            item.problem.export(result, item.folder)
        except OSError as error:
            raise InputError(f"output folder {item.folder}: {error.strerror or error}") from error


@contextmanager
def observers(batch: list[Input], count: int, quiet: bool) -> Iterator[list[Observer]]:
    """The observers of a batch's iterates: the progress and those of plug-ins."""
    with nullcontext() if quiet else progress(batch, count) as bar:
        yield [] if quiet else [observer for observer in (bar, step_hook()) if observer]


def step_hook() -> Observer | None:
    """The `inverse_step` hooks of all plug-ins as one observer; None if no plug-in has one."""
    hook = registry().manager.hook.inverse_step
    if not hook.get_hookimpls():
        return None
    return lambda index, total, x, misfit, nfe: hook(
        index=index, total=total, x=x, misfit=misfit, nfe=nfe
    )
