"""Trained things on disk: arrays in a safetensors file, and the JSON card beside it that says what they are.

Pickles are refused, hashes are checked, and files are written whole or not at all.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.resources
import json
import typing
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn

from inverse.errors import InputError, InverseError, OptionError, PriorError, suggestion
from inverse.io.files import atomic_write

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
    folder: ClassVar[str] = ""
    """Of the shipped cards of this kind, inside the package `inverse_data`."""

    name: str
    file: str
    sha256: str
    training: dict[str, Any] = field(default_factory=dict)
    licence: str = ""
    limits: str = ""

    @classmethod
    def known(cls) -> dict[str, Path]:
        """Cards that a name stands for: those of this kind that ship with the package."""
        return shipped_cards(cls.kind, cls.folder)

    @classmethod
    def find(cls, name: str | Path) -> Path:
        """The path of a card, by the name of a known one, or by the path of its `.safetensors` file or its own.

        Raises: PriorError for another name or another kind of file.
        """
        path = Path(name)
        if not path.suffix and path.parent == Path("."):
            if str(name) not in cls.known():
                known = suggestion(str(name), cls.known())
                raise PriorError(
                    f"{cls.kind} '{name}' is not known; {known}, or the path of a .safetensors file with its card"
                )
            return cls.known()[str(name)]
        if path.suffix not in (".safetensors", ".json"):
            raise PriorError(
                f"{cls.kind} {name}: expected a .safetensors file with its card; nothing else is read"
            )
        return path.with_suffix(".json")

    @classmethod
    def read(cls, name: str | Path) -> Self:
        """The card that `find` finds.

        Raises: PriorError if it is missing, not JSON, lacks a field, or describes nothing.
        """
        path = cls.find(name)
        try:
            found = json.loads(path.read_text())
            if fault := _fault(cls, found):
                raise OptionError(fault)
            return cls(**found)
        except FileNotFoundError as error:
            raise PriorError(
                f"{cls.kind} card {path}: no such file; weights need their card beside them"
            ) from error
        except (OSError, ValueError, TypeError, AttributeError, InverseError) as error:
            raise PriorError(f"{cls.kind} card {path}: not a valid card ({error})") from error

    @classmethod
    def load(cls, name: str | Path, make: Callable[[Self, dict[str, Tensor]], Model]) -> Model:
        """What a card describes, ready to be used, in single precision; the caller's random numbers are left alone.

        Args:
            make: a model from the card and the arrays of its file, of which it takes out what is not the model's state.

        Raises: PriorError for a file that is missing, truncated, a pickle, or of another hash than the card's, or that does not fit it.
        """
        card = cls.read(name)
        path = card.weights(name, cls.find(name))
        state = card.arrays(path)
        try:
            with torch.random.fork_rng(devices=[]):
                model = make(card, state)
            model.load_state_dict({k: v.float() for k, v in state.items()})
        except (KeyError, RuntimeError, TypeError, InputError, OptionError) as error:
            raise weights_mismatch(cls.kind, path, error) from error
        return model.eval().requires_grad_(False)

    def weights(self, name: str | Path, path: Path) -> Path:
        """The weights meant by a name or path: that .safetensors file itself, or else the one that this card, found at `path`, names."""
        return Path(name) if Path(name).suffix == ".safetensors" else path.with_name(self.file)

    def arrays(self, path: Path) -> dict[str, Tensor]:
        """Arrays of a file of weights that this card is beside.

        Raises: PriorError for a file that is missing, truncated, a pickle, or of another hash than the card's.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not path.is_file():
            raise PriorError(f"{self.kind} weights {path}: no such file")
        if (found := sha256(path)) != self.sha256:
            whose = (
                "the file is damaged or not the one described"
                if path.name == self.file
                else f"that card is of {self.file}"
            )
            raise PriorError(
                f"{self.kind} weights {path}: sha256 is {found[:12]}..., the card says {self.sha256[:12]}...; {whose}"
            )
        try:
            return load_file(path)  # safetensors holds arrays alone: a pickle is refused here
        except (SafetensorError, RuntimeError) as error:
            raise weights_mismatch(self.kind, path, error) from error

    @classmethod
    def save(cls, path: Path, state: dict[str, Tensor], **fields: Any) -> Self:
        """Write arrays to `path` (.safetensors), each in the precision that it has, and their card beside it; returns the card.

        Args:
            fields: of the card, but for name, file and sha256.

        Raises: PriorError for another suffix.
        """
        from safetensors.torch import save

        check_suffix(cls.kind, path)
        with atomic_write(path) as temporary:
            temporary.write_bytes(
                save({k: v.detach().cpu().contiguous() for k, v in state.items()})
            )
        card = cls(name=path.stem, file=path.name, sha256=sha256(path), **fields)
        card.write(path.with_suffix(".json"))
        return card

    def write(self, path: Path) -> None:
        """Write the card alone, as indented JSON."""
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=2) + "\n")


def shipped_cards(kind: str, folder: str = "") -> dict[str, Path]:
    """Cards that ship with the package, by name: `<kind>-<name>.json` in a folder of `inverse_data`."""
    place = Path(str(importlib.resources.files("inverse_data"))) / folder
    return {path.stem: path for path in sorted(place.glob(f"{kind}-*.json"))}


WORDS = {str: "text", float: "a number", int: "a whole number", dict: "an object", tuple: "a list"}
"""Types of a card's fields as JSON calls them."""


def _fault(cls: type[Card], found: Any) -> str | None:
    """Why what JSON holds is no card of this kind, or None if its fields have the right names and types."""
    hints, fields = (
        typing.get_type_hints(cls),
        {field.name: field for field in dataclasses.fields(cls)},
    )
    needed = [
        name
        for name, field in fields.items()
        if field.default is field.default_factory is dataclasses.MISSING
    ]
    if not isinstance(found, dict):
        return f"found {_words(found)}, needed is an object with {', '.join(needed)}"
    if missing := [name for name in needed if name not in found]:
        return (
            f"found {', '.join(found) or 'an empty object'}; needed are also {', '.join(missing)}"
        )
    for name, value in found.items():
        if name not in fields:
            return f"a {cls.kind} card has no field '{name}'; {suggestion(name, fields)}"
        kind = typing.get_origin(hints[name]) or hints[name]
        if (
            kind in WORDS
            and WORDS[kind] != _words(value)
            and not (kind is float and type(value) is int)
        ):
            return f"{name} must be {WORDS[kind]}, found {_words(value)}"
    if Path(found["file"]).name != found["file"]:
        return f"file must be the name of a file beside the card, found '{found['file']}'"
    return None


def _words(value: Any) -> str:
    """The type of a JSON value."""
    return {list: "a list", bool: "true or false", type(None): "null"}.get(type(value)) or WORDS[
        type(value)
    ]


def weights_mismatch(kind: str, path: Path, error: Exception) -> PriorError:
    """The error of arrays that are not those of the card: where torch's "Error(s) in loading state_dict" becomes specific, or a shorter message's start."""
    return PriorError(
        f"{kind} weights {path}: do not fit the card ({str(error).splitlines()[:2][-1].strip()})"
    )


def check_suffix(kind: str, path: Path) -> None:
    """Raises PriorError unless `path` ends in .safetensors."""
    if path.suffix != ".safetensors":
        raise PriorError(f"{kind} {path}: weights are written as .safetensors, not '{path.suffix}'")


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
