"""Public checkpoints: where they lie, what they hold, under which licence. No network is used.

`inverse.priors.fetching` downloads one when the user asks for it.
"""

from __future__ import annotations

import importlib.resources
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inverse.errors import PriorError, suggestion


@dataclass(frozen=True)
class Checkpoint:
    """A public checkpoint.

    Args:
        name: of the prior.
        address: of its weights.
        architecture: of its network.
        contents: what it was trained on, in words.
        licence: as its source states it.
        megabytes: size of the weights; None if the source does not state it.
        sha256: of the weights, if a source states it.
        network, scheduler: addresses of the JSON of a network of diffusers.
        options: what the weights do not tell of the network; see `recognition.recognise`.
    """

    name: str
    address: str
    architecture: str
    contents: str
    licence: str
    megabytes: float | None = None
    sha256: str = ""
    network: str = ""
    scheduler: str = ""
    options: dict[str, Any] | None = None


def shipped_catalogue() -> Path:
    """The file of the catalogue that ships."""
    return Path(str(importlib.resources.files("inverse_data"))) / "catalogue.toml"


def read_catalogue(path: Path | None = None) -> dict[str, Checkpoint]:
    """The checkpoints of a catalogue by name.

    Raises: PriorError if the file cannot be read, or an entry has a wrong field.
    """
    path = path or shipped_catalogue()
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        return {name: Checkpoint(name=name, **fields) for name, fields in tables.items()}
    except (OSError, ValueError, TypeError) as error:
        raise PriorError(f"catalogue {path}: not readable ({error})") from error


def find(name: str, path: Path | None = None) -> Checkpoint:
    """The checkpoint of this name.

    Raises: PriorError with the closest name for an unknown one.
    """
    known = read_catalogue(path)
    if name not in known:
        raise PriorError(f"fetch: '{name}' is not in the catalogue; {suggestion(name, known)}")
    return known[name]


def fetched_folder() -> Path:
    """Where fetched priors lie: $INVERSE_PRIORS, or inverse/priors in the user's data folder."""
    if folder := os.environ.get("INVERSE_PRIORS"):
        return Path(folder)
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "inverse" / "priors"
