"""The commands `inverse train-codec` and `inverse train-circuit`; they import torch when run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inverse.io.command_line import (
    Batch,
    Blocks,
    Channels,
    Device,
    Images,
    LearningRate,
    Licence,
    Limits,
    Mirror,
    Precision,
    Seed,
    Size,
    Steps,
    Validation,
    Weights,
    integers,
)

Widths = Annotated[
    str,
    typer.Option(
        help="Feature channels of each level, finest first; the side of a code's patch is 2 to the "
        "number of levels (pixels)."
    ),
]
Codes = Annotated[int, typer.Option(help="Number of codes in the codebook.")]


def train_codec(
    images: Images,
    out: Weights,
    size: Size = 64,
    steps: Steps = 10_000,
    batch: Batch = 16,
    learning_rate: LearningRate = 1e-3,
    channels: Channels = 3,
    widths: Widths = "32,64",
    blocks: Blocks = "1,2",
    codes: Codes = 256,
    mirror: Mirror = None,
    precision: Precision = "float32",
    seed: Seed = 0,
    validation: Validation = None,
    device: Device = "cpu",
    licence: Licence = "",
    limits: Limits = "",
) -> None:
    """Train a vector-quantised autoencoder, for circuits over its codes (`train-circuit --codec`).

    Run the same command again to resume after an interruption.
    """
    from inverse.training.loop import TrainConfig
    from inverse_plugins.circuits.codec import CodecConfig
    from inverse_plugins.circuits.codec_training import train_codec as train

    network = CodecConfig(
        channels, integers(widths, "--widths"), integers(blocks, "--blocks"), codes
    )
    config = TrainConfig(
        size,
        steps,
        batch,
        learning_rate,
        precision=precision,
        seed=seed,
        network=network,
        mirror=channels == 3 if mirror is None else mirror,
    )
    about = {"licence": licence, "limits": limits}
    if not train(images, out, config, device, about, validation):
        raise typer.Exit(130)


CircuitImages = Annotated[
    list[Path],
    typer.Option(help="Folders, .npz or .h5 of training images; colour is converted to grey."),
]
CircuitSize = Annotated[
    int,
    typer.Option(
        help="Side of the circuit (pixels, or codes); larger images are cut into random crops."
    ),
]
CodecName = Annotated[
    str,
    typer.Option(
        help="Name or file of a codec, to train a circuit over its codes.",
        show_default="over pixels",
    ),
]
Tie = Annotated[
    int, typer.Option(help="Side of the squares of variables that share one table (quad).")
]
Shrink = Annotated[int, typer.Option(help="Side of the squares of pixels that are averaged first.")]
Levels = Annotated[int, typer.Option(help="Number of intensity levels.")]
States = Annotated[int, typer.Option(help="Number of latent states.")]
Structure = Annotated[
    str, typer.Option(help="hclt (hidden Chow-Liu tree) or quad (halved rectangles).")
]
LeafKind = Annotated[str, typer.Option(help="categorical or gaussian.")]
Spread = Annotated[
    bool,
    typer.Option(help="Treat values as Gaussian around their level: they lie between the levels."),
]
Crops = Annotated[int, typer.Option(help="Number of random crops of larger images.")]
Epochs = Annotated[int, typer.Option(help="Sweeps of expectation maximisation.")]
Rows = Annotated[int, typer.Option(help="Images of each M-step; 0 for all.")]
Pseudocount = Annotated[
    float, typer.Option(help="Observations spread evenly over each distribution.")
]
HeldOut = Annotated[
    Path | None,
    typer.Option(
        help="Images for the card's held-out bits.",
        show_default="every tenth of the training images",
    ),
]


def train_circuit(
    images: CircuitImages,
    out: Weights,
    size: CircuitSize = 14,
    codec: CodecName = "",
    tie: Tie = 1,
    shrink: Shrink = 1,
    levels: Levels = 16,
    states: States = 32,
    structure: Structure = "hclt",
    leaves: LeafKind = "categorical",
    spread: Spread = False,
    crops: Crops = 50_000,
    epochs: Epochs = 10,
    batch: Rows = 1000,
    pseudocount: Pseudocount = 0.1,
    seed: Seed = 0,
    validation: HeldOut = None,
    licence: Licence = "",
    limits: Limits = "",
) -> None:
    """Train a circuit over pixels or codes, for `tractable-steering` and `tractable-smc`."""
    from inverse.registry.options import build
    from inverse_plugins.circuits.circuit_training import CircuitConfig
    from inverse_plugins.circuits.circuit_training import train_circuit as train

    settings = {
        "size": size,
        "codec": codec,
        "tie": tie,
        "shrink": shrink,
        "categories": levels,
        "states": states,
        "structure": structure,
        "leaves": leaves,
        "spread": spread,
        "crops": crops,
        "epochs": epochs,
        "batch": batch,
        "pseudocount": pseudocount,
        "seed": seed,
    }
    about = {"licence": licence, "limits": limits}
    if not train(images, out, build(CircuitConfig, settings), about, validation):
        raise typer.Exit(130)
