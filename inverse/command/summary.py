"""The summary of `inverse solve`: a table or JSON lines, then notes, then the output path."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from inverse.io.files import strict_json
from inverse.metrics.metric import Metric
from inverse.metrics.registered import registered_metrics
from inverse.result import Result

CLOSE, FAR = 0.5, 2.0
"""Residual chi-square below and above which the summary says what it usually means."""

STRUCTURE = 0.1
"""Neighbour correlation of the residual above which it holds more than noise.

A kernel that is too narrow does not show: its answer explains the measurement too."""

NEXT = "next: --samples 8 draws samples and shows their spread; inverse methods lists the methods"
"""What the command suggests after a single answer."""

COSTS = {"nfe": ("prior evaluations", 0), "vjp": ("vjps", 0), "seconds": ("seconds", 1)}
"""Heading and decimals of the columns that follow the scores."""


def record(result: Result, folder: Path) -> dict[str, Any]:
    """The flat record of one result: names, scores, costs, options and notes.

    Args:
        folder: the result's output folder.
    """
    provenance = result.provenance
    metrics = sorted(registered_metrics().items())
    scores = {name: metric(result) for name, metric in metrics if metric.cost == "low"}
    cost = {
        "nfe": result.cost.nfe,
        "vjp": result.cost.vjp,
        "A": result.cost.A,
        "A_adjoint": result.cost.A_adjoint,
    }
    names = {
        "input": provenance.get("input"),
        "problem": provenance["problem"]["name"],
        "method": provenance["method"]["name"],
        "prior": provenance["prior"],
    }
    return {
        **names,
        **scores,
        **cost,
        "seconds": result.seconds,
        "samples": result.samples.shape[1],
        "interrupted": result.interrupted,
        "out": str(folder),
    } | {
        "options": provenance["method"]["options"] | provenance["method"]["derived"],
        "problem_options": provenance["problem"]["options"],
        "seed": provenance["seed"],
        "ess": None if result.log_weights is None else float(result.ess.mean()),
        "log_evidence": None if result.log_evidence is None else float(result.log_evidence.mean()),
        "residual_correlation": provenance.get("residual_correlation"),
        "checks": provenance.get("checks", []),
        "notes": provenance.get("notes", []),
    }


def report(records: list[dict[str, Any]], as_json: bool) -> None:
    """Print records as JSON lines, or as a table followed by notes and the output path."""
    if as_json:
        for record in records:
            print(strict_json(record))
        return
    _print_table(records)
    _print_notes(records)
    if all(record["samples"] == 1 for record in records):
        print(NEXT)
    folder = Path(records[-1]["out"])
    print(folder if len(records) == 1 else folder.parent)


def _print_table(records: list[dict[str, Any]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    columns = _columns(records)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("input", overflow="fold")
    table.add_column("problem")
    table.add_column("method")
    for heading, _ in columns.values():
        table.add_column(heading, justify="right")
    for record in records:
        numbers = [
            "-" if record[name] is None else f"{record[name]:.{digits}f}"
            for name, (_, digits) in columns.items()
        ]
        table.add_row(str(record["input"]), record["problem"], record["method"], *numbers)
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)


def _print_notes(records: list[dict[str, Any]]) -> None:
    """Print notes of all records once, then the notes and the ensemble of each record."""
    common = [
        note
        for note in records[0]["notes"]
        if len(records) > 1 and all(note in record["notes"] for record in records)
    ]
    for note in common:
        print(f"all {len(records)} inputs: {note}")
    for record in records:
        name = record["input"]
        for note in record["notes"]:
            if note not in common:
                print(f"{name}: {note}")
        if judged := judgement(record.get("misfit")):
            print(f"check {name}: {judged}")
        for check in record.get("checks", []):
            print(f"check {name}: {check}")
        if structured := structure(record.get("residual_correlation")):
            print(f"check {name}: {structured}")
        if record["ess"] is not None:
            size = f"effective sample size {record['ess']:.1f} of {record['samples']}"
            evidence = record["log_evidence"]
            law = "" if evidence is None else f", log p(y) = {evidence:.4g} nats"
            print(f"{name}: {size}{law}")


def judgement(chi_square: float | None) -> str:
    """What a residual chi-square per measurement usually means; "" if it is as expected.

    Args:
        chi_square: mean over the samples; about 1 for draws from the posterior.
    """
    if chi_square is None or not math.isfinite(chi_square):
        return ""
    if chi_square < CLOSE:
        return (
            f"residual chi-square {chi_square:.2g}, below {CLOSE}: the answer follows the noise, "
            "or sigma_y is larger than the noise; try a smaller sigma_y"
        )
    if chi_square > FAR:
        return (
            f"residual chi-square {chi_square:.3g}, above {FAR:g}: the operator (kernel, mask, "
            "factor) is not that of the measurement, or sigma_y is smaller than the noise"
        )
    return ""


def structure(correlation: float | None) -> str:
    """What a neighbour correlation of the residual means; "" if it is as of noise."""
    if correlation is None or not correlation > STRUCTURE:
        return ""
    return (
        f"the residual still has structure (neighbour correlation {correlation:.2f}): the kernel "
        "is probably wrong, or the noise is not white, or the answer is too smooth"
    )


def _columns(records: list[dict[str, Any]]) -> dict[str, tuple[str, int]]:
    """Heading and decimals of every column of numbers, by its name in the records."""
    columns = {}
    for name, metric in _shown_metrics(records).items():
        heading = metric.heading.replace("χ²", "chi2")  # not every terminal has Greek letters
        digits = metric.digits if metric.shown_digits is None else metric.shown_digits
        columns[name] = heading, digits
    return columns | COSTS


def _shown_metrics(records: list[dict[str, Any]]) -> dict[str, Metric]:
    """Metrics with a column: of pictures or of fields, by which of them have values."""
    metrics = {name: metric for name, metric in registered_metrics().items() if name in records[0]}
    valued = {
        metric.shown
        for name, metric in metrics.items()
        if any(row[name] is not None for row in records)
    }
    hidden = "pictures" if "fields" in valued and "pictures" not in valued else "fields"
    return {name: metric for name, metric in metrics.items() if metric.shown not in (False, hidden)}
