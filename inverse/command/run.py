"""One `inverse solve`: files to posteriors, posteriors to results, results to files and a table."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from inverse.command.inputs import Input, batches
from inverse.command.overlap import read_ahead, write_behind
from inverse.command.summary import record, report
from inverse.command.work import Request, Solved, Work
from inverse.engine import Observer
from inverse.errors import InputError, OptionError
from inverse.execution import Execution
from inverse.io.devices import DTYPES, check_device
from inverse.io.files import check_writable
from inverse.io.images import input_files
from inverse.problem import Problem
from inverse.registry.discovery import get_method, get_problem, registry
from inverse.seeding import check_seed

PARALLEL: dict[str, Literal["fresh", "stale"]] = {"patches": "fresh", "patches:stale": "stale"}
"""Ways to divide an image among the processes of a torchrun, and the halos that each takes."""

AHEAD = 4
"""Files that are read before their turn."""


def run(request: Request, as_json: bool = False) -> bool:
    """Solve for every input, write its files, print the table and last the path; true if the user interrupted."""
    if request.parallel is None:
        return _run(request, as_json)
    if request.parallel not in PARALLEL:
        raise OptionError(
            f"parallel must be one of {', '.join(PARALLEL)}, got '{request.parallel}'"
        )
    from inverse.priors.evaluation.patches import process_group

    with process_group(request.device) as (device, first):
        return _run(replace(request, device=device), as_json, quiet=not first)


def _run(request: Request, as_json: bool, quiet: bool = False) -> bool:
    """`run` in one process; a quiet one, whose answer another has too, writes and prints nothing."""
    problem: Problem = get_problem(request.problem, **request.problem_options)
    method = get_method(request.method, **request.method_options)
    if request.samples < 1:
        raise OptionError(f"samples must be at least 1, got {request.samples}")
    check_seed(request.seed)
    device = check_device(request.device)
    if request.dtype not in DTYPES:
        raise OptionError(f"dtype must be one of {', '.join(DTYPES)}, got '{request.dtype}'")
    if request.batch is not None and request.batch < 1:
        raise OptionError(f"batch must be at least 1, got {request.batch}")
    files: list[Path | None] = list(input_files(request.files)) if request.files else [None]
    check_writable(request.out)
    dtype, autocast = DTYPES[request.dtype]
    prior = problem.resolve_prior(request.prior, device, dtype)
    if request.parallel:
        from inverse.priors.evaluation.patches import divide_among_ranks, memory_per_rank

        prior = divide_among_ranks(prior, PARALLEL[request.parallel])
        request = replace(request, memory=request.memory or memory_per_rank(device))
    places = list(zip(range(len(files)), files, output_folders(files, request.out), strict=True))
    work = Work(
        request,
        problem,
        method,
        prior,
        dtype,
        _execution(request, autocast),
        len(files),
        lambda batch: watched(batch, len(files), quiet),
    )
    rows: dict[int, dict[str, Any]] = {}
    with write_behind(write) as put:
        for batch in batches(
            work.usable(read_ahead(work.open, places, AHEAD)), work.kind, work.most
        ):
            solved = work.solve(batch)
            if not quiet:
                for _, result in solved:
                    registry().manager.hook.inverse_result(result=result)
                put(solved)
                rows |= {one.index: record(result, one.file, one.folder) for one, result in solved}
            if work.interrupted:
                break
    rows |= {one.index: record(result, one.file, one.folder) for one, result in work.resumed}
    if not quiet:
        conclude(work, [rows[index] for index in sorted(rows)], len(files), as_json)
    return bool(work.interrupted)


def conclude(work: Work, rows: list[dict[str, Any]], count: int, as_json: bool) -> None:
    """Say where an interruption left things, then the report.

    Raises: InputError if inputs were left out.
    """
    stopped, out = work.interrupted, work.request.out
    if len(stopped) == 1:
        print(
            f"inverse: interrupted; the last iterate is saved in {stopped[0].folder}",
            file=sys.stderr,
        )
    elif stopped:
        print(
            f"inverse: interrupted; the last iterates of {len(stopped)} images are saved in {out}",
            file=sys.stderr,
        )
    if rows:
        report(rows, as_json)
    if work.left_out and not stopped:
        rest = f"; the results of the others are in {out}" if rows else ""
        raise InputError(f"{work.left_out} of {count} inputs left out{rest}")


def output_folders(files: list[Path | None], out: Path) -> list[Path]:
    """`out` itself for one input, otherwise a folder in it for each, named after the file and numbered where two share a name."""
    if len(files) == 1:
        return [out]
    stems = [file.stem for file in files if file]
    return [
        out / (stem if stems.count(stem) == 1 else f"{stem}-{index}")
        for index, stem in enumerate(stems)
    ]


def write(solved: Solved) -> None:
    """result.h5 of each and what its problem exports, each under a temporary name and renamed."""
    for one, result in solved:
        try:
            one.folder.mkdir(parents=True, exist_ok=True)
            result.save(one.folder / "result.h5")
            one.problem.export(result, one.folder)
        except OSError as error:
            raise InputError(f"output folder {one.folder}: {error.strerror or error}") from error


@contextmanager
def watched(batch: list[Input], count: int, quiet: bool) -> Iterator[list[Observer]]:
    """The observers of a batch: the progress bar and the plug-ins'."""
    with nullcontext() if quiet else progress(batch, count) as bar:
        yield [] if quiet else [observer for observer in (bar, step_hook()) if observer]


def step_hook() -> Observer | None:
    """The plug-ins that watch every iterate, as one observer; None, and so no cost, where nobody does."""
    hook = registry().manager.hook.inverse_step
    if not hook.get_hookimpls():
        return None
    return lambda index, total, x, misfit, nfe: hook(
        index=index, total=total, x=x, misfit=misfit, nfe=nfe
    )


def _execution(request: Request, autocast: str | None) -> Execution:
    """With stale halos a batch stays in one piece: the call before must be the step before of the same rows."""
    whole: dict[str, Any] = (
        {"max_pixels": sys.maxsize, "memory": sys.maxsize}
        if request.parallel == "patches:stale"
        else {"memory": request.memory}
    )
    return Execution(autocast=autocast, compile="auto" if request.compile else None, **whole)


@contextmanager
def progress(batch: list[Input], count: int) -> Iterator[Any]:
    """An observer that draws step, data misfit, prior evaluations and time left on a terminal; None elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    first, more = batch[0], f" and {len(batch) - 1} more" if len(batch) > 1 else ""
    label = f"{first.file.name if first.file else 'solving'}{more}" + (
        f" {batch[-1].index + 1}/{count}" if count > 1 else ""
    )
    news = TextColumn("step {task.completed}/{task.total}  {task.fields[news]}")
    columns = (TextColumn("{task.description}"), BarColumn(), news, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task, last = bar.add_task(label, total=None, news=""), 0.0

        def observer(step: int, total: int | None, x: Tensor, misfit: Any, nfe: float) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last < 0.3 and step != total:
                return
            last = now
            bar.update(
                task,
                completed=step,
                total=total,
                news=f"chi2 {misfit():.3g}  {nfe:.0f} prior evaluations",
            )

        yield observer
