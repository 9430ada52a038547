"""Command-line options that several scripts share."""

from __future__ import annotations

import argparse
from pathlib import Path


def new_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that prints the script's docstring as it stands."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_images(
    parser: argparse.ArgumentParser, count: int, size: int, text: str = "folder of photographs"
) -> None:
    """Add --images, --count and --size (central crops, pixels)."""
    parser.add_argument("--images", type=Path, required=True, help=text)
    parser.add_argument("--count", type=int, default=count, help="number of photographs")
    parser.add_argument("--size", type=int, default=size, help="side of the central crops (pixels)")


def add_out(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """Add --out, the stem of a table and its record."""
    text = "stem of the .md and .json to write"
    parser.add_argument("--out", type=Path, required=required, help=text)
