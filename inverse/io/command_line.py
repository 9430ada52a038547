"""Parts shared by commands: options, plug-in files, name=value pairs, tables.

The module does not import torch.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inverse.errors import OptionError

if TYPE_CHECKING:
    from rich.table import Table

    from inverse.registry.discovery import Registry

ProblemName = Annotated[str, typer.Option(help="Name of a problem: see `inverse problems`.")]
ProblemOptions = Annotated[
    list[str],
    typer.Option(
        "--problem-option",
        metavar="NAME=VALUE",
        help="Option of the problem; may be repeated.",
        show_default=False,
    ),
]
MethodName = Annotated[str, typer.Option(help="Name of a method: see `inverse methods`.")]
MethodOptions = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Option of the method; may be repeated.",
        show_default=False,
    ),
]
PriorName = Annotated[
    str | None,
    typer.Option(
        help="Prior: a registered name, a file of weights or a diffusers folder.",
        show_default="the problem's",
    ),
]
Device = Annotated[str, typer.Option(help="Device: cpu, cuda, cuda:1, ...")]
Weights = Annotated[
    Path, typer.Option(help="File for the weights (.safetensors); the card is written beside it.")
]
Licence = Annotated[str, typer.Option(help="Licence of weights and data, for the card.")]
Limits = Annotated[str, typer.Option(help="Known limits of the weights, for the card.")]
Images = Annotated[
    list[Path],
    typer.Option(help="Folders, .npz or .h5 files of images; all are drawn equally often."),
]
Size = Annotated[int, typer.Option(help="Side of the training crops (pixels).")]
Steps = Annotated[int, typer.Option(help="Number of optimiser steps.")]
Batch = Annotated[int, typer.Option(help="Crops per step.")]
LearningRate = Annotated[float, typer.Option(help="Peak learning rate of AdamW.")]
Cooldown = Annotated[
    float, typer.Option(help="Final fraction of the steps, in which the rate falls to zero.")
]
Channels = Annotated[int, typer.Option(help="Image channels: 1 (grey) or 3 (colour).")]
Blocks = Annotated[str, typer.Option(help="Residual blocks of each level, separated by commas.")]
Mirror = Annotated[
    bool | None,
    typer.Option(help="Flip half of the images left to right.", show_default="in colour only"),
]
Wide = Annotated[
    float,
    typer.Option(
        help="Fraction of the noise levels drawn log-uniformly from the whole range; "
        "the others are log-normal around 0.3."
    ),
]
Precision = Annotated[str, typer.Option(help="Precision of training: float32 or bf16 (autocast).")]
Seed = Annotated[int, typer.Option(help="Random seed of the run.")]
Validation = Annotated[
    Path | None,
    typer.Option(help="Images for the scores on the card.", show_default="the first source"),
]
PluginFiles = Annotated[
    list[Path],
    typer.Option(
        "--plugin", help="Python file to load as a plug-in; may be repeated.", show_default=False
    ),
]


def registry(files: list[Path]) -> Registry:
    """The registry with these plug-in files loaded.

    Raises: PluginError for a file that cannot be loaded.
    """
    from inverse.registry import discovery

    loaded = discovery.registry()
    for path in files:
        loaded.load_file(path)
    return loaded


def confirmed(doubt: str) -> bool:
    """Ask the user on a terminal whether to go on; false where there is no terminal."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    return typer.confirm(f"{doubt}. Go on?", err=True)


def assignments(pairs: list[str], option: str) -> dict[str, str]:
    """["a=1", "b=x=y"] -> {"a": "1", "b": "x=y"}.

    Args:
        option: name of the option, for the error message.

    Raises: OptionError for a pair without "=" or without a name.
    """
    for pair in pairs:
        if "=" not in pair.lstrip("="):
            raise OptionError(f"{option} takes name=value, got '{pair}'")
    return dict(pair.split("=", 1) for pair in pairs)


def integers(text: str, option: str) -> tuple[int, ...]:
    """ "1,2,3" -> (1, 2, 3).

    Args:
        option: name of the option, for the error message.

    Raises: OptionError for anything but whole numbers.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise OptionError(
            f"{option} takes whole numbers separated by commas, got '{text}'"
        ) from error


def columns(*headers: str) -> Table:
    """An empty table with these columns; all but the first may wrap."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for i, header in enumerate(headers):
        table.add_column(header, no_wrap=i == 0, overflow="fold")
    return table


def show(table: Table) -> None:
    """Print a table, at a width of 200 characters if the output is not a terminal."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)
