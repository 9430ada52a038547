"""`inverse train --from-measurements`: a prior without clean signals. It does not import torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inverse.errors import OptionError
from inverse.io.command_line import (
    Batch,
    Blocks,
    LearningRate,
    Licence,
    Limits,
    MethodName,
    MethodOptions,
    PluginFiles,
    Precision,
    ProblemOptions,
    Seed,
    Weights,
    assignments,
    integers,
    registry,
)
from inverse.registry.defaults import default

DEFAULT_METHOD = default("train", "method")


def train_from_measurements(
    from_measurements: Annotated[
        Path,
        typer.Option(
            help="Measurements: .npz with y (N, ...), and an array (N,) for each option of the "
            "problem that varies."
        ),
    ],
    problem: Annotated[str, typer.Option(help="Problem that the measurements are of.")],
    out: Weights,
    problem_option: ProblemOptions = [],
    form: Annotated[
        str,
        typer.Option(
            help="signals: draw the signals with --method and train on them, in rounds; "
            "observations: one training that hides more pixels and predicts the observed ones."
        ),
    ] = "signals",
    method: MethodName = DEFAULT_METHOD,
    set_: MethodOptions = [],
    rounds: Annotated[
        int, typer.Option(min=1, help="Rounds of drawing signals and training on them.")
    ] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of each round.")] = 3000,
    gaussian: Annotated[
        int, typer.Option(min=1, help="Iterations of EM for the first prior, a Gaussian.")
    ] = 12,
    start: Annotated[
        str | None,
        typer.Option(help="First prior in place of the Gaussian.", show_default="a Gaussian"),
    ] = None,
    batch: Batch = 32,
    learning_rate: LearningRate = 1e-3,
    widths: Annotated[
        str, typer.Option(help="Feature channels of each level, finest first.")
    ] = "64,128,256",
    blocks: Blocks = "2,3,4",
    precision: Precision = "float32",
    seed: Seed = 0,
    licence: Licence = "",
    limits: Limits = "",
    plugin: PluginFiles = [],
) -> None:
    """Train a prior from measurements alone, by expectation maximisation; signals are never seen.

    Each round draws a signal for every measurement under the current prior and trains the network
    on the draws. What no operator measures cannot be learnt; the command says how much that is.
    """
    from inverse.priors.loading import load_prior
    from inverse.priors.networks.unet import UNetConfig
    from inverse.registry.discovery import get_method, get_problem
    from inverse.training.expectation import Rounds, check_images
    from inverse.training.expectation import train_from_measurements as train
    from inverse.training.loop import TrainConfig
    from inverse.training.measurements import read_measurements

    if form not in ("signals", "observations"):
        raise OptionError(f"train: --form must be signals or observations, got '{form}'")
    registry(plugin)
    options = assignments(problem_option, "--problem-option")
    data = read_measurements(from_measurements, get_problem(problem, **options))
    check_images(data)
    channels, *sides = data.shape
    network = UNetConfig(
        channels=channels, widths=integers(widths, "--widths"), blocks=integers(blocks, "--blocks")
    )
    config = TrainConfig(
        min(sides),
        steps,
        batch,
        learning_rate,
        precision=precision,
        seed=seed,
        network=network,
        mirror=False,
    )
    drawn_by = None
    if form == "signals":
        drawn_by = get_method(method, **assignments(set_, "--set"))
    facts: dict[str, object] = {
        "data": f"{len(data.y)} measurements of {problem} in {from_measurements.name}, no signals",
        "operators": len(data.groups),
        "form": form,
    }
    if drawn_by is not None:
        facts |= {"method": method, "rounds": rounds}
    first = load_prior(start) if start else None
    if first is not None and not first.fits(data.shape):
        raise OptionError(
            f"train: --start {start} has shape {first.shape}, the signals have {data.shape}"
        )
    finished = train(
        data,
        out,
        Rounds(drawn_by, rounds, gaussian, seed),
        config,
        {"licence": licence, "limits": limits},
        facts,
        first,
    )
    if not finished:
        raise typer.Exit(130)
