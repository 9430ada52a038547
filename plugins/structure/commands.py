"""`inverse train-structure`. Nothing imports torch before it must."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inverse.io.command_line import (
    Batch,
    Cooldown,
    Device,
    Images,
    LearningRate,
    Licence,
    Limits,
    Precision,
    Seed,
    Steps,
    Weights,
    integers,
)


def train_structure(
    images: Images,
    validation: Annotated[
        Path,
        typer.Option(help="Photographs that are not among them, for the card and the fit of beta."),
    ],
    out: Weights,
    size: Annotated[
        int,
        typer.Option(help="Side of the training crops (pixels); photographs must be 30 larger."),
    ] = 96,
    steps: Steps = 20_000,
    batch: Batch = 16,
    learning_rate: LearningRate = 2e-3,
    cooldown: Cooldown = 0.4,
    scales: Annotated[
        str, typer.Option(help="Pixels of a side that are averaged to one.")
    ] = "2,4,8",
    families: Annotated[
        str, typer.Option(help="Of blurs: motion, defocus, gaussian, frames.")
    ] = "motion,defocus,gaussian,frames",
    noise: Annotated[
        float, typer.Option(help="Largest standard deviation of the noise, intensities.")
    ] = 0.05,
    diffusion: Annotated[
        bool,
        typer.Option(
            help="Train an image-conditioned diffusion network with them, for structure-icdpm."
        ),
    ] = False,
    widths: Annotated[
        str,
        typer.Option(
            help="Of the diffusion network: feature channels of each level, finest first."
        ),
    ] = "32,64,96",
    blocks: Annotated[
        str, typer.Option(help="Of the diffusion network: residual blocks of each level.")
    ] = "1,2,2",
    prior: Annotated[
        str,
        typer.Option(help="A prior of photographs, by whose mean and covariance beta is fitted."),
    ] = "photo-64",
    dropout: Annotated[
        float,
        typer.Option(
            help="Share of the crops on which structure does not guide the diffusion network."
        ),
    ] = 0.2,
    precision: Precision = "float32",
    seed: Seed = 0,
    device: Device = "cpu",
    licence: Licence = "",
    limits: Limits = "",
) -> None:
    """Train networks that predict coarse sharp greys from a blurry picture, for `structure-prior`; run again to resume after an interruption."""
    from inverse.priors.networks.unet import UNetConfig
    from inverse_plugins.structure.blurs import BlurCorpus
    from inverse_plugins.structure.conditional import ConditionalConfig
    from inverse_plugins.structure.network import StructureConfig
    from inverse_plugins.structure.training import StructureTrainConfig
    from inverse_plugins.structure.training import train_structure as train

    structure, unet = (
        StructureConfig(integers(scales, "--scales")),
        UNetConfig(3, integers(widths, "--widths"), integers(blocks, "--blocks"), 128),
    )
    network = ConditionalConfig(structure, unet) if diffusion else structure
    config = StructureTrainConfig(
        size,
        steps,
        batch,
        learning_rate,
        cooldown=cooldown,
        precision=precision,
        seed=seed,
        network=network,
        corpus=BlurCorpus(tuple(families.split(",")), noise),
        dropout=dropout,
    )
    if not train(
        images, out, config, device, {"licence": licence, "limits": limits}, validation, prior
    ):
        raise typer.Exit(130)
