"""One `inverse solve`: files to posteriors, posteriors to results, results to files and a table."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from inverse.engine import Interrupted, Observer, solve
from inverse.errors import InputError, OptionError
from inverse.execution import Execution
from inverse.files import strict_json
from inverse.images import input_files
from inverse.metrics import HEAVY
from inverse.plugins import get_method, get_problem, registry
from inverse.posterior import Posterior
from inverse.prior import Prior
from inverse.problem import ImageProblem, Problem
from inverse.result import Result

DTYPES = {"float32": (torch.float32, None), "float64": (torch.float64, None), "bf16": (torch.float32, "bf16"), "fp16": (torch.float32, "fp16")}

PARALLEL: dict[str, Literal["fresh", "stale"]] = {"patches": "fresh", "patches:stale": "stale"}
"""Ways to divide an image among the processes of a torchrun, and the halos that each takes."""


@dataclass(frozen=True)
class Request:
    """What the user asked of `inverse solve`; see its options."""

    problem: str
    method: str
    problem_options: dict[str, Any] = field(default_factory=dict)
    method_options: dict[str, Any] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    measured: bool = False
    prior: str | None = None
    samples: int = 1
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    out: Path = Path("out")
    parallel: str | None = None
    compile: bool = False
    memory: float | None = None


def run(request: Request, as_json: bool = False) -> bool:
    """Solve for every input, write its files, print the table and last the path; true if the user interrupted."""
    if request.parallel is None:
        return _run(request, as_json)
    if request.parallel not in PARALLEL:
        raise OptionError(f"parallel must be one of {', '.join(PARALLEL)}, got '{request.parallel}'")
    from inverse.patches import process_group

    with process_group(request.device) as (device, first):
        return _run(replace(request, device=device), as_json, quiet=not first)


def _run(request: Request, as_json: bool, quiet: bool = False) -> bool:
    """`run` in one process; a quiet one, whose answer another has too, writes and prints nothing."""
    problem: Problem = get_problem(request.problem, **request.problem_options)
    method = get_method(request.method, **request.method_options)
    if request.samples < 1:
        raise OptionError(f"samples must be at least 1, got {request.samples}")
    device = check_device(request.device)
    if request.dtype not in DTYPES:
        raise OptionError(f"dtype must be one of {', '.join(DTYPES)}, got '{request.dtype}'")
    files: list[Path | None] = list(input_files(request.files)) if request.files else [None]
    check_writable(request.out)
    prior = problem.resolve_prior(request.prior, device, DTYPES[request.dtype][0])
    if request.parallel:
        from inverse.patches import divided

        prior = divided(prior, PARALLEL[request.parallel])
    records, interrupted = [], False
    opened = read_ahead(lambda file: None if file is None else problem.open(file, prior, request.measured), files)
    for index, (file, folder, posed_by_file) in enumerate(zip(files, output_folders(files, request.out), opened, strict=True)):
        posed, posterior = _posterior(problem, request, file, posed_by_file, prior, index)
        with nullcontext() if quiet else progress(file, index, len(files)) as bar:
            observers = [observer for observer in (bar, step_hook()) if observer and not quiet]
            try:
                result = solve(posterior, method, request.samples, request.seed, observers=observers, first_image=index)
            except Interrupted as stop:
                result, interrupted = stop.result, True
        if not quiet:
            registry().manager.hook.inverse_result(result=result)
            write(result, folder, posed)
            records.append(record(result, file, folder))
        if interrupted:
            break
    if not quiet:
        if interrupted:
            print(f"inverse: interrupted; the last iterate is saved in {records[-1]['out']}", file=sys.stderr)
        report(records, as_json)
    return interrupted


def read_ahead(read: Callable[[Any], Any], files: list[Any]) -> Iterator[Any]:
    """read(file) of each file, the next one in a thread while the caller is busy with this one; an error comes when its file's turn has."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(read, files[0])
        for following in files[1:]:
            ready, coming = coming, pool.submit(read, following)
            yield ready.result()
        yield coming.result()


def check_device(name: str) -> torch.device:
    """The device called `name`.

    Raises: OptionError if torch has no such device here.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        gpus = torch.cuda.device_count()
        raise OptionError(f"device '{name}' is not available; this machine has cpu{''.join(f', cuda:{i}' for i in range(gpus))}") from error
    return device


def check_writable(folder: Path) -> None:
    """Try to write in the folder, or in the nearest one that exists, before any work is done; nothing is left behind.

    Raises: InputError if that cannot be.
    """
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    probe = nearest / f".write-test-{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"output folder {folder}: cannot be written ({error.strerror}); choose another with --out") from error


def output_folders(files: list[Path | None], out: Path) -> list[Path]:
    """`out` itself for one input, otherwise a folder in it for each, named after the file and numbered where two share a name."""
    if len(files) == 1:
        return [out]
    stems = [file.stem for file in files if file]
    return [out / (stem if stems.count(stem) == 1 else f"{stem}-{index}") for index, stem in enumerate(stems)]


def write(result: Result, folder: Path, problem: Problem) -> None:
    """result.h5 and what the problem exports, each under a temporary name and renamed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        result.save(folder / "result.h5")
        problem.export(result, folder)
    except OSError as error:
        raise InputError(f"output folder {folder}: {error.strerror or error}") from error


