"""What commands share: options, plug-in files, name=value pairs, tables. Nothing here imports torch before it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inverse.errors import OptionError

if TYPE_CHECKING:
    from rich.table import Table

    from inverse.registry.discovery import Registry

ProblemName = Annotated[str, typer.Option(help="A problem: see `inverse problems`.")]
ProblemOptions = Annotated[
    list[str],
    typer.Option(
        "--problem-option", metavar="NAME=VALUE", help="Options of the problem.", show_default=False
    ),
]
MethodName = Annotated[str, typer.Option(help="A method: see `inverse methods`.")]
MethodOptions = Annotated[
    list[str],
    typer.Option("--set", metavar="NAME=VALUE", help="Options of the method.", show_default=False),
]
PriorName = Annotated[
    str | None,
    typer.Option(
        help="A prior's name, its .safetensors file, or a diffusers folder.",
        show_default="the problem's",
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")]
Weights = Annotated[
    Path, typer.Option(help="Where the weights go (.safetensors); the card is written beside them.")
]
Licence = Annotated[str, typer.Option(help="For the card: terms of the weights and the data.")]
Limits = Annotated[str, typer.Option(help="For the card: what it is not for.")]
Images = Annotated[
    list[Path], typer.Option(help="Folders, .npz or .h5 of images, drawn equally often.")
]
Size = Annotated[int, typer.Option(help="Side of the training crops (pixels).")]
Steps = Annotated[int, typer.Option(help="Optimiser steps.")]
Batch = Annotated[int, typer.Option(help="Crops a step.")]
LearningRate = Annotated[float, typer.Option(help="Peak of AdamW.")]
Cooldown = Annotated[
    float, typer.Option(help="Last fraction of the steps over which the rate falls to zero.")
]
Channels = Annotated[int, typer.Option(help="1 (grey) or 3 (colour).")]
Blocks = Annotated[str, typer.Option(help="Residual blocks of each level.")]
Mirror = Annotated[
    bool | None,
    typer.Option(help="Flip half of the images left to right.", show_default="in colour only"),
]
Wide = Annotated[
    float,
    typer.Option(
        help="Share of the noise levels that is log-uniform over all; the rest is log-normal about 0.3."
    ),
]
Precision = Annotated[str, typer.Option(help="float32 or bf16 (autocast).")]
Seed = Annotated[int, typer.Option(help="Of all that is random.")]
Validation = Annotated[
    Path | None,
    typer.Option(help="Images for the card's figures.", show_default="the first source"),
]
PluginFiles = Annotated[
    list[Path],
    typer.Option(
        "--plugin", help="A Python file to load as a plug-in; may be repeated.", show_default=False
    ),
]


def registry(files: list[Path]) -> Registry:
    """The registry with these plug-in files loaded."""
    from inverse.registry.discovery import registry

    found = registry()
    for path in files:
        found.load_file(path)
    return found


def assignments(pairs: list[str], option: str) -> dict[str, str]:
    """["a=1", "b=x=y"] -> {"a": "1", "b": "x=y"}."""
    for pair in pairs:
        if "=" not in pair.lstrip("="):
            raise OptionError(f"{option} takes name=value, got '{pair}'")
    return dict(pair.split("=", 1) for pair in pairs)


def integers(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise OptionError(
            f"{option} takes whole numbers separated by commas, got '{text}'"
        ) from error


def columns(*headers: str) -> Table:
    """An empty table with these columns, of which all but the first may fold."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(box=SIMPLE_HEAD, pad_edge=False)
    for i, header in enumerate(headers):
        made.add_column(header, no_wrap=i == 0, overflow="fold")
    return made


def show(table: Table) -> None:
    """Print a table, wide where the output is no terminal."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)
