"""One run of `inverse compare`: pose each candidate, weigh them, write and print the outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from inverse.command.inputs import read_input
from inverse.command.request import ComparisonRequest
from inverse.errors import OptionError
from inverse.evidence import Comparison, compare
from inverse.io.command_line import show
from inverse.io.devices import check_device
from inverse.io.files import check_writable, strict_json, write_text
from inverse.posterior import Posterior
from inverse.problem import Problem
from inverse.registry.discovery import get_method, get_problem

if TYPE_CHECKING:
    from rich.table import Table


def run(request: ComparisonRequest) -> Comparison:
    """Compare the candidates of a request; write `comparison.json` and the averaged answer.

    Raises: OptionError for fewer than two candidates, or a device or dtype that is not available;
        InputError for a file that cannot be used; and the errors of `inverse.compare`.
    """
    from rich.console import Console
    from rich.progress import Progress

    method = get_method(request.method, **request.method_options)
    check_writable(request.out)
    problem, posteriors = _posed(request)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("comparing", total=None)
        found = compare(
            posteriors,
            method,
            request.samples,
            request.repetitions,
            request.seed,
            observe=lambda done, total: bar.update(task, completed=done, total=total),
        )
    path = request.out / "comparison.json"
    write_text(path, strict_json(found.record()) + "\n")
    found.answer.save(request.out / "result.h5")
    problem.export(found.answer, request.out)
    if request.as_json:
        print(strict_json(found.record()))
    else:
        show(table(found))
        print("\n".join([*found.notes, str(path)]))
    return found


def _posed(request: ComparisonRequest) -> tuple[Problem, dict[str, Posterior]]:
    """The problem of the first candidate, and the posterior of each."""
    if request.dtype not in ("float32", "float64"):
        raise OptionError(f"dtype must be float32 or float64, got '{request.dtype}'")
    candidates = request.candidates
    if len(candidates) < 2:
        raise OptionError(
            "compare: needs at least 2 candidates; give an option several values, such as "
            "--problem-option sigma_y=0.01,0.02, or several priors"
        )
    first: Problem | None = None
    posteriors: dict[str, Posterior] = {}
    y: torch.Tensor | None = None
    for name, options, chosen in candidates:
        problem: Problem = get_problem(request.problem, **options)
        settings = {"device": check_device(request.device), "dtype": getattr(torch, request.dtype)}
        prior = problem.resolve_prior(chosen, **settings)
        if request.measurement is not None:
            item = read_input(0, request.measurement, request.out, problem, prior, measured=True)
            problem, y = item.problem, item.values
        posteriors[name] = (
            problem.posterior(0, prior=prior, seed=request.seed, **settings)
            if y is None
            else problem.posterior(y=y, prior=prior, seed=request.seed, **settings)
        )
        first = first or problem
        y = posteriors[name].y[0]
    assert first is not None
    return first, posteriors


def table(found: Comparison) -> Table:
    """One candidate in each row."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    rows = Table(box=SIMPLE_HEAD, pad_edge=False)
    rows.add_column("candidate", no_wrap=True)
    for label in ("log p(y)", "standard error", "weight"):
        rows.add_column(label, justify="right", no_wrap=True)
    for i, name in enumerate(found.names):
        rows.add_row(
            name,
            f"{float(found.log_evidence[i]):.2f}",
            f"{float(found.error[i]):.2g}",
            f"{float(found.weights[i]):.3g}",
        )
    return rows