def record(result: Result, file: Path | None, folder: Path) -> dict[str, Any]:
    """One flat row: what was solved, its scores and its cost."""
    about = result.provenance
    scores = {name: entry.thing(result) for name, entry in registry().table("inverse_metrics").items() if name not in HEAVY}
    cost = {"nfe": result.cost.nfe, "vjp": result.cost.vjp, "A": result.cost.A, "A_adjoint": result.cost.A_adjoint}
    names = {"input": about.get("input"), "problem": about["problem"]["name"], "method": about["method"]["name"], "prior": about["prior"]}
    return {**names, **scores, **cost, "seconds": result.seconds, "samples": result.samples.shape[1], "interrupted": result.interrupted, "out": str(folder)} | {
        "options": about["method"]["options"] | about["method"]["derived"],
        "problem_options": about["problem"]["options"],
        "seed": about["seed"],
        "ess": None if result.log_weights is None else float(result.ess.mean()),
        "log_evidence": None if result.log_evidence is None else float(result.log_evidence.mean()),
        "notes": about.get("notes", []),
    }


def report(records: list[dict[str, Any]], as_json: bool) -> None:
    """The table, or a JSON line for each result; last, the path."""
    if as_json:
        for row in records:
            print(strict_json(row))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    columns = {"psnr": "PSNR (dB)", "ssim": "SSIM", "misfit": "residual chi2", "nfe": "prior evaluations", "vjp": "vjps", "seconds": "seconds"}
    digits = {"psnr": 2, "ssim": 4, "misfit": 3, "nfe": 0, "vjp": 0, "seconds": 1}
    if all(row["psnr"] is None for row in records) and any(row["rmse"] is not None for row in records):
        del columns["psnr"], columns["ssim"]
        columns = {"rmse": "RMSE", "crps": "CRPS"} | columns
        digits |= {"rmse": 4, "crps": 4}
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("input", overflow="fold")
    table.add_column("problem")
    table.add_column("method")
    for label in columns.values():
        table.add_column(label, justify="right")
    for row in records:
        table.add_row(str(row["input"]), row["problem"], row["method"], *["-" if row[k] is None else f"{row[k]:.{digits[k]}f}" for k in columns])
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)
    for row in records:
        for note in row["notes"]:
            print(f"{row['input']}: {note}")
        if row["ess"] is not None:
            evidence = "" if row["log_evidence"] is None else f", log p(y) = {row['log_evidence']:.4g} nats"
            print(f"{row['input']}: effective sample size {row['ess']:.1f} of {row['samples']}{evidence}")
    print(records[-1]["out"] if len(records) == 1 else str(Path(records[-1]["out"]).parent))


def step_hook() -> Observer | None:
    """The plug-ins that watch every iterate, as one observer; None, and so no cost, where nobody does."""
    hook = registry().manager.hook.inverse_step
    if not hook.get_hookimpls():
        return None
    return lambda index, total, x, misfit, nfe: hook(index=index, total=total, x=x, misfit=misfit, nfe=nfe)


def _posterior(
    problem: Problem, request: Request, file: Path | None, opened: tuple[Problem, Tensor, list[str]] | None, prior: Prior, index: int
) -> tuple[Problem, Posterior]:
    """The problem that the file poses, and its posterior."""
    dtype, autocast = DTYPES[request.dtype]
    settings: dict[str, Any] = {"prior": prior, "seed": request.seed, "device": prior_device(prior), "dtype": dtype, "execution": _execution(request, autocast)}
    if opened is None:
        posterior = problem.posterior(0, first_image=index, **settings)
        shipped = problem.pictures(prior)[0].stem if isinstance(problem, ImageProblem) else "truth 0"
        posterior.provenance.update(input=f"{shipped} (shipped)", notes=[])
        return problem, posterior
    problem, values, notes = opened
    if bad := int((~torch.isfinite(values)).sum()):
        count = f"{bad} of {values.numel()} values"
        raise InputError(f"{file}: {count} are NaN or infinite; replace them, and mask them with --problem inpainting if they were never measured")
    if request.measured:
        posterior = problem.posterior(y=values, first_image=index, **settings)
    else:
        posterior = problem.posterior(fitted(problem, values, notes), first_image=index, **settings)
    posterior.provenance.update(input=str(file), notes=notes)
    return problem, posterior


def _execution(request: Request, autocast: str | None) -> Execution:
    """With stale halos a batch stays in one piece: the call before must be the step before of the same rows."""
    whole: dict[str, Any] = {"max_pixels": sys.maxsize, "memory": sys.maxsize} if request.parallel == "patches:stale" else {"memory": request.memory}
    return Execution(autocast=autocast, compile="auto" if request.compile else None, **whole)


def fitted(problem: Problem, truth: Tensor, notes: list[str]) -> Tensor:
    """The truth cropped to what the operator takes, with a note if it was."""
    cropped = problem.prepare(truth)
    if cropped.shape != truth.shape:
        notes.append(f"cropped from {truth.shape[-2]}x{truth.shape[-1]} to {cropped.shape[-2]}x{cropped.shape[-1]}")
    return cropped


def prior_device(prior: Prior) -> torch.device:
    return next((t.device for t in (*prior.parameters(), *prior.buffers())), torch.device("cpu"))


@contextmanager
def progress(file: Path | None, index: int, count: int) -> Iterator[Any]:
    """An observer that draws step, data misfit, prior evaluations and time left on a terminal; None elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    label = f"{file.name if file else 'solving'}" + (f" {index + 1}/{count}" if count > 1 else "")
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
            bar.update(task, completed=step, total=total, news=f"chi2 {misfit():.3g}  {nfe:.0f} prior evaluations")

        yield observer
