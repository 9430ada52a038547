"""One run of `inverse diagnose`: read files, diagnose a method, write and print the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from inverse.checks.calibration import Diagnosis, diagnose
from inverse.command.request import DiagnosisRequest
from inverse.errors import InputError, OptionError
from inverse.io.command_line import show
from inverse.io.devices import check_device
from inverse.io.files import check_writable
from inverse.io.images import input_files
from inverse.priors.prior import Prior
from inverse.problem import Problem
from inverse.registry.discovery import get_method, get_problem

if TYPE_CHECKING:
    from rich.table import Table


def run(request: DiagnosisRequest) -> Diagnosis:
    """Diagnose a method, write `diagnosis.json`, and print the report.

    Raises: OptionError for a device or dtype that is not available; InputError for files that
        cannot be used; and the errors of `inverse.diagnose`.
    """
    diagnosis = _diagnosis(request)
    path = request.out / "diagnosis.json"
    diagnosis.save(path)
    if request.as_json:
        print(diagnosis.json())
    else:
        show(table(diagnosis))
        print("\n".join([verdict(diagnosis), *diagnosis.notes, str(path)]))
    return diagnosis


def _diagnosis(request: DiagnosisRequest) -> Diagnosis:
    """Read held-out ground truths and diagnose with a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    problem: Problem = get_problem(request.problem, **request.problem_options)
    method = get_method(request.method, **request.method_options)
    if request.dtype not in ("float32", "float64"):
        raise OptionError(f"dtype must be float32 or float64, got '{request.dtype}'")
    device = check_device(request.device)
    check_writable(request.out)
    truths = None
    if request.input:
        prior = problem.resolve_prior(request.prior)
        posed = [_read(problem, file, prior) for file in input_files(request.input)]
        problem, truths = posed[0][0], [truth for _, truth in posed]
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("diagnosing", total=None)
        return diagnose(
            problem,
            method,
            request.simulations,
            request.samples,
            request.seed,
            truths=truths,
            prior=request.prior,
            level=request.level,
            device=device,
            dtype=getattr(torch, request.dtype),
            observe=lambda done, total: bar.update(task, completed=done, total=total),
        )


def _read(problem: Problem, file: Path, prior: Prior) -> tuple[Problem, Tensor]:
    posed, truth, _ = problem.open(file, prior, measured=False)
    if not bool(torch.isfinite(truth).all()):
        raise InputError(f"{file}: holds NaN or infinity; a ground truth must be finite")
    return posed, truth


def table(diagnosis: Diagnosis) -> Table:
    """The checks and scores as a table, one check in each row."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    rows = Table(box=SIMPLE_HEAD, pad_edge=False)
    rows.add_column("check", no_wrap=True)
    for label in ("value", "exact sampler", "95 % interval", "p", "p (Holm)"):
        rows.add_column(label, justify="right", no_wrap=True)
    rows.add_column("description", overflow="fold")
    for c in diagnosis.report.checks:
        interval = "" if c.interval is None else f"{c.interval[0]:.3g} - {c.interval[1]:.3g}"
        value, exact, p, adjusted = (
            "" if v is None else f"{v:.3g}"
            for v in (c.statistic, c.expected, c.p_value, c.adjusted)
        )
        rows.add_row(c.name, value, exact, interval, p, adjusted, c.detail)
    for name, (mean, error) in diagnosis.report.scores.items():
        interval = f"{mean - 1.96 * error:.4g} - {mean + 1.96 * error:.4g}"
        rows.add_row(name, f"{mean:.4g}", "", interval, "", "", "score, smaller is better")
    return rows


def verdict(diagnosis: Diagnosis) -> str:
    """The verdict in one line."""
    r = diagnosis.report
    size = f"{r.images} ground truths, {r.samples} samples each, level {r.level:g} over all checks"
    if r.calibrated:
        return f"calibrated: no check objects ({size})"
    return f"not calibrated: {', '.join(r.objections)} ({size})"
