"""`inverse train-codec` and `inverse train-circuit`. Nothing imports torch before it must."""

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


def train_codec(
    images: Images,
    out: Weights,
    size: Size = 64,
    steps: Steps = 10_000,
    batch: Batch = 16,
    learning_rate: LearningRate = 1e-3,
    channels: Channels = 3,
    widths: Annotated[
        str,
        typer.Option(
            help="Feature channels of each level, finest first; a code stands for 2 to the number of levels pixels."
        ),
    ] = "32,64",
    blocks: Blocks = "1,2",
    codes: Annotated[int, typer.Option(help="In the book.")] = 256,
    mirror: Mirror = None,
    precision: Precision = "float32",
    seed: Seed = 0,
    validation: Validation = None,
    device: Device = "cpu",
    licence: Licence = "",
    limits: Limits = "",
) -> None:
    """Train a vector-quantised autoencoder, over whose codes `train-circuit --codec` trains; run again to resume after an interruption."""
    from inverse.training.loop import TrainConfig
    from inverse_plugins.circuits import codec_training as codec
    from inverse_plugins.circuits.codec import CodecConfig

    network = CodecConfig(
        channels, integers(widths, "--widths"), integers(blocks, "--blocks"), codes
    )
    mirror = channels == 3 if mirror is None else mirror
    config = TrainConfig(
        size,
        steps,
        batch,
        learning_rate,
        precision=precision,
        seed=seed,
        network=network,
        mirror=mirror,
    )
    if not codec.train_codec(
        images, out, config, device, {"licence": licence, "limits": limits}, validation
    ):
        raise typer.Exit(130)


def train_circuit(
    images: Annotated[
        list[Path],
        typer.Option(help="Folders, .npz or .h5 of training images; colour becomes grey."),
    ],
    out: Weights,
    size: Annotated[
        int,
        typer.Option(
            help="Side of the circuit (pixels, or codes); larger images are cut into random crops."
        ),
    ] = 14,
    codec: Annotated[
        str,
        typer.Option(
            help="A codec's name or file: the circuit is then over its codes.",
            show_default="over pixels",
        ),
    ] = "",
    tie: Annotated[
        int, typer.Option(help="Side of the squares of variables that share one table (quad).")
    ] = 1,
    shrink: Annotated[
        int, typer.Option(help="Average squares of this many pixels a side first.")
    ] = 1,
    levels: Annotated[int, typer.Option(help="Intensity levels.")] = 16,
    states: Annotated[int, typer.Option(help="Latent states.")] = 32,
    structure: Annotated[
        str, typer.Option(help="hclt (hidden Chow-Liu tree) or quad (rectangles, halved).")
    ] = "hclt",
    leaves: Annotated[str, typer.Option(help="categorical or gaussian.")] = "categorical",
    spread: Annotated[
        bool,
        typer.Option(help="Values lie between the levels: take each as Gaussian around its level."),
    ] = False,
    crops: Annotated[int, typer.Option(help="Crops of larger images.")] = 50_000,
    epochs: Annotated[int, typer.Option(help="Sweeps of expectation maximisation.")] = 10,
    batch: Annotated[int, typer.Option(help="Images of an M-step; 0 for all.")] = 1000,
    pseudocount: Annotated[
        float, typer.Option(help="Observations spread evenly over each distribution.")
    ] = 0.1,
    seed: Seed = 0,
    validation: Annotated[
        Path | None,
        typer.Option(
            help="Images for the card's held-out bits.",
            show_default="every tenth of the training images",
        ),
    ] = None,
    licence: Licence = "",
    limits: Limits = "",
) -> None:
    """Train a probabilistic circuit over pixels, or over the codes of a codec, for `tractable-steering` and `tractable-smc`."""
    from inverse.registry.options import build
    from inverse_plugins.circuits.circuit_training import CircuitConfig, train_circuit

    chosen = {
        "size": size,
        "shrink": shrink,
        "categories": levels,
        "states": states,
        "structure": structure,
        "leaves": leaves,
        "spread": spread,
    }
    chosen |= {
        "codec": codec,
        "tie": tie,
        "crops": crops,
        "epochs": epochs,
        "batch": batch,
        "pseudocount": pseudocount,
        "seed": seed,
    }
    if not train_circuit(
        images,
        out,
        build(CircuitConfig, chosen),
        {"licence": licence, "limits": limits},
        validation,
    ):
        raise typer.Exit(130)
