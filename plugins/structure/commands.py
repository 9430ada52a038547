"""The command `inverse train-structure`; torch is imported only when it runs."""

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

Validation = Annotated[
    Path,
    typer.Option(help="Photographs outside the training images, for the card and the fit of beta."),
]
Size = Annotated[
    int,
    typer.Option(help="Side of the training crops (pixels); photographs must be 30 pixels larger."),
]
Scales = Annotated[
    str, typer.Option(help="Scales to predict: sides of the averaged squares (pixels).")
]
Families = Annotated[
    str, typer.Option(help="Families of blurs: motion, defocus, gaussian, frames.")
]
Noise = Annotated[float, typer.Option(help="Largest standard deviation of the noise, intensities.")]
Diffusion = Annotated[
    bool,
    typer.Option(help="Also train an image-conditioned diffusion network, for structure-icdpm."),
]
Widths = Annotated[
    str,
    typer.Option(help="Feature channels of the diffusion network's levels, finest first."),
]
Blocks = Annotated[
    str, typer.Option(help="Residual blocks of the diffusion network's levels, finest first.")
]
Prior = Annotated[
    str,
    typer.Option(help="Prior of photographs whose mean and covariance are used to fit beta."),
]
Dropout = Annotated[
    float,
    typer.Option(help="Share of the crops without structure for the diffusion network."),
]


def train_structure(
    images: Images,
    validation: Validation,
    out: Weights,
    size: Size = 96,
    steps: Steps = 20_000,
    batch: Batch = 16,
    learning_rate: LearningRate = 2e-3,
    cooldown: Cooldown = 0.4,
    scales: Scales = "2,4,8",
    families: Families = "motion,defocus,gaussian,frames",
    noise: Noise = 0.05,
    diffusion: Diffusion = False,
    widths: Widths = "32,64,96",
    blocks: Blocks = "1,2,2",
    prior: Prior = "photo-64",
    dropout: Dropout = 0.2,
    precision: Precision = "float32",
    seed: Seed = 0,
    device: Device = "cpu",
    licence: Licence = "",
    limits: Limits = "",
) -> None:
    """Train networks that predict coarse grey structure of a blurry picture, for `structure-prior`.

    Run the same command again to resume after an interruption.
    """
    from inverse.priors.networks.unet import UNetConfig
    from inverse_plugins.structure.blurs import BlurCorpus
    from inverse_plugins.structure.diffusion_network import ConditionalConfig
    from inverse_plugins.structure.structure_network import StructureConfig
    from inverse_plugins.structure.training import StructureTrainConfig
    from inverse_plugins.structure.training import train_structure as train

    structure = StructureConfig(integers(scales, "--scales"))
    unet = UNetConfig(3, integers(widths, "--widths"), integers(blocks, "--blocks"), 128)
    config = StructureTrainConfig(
        size,
        steps,
        batch,
        learning_rate,
        cooldown=cooldown,
        precision=precision,
        seed=seed,
        network=ConditionalConfig(structure, unet) if diffusion else structure,
        corpus=BlurCorpus(tuple(families.split(",")), noise),
        dropout=dropout,
    )
    about = {"licence": licence, "limits": limits}
    if not train(images, out, config, device, about, validation, prior):
        raise typer.Exit(130)
