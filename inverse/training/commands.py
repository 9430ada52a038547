"""`inverse train`: train a prior from images. Importing this module does not import torch."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from typer.core import TyperCommand

from inverse.errors import OptionError
from inverse.io.command_line import (
    Batch,
    Blocks,
    Channels,
    Cooldown,
    Device,
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
    Wide,
    integers,
)
from inverse.registry.commands import suffixes_taking, trainer_for

app = typer.Typer()


class TrainerByFile(TyperCommand):
    """`inverse train`, or the plug-in's trainer for the suffix of the file given as --images."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        if any(a.partition("=")[0] == "--from-measurements" for a in args):
            return _from_measurements().make_context(info_name, args, parent, **extra)
        files = [value for option, value in pairwise(args) if option == "--images"]
        files += [
            argument.removeprefix("--images=")
            for argument in args
            if argument.startswith("--images=")
        ]
        own, trainer = _option_names(self), trainer_for(files)
        given = [argument.partition("=")[0] for argument in args if argument.startswith("--")]
        if trainer:
            for name in given:
                if name in own - _option_names(trainer):
                    raise OptionError(
                        f"train: {name} applies to images, got --images {', '.join(files)}; "
                        "omit the option"
                    )
            return trainer.make_context(info_name, args, parent, **extra)
        for name in given:
            if name not in own and (suffixes := suffixes_taking(name)):
                accepted = " or ".join(f".{suffix}" for suffix in suffixes)
                raise OptionError(
                    f"train: {name} applies to a {accepted} file, got --images {', '.join(files)}; "
                    "omit the option, or give such a file"
                )
        return super().make_context(info_name, args, parent, **extra)


def _from_measurements() -> Any:
    """The command that trains from measurements instead of images."""
    from inverse.training.measurement_commands import train_from_measurements

    application = typer.Typer(add_completion=False)
    application.command(name="train")(train_from_measurements)
    return typer.main.get_command(application)


def _option_names(command: Any) -> set[str]:
    return {
        name
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }


@app.command(cls=TrainerByFile)
def train(
    images: Annotated[
        list[Path],
        typer.Option(
            help="Folders, .npz or .h5 files of images, drawn equally often; "
            "or one file of weather fields (.nc, .zarr)."
        ),
    ],
    out: Weights,
    size: Size = 64,
    steps: Steps = 100_000,
    batch: Batch = 16,
    learning_rate: LearningRate = 1e-3,
    channels: Channels = 3,
    widths: Annotated[
        str, typer.Option(help="Feature channels of each level, finest first.")
    ] = "64,128,256",
    blocks: Blocks = "2,3,4",
    mirror: Mirror = None,
    start: Annotated[
        str | None,
        typer.Option(
            help="Prior to continue training from (name or file); it sets the network.",
            show_default=False,
        ),
    ] = None,
    wide: Wide = 0.0,
    precision: Precision = "float32",
    cooldown: Cooldown = 0.3,
    seed: Seed = 0,
    weights: Annotated[
        list[Path],
        typer.Option(
            help="Maps that weigh the pixels of --images, white 1 and black 0: a folder with a "
            "picture of the same name for each image; once for each --images.",
            show_default=False,
        ),
    ] = [],
    validation: Validation = None,
    device: Device = "cpu",
    licence: Licence = "",
    limits: Limits = "",
) -> None:
    """Train an unconditional diffusion prior from images; run again to resume a training.

    `--steps 0` fits a Gaussian field with the mean and the power spectrum of the images.

    `inverse train --from-measurements FILE --help` shows how to train one without clean signals.
    """
    from inverse.priors.networks.unet import UNetConfig
    from inverse.training.field import fit_field
    from inverse.training.loop import TrainConfig
    from inverse.training.prior import load_start, train_prior

    if channels not in (1, 3):
        raise OptionError(f"train: --channels must be 1 or 3, got {channels}")
    if steps == 0:
        if start or weights:
            raise OptionError("train: --steps 0 fits a field; it takes no --start and no --weights")
        card_text = {"licence": licence, "limits": limits}
        fit_field(images, out, size, channels, card_text, validation)
        return
    start_prior, digest = load_start(start) if start else (None, "")
    requested = UNetConfig(
        channels=channels, widths=integers(widths, "--widths"), blocks=integers(blocks, "--blocks")
    )
    network = cast(UNetConfig, start_prior.network.config) if start_prior else requested
    mirror = network.channels == 3 if mirror is None else mirror
    config = TrainConfig(
        size,
        steps,
        batch,
        learning_rate,
        cooldown=cooldown,
        wide=wide,
        start=digest,
        precision=precision,
        seed=seed,
        network=network,
        mirror=mirror,
    )
    if not train_prior(
        images,
        out,
        network,
        config,
        device,
        {"licence": licence, "limits": limits},
        validation,
        start_prior,
        weights,
    ):
        raise typer.Exit(130)
