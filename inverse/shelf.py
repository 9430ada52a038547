"""Files with a card beside them, circuits and codecs: found by name or path, read if the hash is the card's, written whole or not at all."""

from __future__ import annotations

import importlib.resources
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from inverse.assets import sha256
from inverse.errors import PriorError, suggestion
from inverse.files import replacing

Card = TypeVar("Card")


def shipped(kind: str) -> dict[str, Path]:
    """Cards that ship with the package, by name: `circuit-digits` is of the kind "circuit"."""
    folder = Path(str(importlib.resources.files("inverse_data")))
    return {path.stem: path for path in sorted(folder.glob(f"{kind}-*.json"))}


def read_card(kind: str, name: str | Path, card: type[Card]) -> tuple[Path, Card]:
    """Path and contents of a card, by the name of a shipped one, or by the path of its `.safetensors` file or its own.

    Raises: PriorError if it is missing, not JSON, or lacks a field.
    """
    path = Path(name)
    if not path.suffix and path.parent == Path("."):
        if str(name) not in shipped(kind):
            raise PriorError(f"{kind} '{name}' is not known; {suggestion(str(name), shipped(kind))}, or the path of a .safetensors file with its card")
        path = shipped(kind)[str(name)]
    elif path.suffix not in (".safetensors", ".json"):
        raise PriorError(f"{kind} {name}: expected a .safetensors file with its card; nothing else is read")
    path = path.with_suffix(".json")
    try:
        return path, card(**json.loads(path.read_text()))
    except FileNotFoundError as error:
        raise PriorError(f"{kind} card {path}: no such file; a {kind} needs its card beside it") from error
    except (OSError, ValueError, TypeError) as error:
        raise PriorError(f"{kind} card {path}: not a valid card ({error})") from error


def verified(kind: str, card: Path, file: str, expected: str) -> dict[str, Tensor]:
    """Arrays of the file that a card describes.

    Raises: PriorError for a file that is missing, truncated, a pickle, or of another hash than the card's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    weights = card.with_name(file)
    if not weights.is_file():
        raise PriorError(f"{kind} {weights}: no such file")
    if (found := sha256(weights)) != expected:
        raise PriorError(f"{kind} {weights}: sha256 is {found[:12]}..., the card says {expected[:12]}...; the file is damaged or not the one described")
    try:
        return load(weights.read_bytes())  # safetensors holds arrays alone: a pickle is refused here
    except SafetensorError as error:
        raise PriorError(f"{kind} {weights}: does not fit its card ({str(error).splitlines()[0]})") from error


def write_weights(kind: str, path: Path, state: dict[str, Tensor]) -> str:
    """Write arrays to `path` (.safetensors); returns the hash."""
    from safetensors.torch import save

    if path.suffix != ".safetensors":
        raise PriorError(f"{kind} {path}: parameters are written as .safetensors, not '{path.suffix}'")
    with replacing(path) as temporary:
        temporary.write_bytes(save({k: v.contiguous() for k, v in state.items()}))
    return sha256(path)


def write_card(card: Any, path: Path) -> None:
    """Write a card, a dataclass, beside its file."""
    with replacing(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(asdict(card), indent=2) + "\n")
