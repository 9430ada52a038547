"""`inverse prior catalogue` and `inverse prior fetch`: public checkpoints.

Importing this module does not import torch.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from inverse.io.command_line import columns, show
from inverse.io.files import strict_json

Catalogue = Annotated[
    Path | None,
    typer.Option("--catalogue", help="Another catalogue (TOML).", show_default="the shipped one"),
]


def catalogue(
    path: Catalogue = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List public checkpoints with address, architecture, licence and size; no network is used."""
    from inverse.priors.catalogue import fetched_folder, read_catalogue

    entries, folder = read_catalogue(path), fetched_folder()
    here = {name: (folder / f"{name}.safetensors").is_file() for name in entries}
    if json_:
        print(strict_json([asdict(e) | {"fetched": here[e.name]} for e in entries.values()]))
        return
    table = columns("name", "contents", "architecture", "MB", "licence", "here", "address")
    for entry in entries.values():
        size = "not stated" if entry.megabytes is None else f"{entry.megabytes:g}"
        fetched = "yes" if here[entry.name] else ""
        table.add_row(
            entry.name,
            entry.contents,
            entry.architecture,
            size,
            entry.licence,
            fetched,
            entry.address,
        )
    show(table)


def fetch(
    name: Annotated[str, typer.Argument(help="Name in `inverse prior catalogue`.")],
    path: Catalogue = None,
) -> None:
    """Download a public checkpoint, convert it and write its card; --prior NAME then works offline.

    The first fetch records the hash of the file; a file with another hash is refused later. A
    broken download is continued.
    """
    from inverse.priors.catalogue import fetched_folder, find
    from inverse.priors.fetching import fetch as fetch_checkpoint

    checkpoint, folder = find(name, path), fetched_folder()
    last = -1

    def report(have: int, total: int | None) -> None:
        nonlocal last
        tenth = 10 * have // total if total else have >> 26
        if tenth > last:
            last = tenth
            of = f" of {total / 1e6:.0f}" if total else ""
            print(f"{name}: {have / 1e6:.0f}{of} MB", file=sys.stderr)

    if not (folder / f"{name}.safetensors").is_file():
        print(f"{name}: {checkpoint.address} (licence: {checkpoint.licence})", file=sys.stderr)
    print(fetch_checkpoint(checkpoint, folder, report))
