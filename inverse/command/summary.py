"""What an `inverse solve` prints: a row for each result, as a table or as JSON lines, and last the path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inverse.io.files import strict_json
from inverse.metrics.standard import HEAVY
from inverse.registry.discovery import registry
from inverse.result import Result


def record(result: Result, file: Path | None, folder: Path) -> dict[str, Any]:
    """One flat row: what was solved, its scores and its cost."""
    about = result.provenance
    scores = {
        name: entry.thing(result)
        for name, entry in registry().table("inverse_metrics").items()
        if name not in HEAVY
    }
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

    columns = {
        "psnr": "PSNR (dB)",
        "ssim": "SSIM",
        "misfit": "residual chi2",
        "nfe": "prior evaluations",
        "vjp": "vjps",
        "seconds": "seconds",
    }
    digits = {"psnr": 2, "ssim": 4, "misfit": 3, "nfe": 0, "vjp": 0, "seconds": 1}
    if all(row["psnr"] is None for row in records) and any(
        row["rmse"] is not None for row in records
    ):
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
        table.add_row(
            str(row["input"]),
            row["problem"],
            row["method"],
            *["-" if row[k] is None else f"{row[k]:.{digits[k]}f}" for k in columns],
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
