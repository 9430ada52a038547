"""The command `inverse fit-bc`; torch is imported only when it runs."""

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

Out = Annotated[Path, typer.Option(help="Output file for the table (.safetensors).")]
Base = Annotated[
    str,
    typer.Option(
        help="Deterministic solver, settings after a colon: diffpir, ddnm, mmps:sampler=heun."
    ),
]
Steps = Annotated[int, typer.Option(help="Steps of the solver.")]
Candidates = Annotated[int, typer.Option(help="Number of random starts to compare.")]
References = Annotated[
    int, typer.Option(help="Number of photographs on which the last candidates are compared.")
]
Photographs = Annotated[
    list[Path],
    typer.Option(help="Folders, .npz or .h5 of photographs.", show_default="the problem's truths"),
]
CropSize = Annotated[
    int | None,
    typer.Option(
        help="Side of the central crops (pixels).", show_default="of the prior's training crops"
    ),
]
Distance = Annotated[
    str,
    typer.Option(
        help="Metric to optimise: haarpsi, ms-ssim (above 160 pixels), ssim, psnr, rmse; lpips, "
        "dists with your weights."
    ),
]
Tail = Annotated[
    float,
    typer.Option(help="Average the loss over this fraction of the references, the worst (CVaR)."),
]
Refine = Annotated[int, typer.Option(help="Number of one-block moves to try on the best start.")]
Block = Annotated[int, typer.Option(help="Side of a block (pixels).")]
Seed = Annotated[
    int, typer.Option(help="Random seed for the candidates, the measurement noise and the moves.")
]
Precision = Annotated[
    str, typer.Option(help="float32, float64 or bf16 (prior in bf16, state in float32).")
]


def fit_bc(
    out: Out,
    problem: ProblemName = "super-resolution",
    problem_option: ProblemOptions = [],
    prior: PriorName = None,
    base: Base = "diffpir",
    steps: Steps = 10,
    candidates: Candidates = 256,
    references: References = 32,
    images: Photographs = [],
    size: CropSize = None,
    distance: Distance = "haarpsi",
    tail: Tail = 1.0,
    refine: Refine = 0,
    block: Block = 16,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Precision = "float32",
    plugin: PluginFiles = [],
) -> None:
    """Choose the start of a deterministic solver on photographs, for `optimal-bc`.

    Run the same command again to resume after an interruption.
    """
    from inverse.registry.discovery import get_problem
    from inverse_plugins.optimal_bc.deterministic_solver import deterministic_solver
    from inverse_plugins.optimal_bc.fitting import fit_boundary
    from inverse_plugins.optimal_bc.search import FitConfig

    registry(plugin)
    measured = get_problem(problem, **assignments(problem_option, "--problem-option"))
    solver = deterministic_solver(base, steps)
    config = FitConfig(candidates, references, size, distance, tail, refine, block, seed, dtype)
    table = fit_boundary(measured, solver, config, images, prior, device, out)
    if table is None:
        raise typer.Exit(130)
    about = table.about
    print(
        f"candidate {about['candidate']} of {candidates}: loss {about['loss']:.4f}, "
        f"loss of candidate 0 {about['loss_of_candidate_0']:.4f}"
    )
    print(out)
