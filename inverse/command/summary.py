"""What an `inverse solve` prints: a row for each result, as a table or as JSON lines, and last the path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inverse.io.files import strict_json
from inverse.metrics.metric import Metric
from inverse.metrics.registered import registered_metrics
from inverse.result import Result

COSTS = {"nfe": ("prior evaluations", 0), "vjp": ("vjps", 0), "seconds": ("seconds", 1)}
"""Heading and decimals of the columns that follow the scores."""


def record(result: Result, file: Path | None, folder: Path) -> dict[str, Any]:
    """One flat row: what was solved, its scores and its cost."""
    about = result.provenance
    metrics = sorted(registered_metrics().items())
    scores = {name: metric(result) for name, metric in metrics if metric.cost == "low"}
    cost = {
        "nfe": result.cost.nfe,
        "vjp": result.cost.vjp,
        "A": result.cost.A,
        "A_adjoint": result.cost.A_adjoint,
    }
    names = {
        "input": about.get("input"),
        "problem": about["problem"]["name"],
        "method": about["method"]["name"],
        "prior": about["prior"],
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

    columns = _columns(records)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("input", overflow="fold")
    table.add_column("problem")
    table.add_column("method")
    for heading, _ in columns.values():
        table.add_column(heading, justify="right")
    for row in records:
        table.add_row(
            str(row["input"]),
            row["problem"],
            row["method"],
            *[
                "-" if row[k] is None else f"{row[k]:.{digits}f}"
                for k, (_, digits) in columns.items()
            ],
        )
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)
    common = [
        note
        for note in records[0]["notes"]
        if len(records) > 1 and all(note in row["notes"] for row in records)
    ]
    for note in common:
        print(f"all {len(records)} inputs: {note}")
    for row in records:
        for note in row["notes"]:
            if note not in common:
                print(f"{row['input']}: {note}")
        if row["ess"] is not None:
            evidence = (
                ""
                if row["log_evidence"] is None
                else f", log p(y) = {row['log_evidence']:.4g} nats"
            )
            print(
                f"{row['input']}: effective sample size {row['ess']:.1f} of {row['samples']}{evidence}"
            )
    print(records[-1]["out"] if len(records) == 1 else str(Path(records[-1]["out"]).parent))


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
