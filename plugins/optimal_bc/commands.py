"""`inverse fit-bc`. Nothing imports torch before it must."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inverse.io.command_line import (
    Device,
    PluginFiles,
    PriorName,
    ProblemName,
    ProblemOptions,
    assignments,
    registry,
)


def fit_bc(
    out: Annotated[Path, typer.Option(help="Where the table goes (.safetensors).")],
    problem: ProblemName = "super-resolution",
    problem_option: ProblemOptions = [],
    prior: PriorName = None,
    base: Annotated[
        str,
        typer.Option(
            help="The deterministic solver, settings after a colon: diffpir, ddnm, mmps:sampler=heun."
        ),
    ] = "diffpir",
    steps: Annotated[int, typer.Option(help="Of the solver.")] = 10,
    candidates: Annotated[int, typer.Option(help="Starts that are drawn.")] = 256,
    references: Annotated[
        int, typer.Option(help="Photographs that the last of them are compared on.")
    ] = 32,
    images: Annotated[
        list[Path],
        typer.Option(
            help="Folders, .npz or .h5 of photographs.", show_default="the problem's truths"
        ),
    ] = [],
    size: Annotated[
        int | None,
        typer.Option(
            help="Side of their central crops (pixels).",
            show_default="of the prior's training crops",
        ),
    ] = None,
    distance: Annotated[
        str,
        typer.Option(
            help="A metric: haarpsi, ms-ssim (above 160 pixels), ssim, psnr, rmse; lpips, dists with your weights."
        ),
    ] = "haarpsi",
    tail: Annotated[
        float,
        typer.Option(
            help="Choose by the mean over this fraction of the references, the worst (CVaR)."
        ),
    ] = 1.0,
    refine: Annotated[int, typer.Option(help="Moves of one block to try on the start chosen.")] = 0,
    block: Annotated[int, typer.Option(help="Side of a block (pixels).")] = 16,
    seed: Annotated[
        int, typer.Option(help="Of the candidates, the measurement noise and the moves.")
    ] = 0,
    device: Device = "cpu",
    dtype: Annotated[
        str, typer.Option(help="float32, float64 or bf16 (prior in bf16, state in float32).")
    ] = "float32",
    plugin: PluginFiles = [],
) -> None:
    """Choose the start of a deterministic solver on reference photographs, for `optimal-bc`; run again to resume after an interruption."""
    from inverse.registry.discovery import get_problem
    from inverse_plugins.optimal_bc.search import Fit, fit_boundary
    from inverse_plugins.optimal_bc.table import deterministic

    registry(plugin)
    chosen = (
        get_problem(problem, **assignments(problem_option, "--problem-option")),
        deterministic(base, steps),
    )
    fit = Fit(candidates, references, size, distance, tail, refine, block, seed, dtype)
    table = fit_boundary(*chosen, fit, images, prior, device, out)
    if table is None:
        raise typer.Exit(130)
    found = table.about
    print(
        f"candidate {found['candidate']} of {candidates}: loss {found['loss']:.4f}, that of candidate 0 {found['loss_of_candidate_0']:.4f}"
    )
    print(out)
