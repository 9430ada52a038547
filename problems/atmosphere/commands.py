"""The command `inverse train` on weather fields; torch is imported only when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inverse.errors import OptionError
from inverse.io.command_line import (
    Batch,
    Blocks,
    Cooldown,
    Device,
    LearningRate,
    Licence,
    Limits,
    Precision,
    Seed,
    Steps,
    Weights,
    Wide,
    integers,
)


def train_fields(
    images: Annotated[
        list[Path], typer.Option(help="One NetCDF file or Zarr store of fields (.nc, .zarr).")
    ],
    out: Weights,
    variable: Annotated[
        list[str], typer.Option(help="Variable to train on; may be repeated.", show_default=False)
    ] = [],
    period: Annotated[
        str,
        typer.Option(
            help="FIRST/LAST time of the training fields, inclusive, e.g. 2019-03-01/2019-03-21."
        ),
    ] = "",
    validation_period: Annotated[
        str, typer.Option(help="FIRST/LAST time of the fields that select the Gaussian.")
    ] = "",
    test_period: Annotated[
        str, typer.Option(help="FIRST/LAST time of the fields of the card's table.")
    ] = "",
    mix: Annotated[float, typer.Option(help="Fraction of the batch that blends two fields.")] = 0.5,
    hours: Annotated[int, typer.Option(help="Consecutive hours in a sample.")] = 1,
    rank: Annotated[
        int,
        typer.Option(
            help="Rank of the Gaussian that the network corrects; --steps 0 trains no network."
        ),
    ] = 400,
    steps: Steps = 100_000,
    batch: Batch = 16,
    learning_rate: LearningRate = 1e-3,
    widths: Annotated[
        str, typer.Option(help="Feature channels of each level, finest first.")
    ] = "64,128,256",
    blocks: Blocks = "2,3,4",
    wide: Wide = 0.0,
    precision: Precision = "float32",
    cooldown: Cooldown = 0.3,
    seed: Seed = 0,
    device: Device = "cpu",
    licence: Licence = "",
    limits: Limits = "",
) -> None:
    """Train a diffusion prior from weather fields; run again to resume after an interruption."""
    from inverse.priors.networks.unet import UNetConfig
    from inverse.training.loop import TrainConfig
    from inverse_problems.atmosphere.training import train_field_prior

    if len(images) > 1 or not variable or not (period and validation_period and test_period):
        raise OptionError(
            "train: fields need one file, and --variable, --period, --validation-period "
            "and --test-period"
        )
    network = UNetConfig(1, integers(widths, "--widths"), integers(blocks, "--blocks"))
    settings = TrainConfig(
        64,
        max(steps, 1),
        batch,
        learning_rate,
        cooldown=cooldown,
        wide=wide,
        precision=precision,
        seed=seed,
        network=network,
        mix=mix,
    )
    periods = (period, validation_period, test_period)
    terms = {"licence": licence, "limits": limits}
    config = settings if steps else None
    if not train_field_prior(images[0], variable, periods, out, rank, config, device, terms, hours):
        raise typer.Exit(130)
