"""Trained models on disk: weights in a safetensors file, and a JSON card that describes them.

Pickles are refused, hashes are checked, and files are written atomically.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.resources
import json
import math
import unicodedata
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn

from inverse.errors import InputError, InverseError, OptionError, PriorError, suggestion
from inverse.io.files import atomic_write
from inverse.priors.card_schema import Fields, Width, json_type, validated

Model = TypeVar("Model", bound=nn.Module)

LARGEST_CARD = 16 << 20
"""Bytes of a card; the largest shipped one has 20 kB."""


@dataclass(frozen=True)
class Training:
    """Entries of `Card.training` that are read again; the others are text for readers.

    Args:
        crop: side of the training crops (pixels).
    """

    crop: Width | None = None


@dataclass(frozen=True, kw_only=True)
class Card:
    """The description of a trained model; a subclass for each kind of model adds its fields.

    Args:
        name: name of the card; its file is `<name>.json`.
        file: name of the file of weights, beside the card.
        sha256: hash of that file.
        training: data, command, seed, steps, loss, machine, hours, as far as known.
        licence: licence of the weights and terms of the data.
        limits: known limits of the model.
    """

    kind: ClassVar[str]
    folder: ClassVar[str] = ""
    """Folder of the shipped cards of this kind, inside the package `inverse_data`."""

    name: str
    file: str
    sha256: str
    training: Annotated[dict[str, Any], Fields(Training, others=True)] = field(default_factory=dict)
    licence: str = ""
    limits: str = ""

    @classmethod
    def known(cls) -> dict[str, Path]:
        """Paths of the cards that can be given by name: the shipped cards of this kind."""
        return shipped_cards(cls.kind, cls.folder)

    @classmethod
    def find(cls, name: str | Path) -> Path:
        """The path of a card, from the name of a known card or the path of the card or its weights.

        Raises: PriorError for an unknown name or another kind of file.
        """
        path = Path(name)
        if not path.suffix and path.parent == Path("."):
            if str(name) not in cls.known():
                known = suggestion(str(name), cls.known())
                raise PriorError(
                    f"{cls.kind} '{name}' is not known; {known}, "
                    "or the path of a .safetensors file with its card"
                )
            return cls.known()[str(name)]
        if path.suffix not in (".safetensors", ".json"):
            raise PriorError(
                f"{cls.kind} {name}: expected a .safetensors file with its card; "
                "no other file is read"
            )
        return path.with_suffix(".json")

    @classmethod
    def read(cls, name: str | Path) -> Self:
        """The card at the path that `find` returns.

        Raises: PriorError if it is missing, not JSON, or not a valid card of this kind.
        """
        path = cls.find(name)
        try:
            if path.stat().st_size > LARGEST_CARD:
                raise OptionError(f"it is larger than {LARGEST_CARD >> 20} MiB")
            fields = _printable(json.loads(path.read_text(), parse_constant=_not_a_number))
            _check_names(cls, fields)
            return validated(cls, fields)
        except FileNotFoundError as error:
            raise PriorError(
                f"{cls.kind} card {path}: no such file; weights need their card beside them"
            ) from error
        except RecursionError as error:
            raise PriorError(f"{cls.kind} card {path}: not a valid card (nested deeply)") from error
        except (OSError, ValueError, TypeError, AttributeError, InverseError) as error:
            raise PriorError(f"{cls.kind} card {path}: not a valid card ({error})") from error

    @classmethod
    def load(
        cls,
        name: str | Path,
        make: Callable[[Self, dict[str, Tensor]], Model],
        check: bool = True,
    ) -> Model:
        """The model that a card describes, in single precision and evaluation mode.

        The global random state is unchanged.

        Args:
            make: builds the model from the card and the arrays of its file; it removes the arrays
                that are not part of the model's state.
            check: run `make` without allocating arrays first, to compare sizes; a model whose
                constructor reads values of arrays compares sizes itself.

        Raises: PriorError if the file of weights is missing, truncated, a pickle, has another hash
            than the card's, or does not fit the card.
        """
        card = cls.read(name)
        path = card.weights(name, cls.find(name))
        state = card.arrays(path)
        try:
            if check:
                check_size(lambda: make(card, dict(state)), state)
            with torch.random.fork_rng(devices=[]):
                model = make(card, state)
            model.load_state_dict({k: v.float() for k, v in state.items()})
        except (KeyError, RuntimeError, TypeError, InputError, OptionError) as error:
            raise weights_mismatch(cls.kind, path, error) from error
        return model.eval().requires_grad_(False)

    def weights(self, name: str | Path, path: Path) -> Path:
        """The file of weights: `name` if it is a .safetensors file, else the file the card names.

        Args:
            name: the name or path that the caller gave.
            path: of this card.
        """
        return Path(name) if Path(name).suffix == ".safetensors" else path.with_name(self.file)

    def arrays(self, path: Path) -> dict[str, Tensor]:
        """The arrays of this card's file of weights.

        Raises: PriorError if the file is missing, truncated, a pickle, or has another hash than the
            card's.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not path.is_file():
            raise PriorError(f"{self.kind} weights {path}: no such file")
        if (digest := sha256(path)) != self.sha256:
            reason = f"the card describes {self.file}"
            if path.name == self.file:
                reason = "the file is damaged or not the one described"
            raise PriorError(
                f"{self.kind} weights {path}: sha256 is {digest[:12]}..., "
                f"the card says {self.sha256[:12]}...; {reason}"
            )
        try:
            return load_file(path)  # it reads arrays alone and refuses a pickle
        except (SafetensorError, RuntimeError) as error:
            raise weights_mismatch(self.kind, path, error) from error

    @classmethod
    def save(cls, path: Path, state: dict[str, Tensor], **fields: Any) -> Self:
        """Write arrays to `path` (.safetensors), in their own precision, and the card beside it.

        Args:
            fields: fields of the card except name, file and sha256.

        Returns: the card.
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
            temporary.write_text(json.dumps(asdict(self), indent=2, allow_nan=False) + "\n")


def shipped_cards(kind: str, folder: str = "") -> dict[str, Path]:
    """Paths of the shipped cards by name: `<kind>-<name>.json` in a folder of `inverse_data`."""
    data = Path(str(importlib.resources.files("inverse_data"))) / folder
    return {path.stem: path for path in sorted(data.glob(f"{kind}-*.json"))}


def _check_names(cls: type[Card], fields: Any) -> None:
    """Check the names of the fields of a card.

    Raises: OptionError.
    """
    declared = {field.name: field for field in dataclasses.fields(cls)}
    required = [
        name
        for name, field in declared.items()
        if field.default is field.default_factory is dataclasses.MISSING
    ]
    if not isinstance(fields, dict):
        raise OptionError(
            f"found {json_type(fields)}, expected an object with {', '.join(required)}"
        )
    if missing := [name for name in required if name not in fields]:
        names = ", ".join(fields) or "an empty object"
        raise OptionError(f"found {names}; missing are {', '.join(missing)}")
    for name in fields:
        if name not in declared:
            raise OptionError(
                f"a {cls.kind} card has no field '{name}'; {suggestion(name, declared)}"
            )
    if Path(str(fields["file"])).name != str(fields["file"]):
        raise OptionError(
            f"file must be the name of a file beside the card, found '{fields['file']}'"
        )


def _not_a_number(name: str) -> Any:
    raise ValueError(f"it holds {name}, which is not JSON")


def _printable(value: Any) -> Any:
    """A value of JSON without control characters in its text.

    Raises: ValueError for a number beyond double precision.
    """
    if isinstance(value, str):
        return "".join(c for c in value if c in "\n\t" or unicodedata.category(c)[0] != "C")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("it holds a number that is too large")
    if isinstance(value, list):
        return [_printable(item) for item in value]
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    return value


def check_size(make: Callable[[], nn.Module], state: dict[str, Tensor]) -> None:
    """Check that a file holds the entries of its card's architecture before those are allocated.

    Args:
        make: builds the model; it runs without allocating arrays.
        state: arrays of the file.

    Raises: OptionError with both numbers if the model has far more entries than the file. Smaller
        differences are left to `load_state_dict`, which names the array.
    """
    with torch.device("meta"):
        needed = sum(value.numel() for value in make().state_dict().values())
    found = sum(value.numel() for value in state.values())
    if needed > 4 * found + 10**6:
        raise OptionError(f"the architecture has {needed} entries, the file {found}")


def weights_mismatch(kind: str, path: Path, error: Exception) -> PriorError:
    """The error for arrays that do not fit their card.

    It quotes the second line of torch's "Error(s) in loading state_dict", or the first line of a
    shorter message.
    """
    reason = str(error).splitlines()[:2][-1].strip()
    return PriorError(f"{kind} weights {path}: do not fit the card ({reason})")


def check_suffix(kind: str, path: Path) -> None:
    """Raises PriorError unless `path` ends in .safetensors."""
    if path.suffix != ".safetensors":
        raise PriorError(f"{kind} {path}: weights are written as .safetensors, not '{path.suffix}'")


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
