"""Trained things on disk: arrays in a safetensors file, and the JSON card beside it that says what they are.

Pickles are refused, hashes are checked, and files are written whole or not at all.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn

from inverse.errors import InputError, OptionError, PriorError, suggestion
from inverse.files import replacing

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a trained thing is; what every kind of them says.

    Args:
        name: the card is `<name>.json`.
        file: of the weights, beside the card.
        sha256: of that file.
        training: data, command, seed, steps, loss, machine, hours: what there is of these.
        licence: of the weights and the terms of the data.
        limits: what it is known not to do.
    """

    kind: ClassVar[str]

    name: str
    file: str
    sha256: str
    training: dict[str, Any] = field(default_factory=dict)
    licence: str = ""
    limits: str = ""

    @classmethod
    def known(cls) -> dict[str, Path]:
        """Cards that a name stands for: those of this kind that ship with the package."""
        return shipped(cls.kind)

    @classmethod
    def find(cls, name: str | Path) -> Path:
        """The path of a card, by the name of a known one, or by the path of its `.safetensors` file or its own.

        Raises: PriorError for another name or another kind of file.
        """
        path = Path(name)
        if not path.suffix and path.parent == Path("."):
            if str(name) not in cls.known():
                known = suggestion(str(name), cls.known())
                raise PriorError(f"{cls.kind} '{name}' is not known; {known}, or the path of a .safetensors file with its card")
            return cls.known()[str(name)]
        if path.suffix not in (".safetensors", ".json"):
            raise PriorError(f"{cls.kind} {name}: expected a .safetensors file with its card; nothing else is read")
        return path.with_suffix(".json")

    @classmethod
    def read(cls, name: str | Path) -> Self:
        """The card that `find` finds.

        Raises: PriorError if it is missing, not JSON, lacks a field, or describes nothing.
        """
        path = cls.find(name)
        try:
            card = cls(**json.loads(path.read_text()))
            _ = path.with_name(card.file)  # raises for what cannot be a file's name
            return card
        except FileNotFoundError as error:
            raise PriorError(f"{cls.kind} card {path}: no such file; weights need their card beside them") from error
        except (OSError, ValueError, TypeError, AttributeError, OptionError) as error:
            raise PriorError(f"{cls.kind} card {path}: not a valid card ({error})") from error

    @classmethod
    def load(cls, name: str | Path, make: Callable[[Self, dict[str, Tensor]], Model]) -> Model:
        """What a card describes, ready to be used, in single precision; the caller's random numbers are left alone.

        Args:
            make: a model from the card and the arrays of its file, of which it takes out what is not the model's state.

        Raises: PriorError for a file that is missing, truncated, a pickle, or of another hash than the card's, or that does not fit it.
        """
        card, path = cls.read(name), cls.find(name)
        state = read_arrays(cls.kind, path.with_name(card.file), card.sha256)
        try:
            with torch.random.fork_rng(devices=[]):
                model = make(card, state)
            model.load_state_dict({k: v.float() for k, v in state.items()})
        except (KeyError, RuntimeError, TypeError, InputError, OptionError) as error:
            raise unfitting(cls.kind, path.with_name(card.file), error) from error
        return model.eval().requires_grad_(False)

    @classmethod
    def save(cls, path: Path, state: dict[str, Tensor], **fields: Any) -> Self:
        """Write arrays to `path` (.safetensors), each in the precision that it has, and their card beside it; returns the card.

        Args:
            fields: of the card, but for name, file and sha256.

        Raises: PriorError for another suffix.
        """
        from safetensors.torch import save

        check_suffix(cls.kind, path)
        with replacing(path) as temporary:
            temporary.write_bytes(save({k: v.detach().cpu().contiguous() for k, v in state.items()}))
        card = cls(name=path.stem, file=path.name, sha256=sha256(path), **fields)
        card.write(path.with_suffix(".json"))
        return card

    def write(self, path: Path) -> None:
        """Write the card alone, as indented JSON."""
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=2) + "\n")


def shipped(kind: str) -> dict[str, Path]:
    """Cards that ship with the package, by name: `circuit-digits` is of the kind "circuit"."""
    folder = Path(str(importlib.resources.files("inverse_data")))
    return {path.stem: path for path in sorted(folder.glob(f"{kind}-*.json"))}


def read_arrays(kind: str, path: Path, expected: str) -> dict[str, Tensor]:
    """Arrays of a safetensors file.

    Raises: PriorError for a file that is missing, truncated, a pickle, or of another hash than expected.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise PriorError(f"{kind} weights {path}: no such file")
    if (found := sha256(path)) != expected:
        raise PriorError(f"{kind} weights {path}: sha256 is {found[:12]}..., the card says {expected[:12]}...; the file is damaged or not the one described")
    try:
        return load_file(path)  # safetensors holds arrays alone: a pickle is refused here
    except (SafetensorError, RuntimeError) as error:
        raise unfitting(kind, path, error) from error


def unfitting(kind: str, path: Path, error: Exception) -> PriorError:
    """The error of arrays that are not those of the card: where torch's "Error(s) in loading state_dict" becomes specific, or a shorter message's start."""
    return PriorError(f"{kind} weights {path}: do not fit the card ({str(error).splitlines()[:2][-1].strip()})")


def check_suffix(kind: str, path: Path) -> None:
    """Raises PriorError unless `path` ends in .safetensors."""
    if path.suffix != ".safetensors":
        raise PriorError(f"{kind} {path}: weights are written as .safetensors, not '{path.suffix}'")


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of a dataclass as JSON gives them back, lists as the tuples that they were."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
