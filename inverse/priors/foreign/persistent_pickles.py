"""The weights inside a pickled network (EDM, EDM2: `.pkl`), read without running its code.

Such a file pickles objects of the project's own classes together with their source code. This
reader replaces every class and function by an inert record, except those that rebuild tensors from
bytes, and then collects parameters and buffers by the names of their modules.
"""

from __future__ import annotations

import io
import pickle
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inverse.errors import PriorError, first_line

PARTS = ("_parameters", "_buffers", "_modules")
"""What a pickled `torch.nn.Module` keeps its tensors and children in."""


class Inert:
    """A record in place of an object of an unknown class, or of the result of a function."""

    def __new__(cls, *arguments: Any, **named: Any) -> Any:
        record = object.__new__(cls)
        record.arguments, record.state, record.items = arguments, None, {}
        return record

    def __init__(self, *arguments: Any, **named: Any):
        pass

    arguments: tuple[Any, ...]
    state: Any
    items: dict[Any, Any]

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def append(self, value: Any) -> None:
        """Take an entry of a list, which is not kept."""

    def extend(self, values: Any) -> None:
        """Take entries of a list, which are not kept."""


def _storage(data: bytes) -> Any:
    """A storage of numbers from bytes, by torch's restricted reader."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


ALLOWED = {
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("collections", "OrderedDict"): OrderedDict,
}
"""Everything that a file may call."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        value = getattr(torch, name, None) if module == "torch" else None
        return value if isinstance(value, torch.dtype) else type(name, (Inert,), {})

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside the file")


def read_persistent(path: Path, label: str = "prior") -> dict[str, Tensor]:
    """The state dict of the network in a pickle; of several networks, the averaged one (`ema`).

    Args:
        label: first word of messages.

    Raises: PriorError if the file is no pickle or holds no network.
    """
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of typed storages
            contents = _Reader(file).load()
    except Exception as error:  # a damaged pickle raises anything
        raise PriorError(f"{label}: {path}: not a readable pickle ({first_line(error)})") from error
    networks = contents if isinstance(contents, dict) else {"": contents}
    for name in ("ema", "net", "", *networks):
        if name in networks and (weights := _tensors(networks[name])):
            return weights
    raise PriorError(f"{label}: {path} holds no network")


def _tensors(record: Any, prefix: str = "") -> dict[str, Tensor]:
    """Parameters and buffers of a pickled module, by their names in a state dict."""
    state = _state(record)
    if state is None:
        return {}
    dropped = state.get("_non_persistent_buffers_set") or ()
    found = {
        prefix + name: value.detach()
        for part in PARTS[:2]
        for name, value in state[part].items()
        if isinstance(value, Tensor) and not (part == "_buffers" and name in dropped)
    }
    for name, child in state["_modules"].items():
        found |= _tensors(child, f"{prefix}{name}.")
    return found


def _state(record: Any) -> dict[str, Any] | None:
    """The attributes of a pickled module; those of NVlabs' persistent classes lie in `state`."""
    if not isinstance(record, Inert):
        return None
    described = [a["state"] for a in record.arguments if isinstance(a, dict) and "state" in a]
    described += [a.items["state"] for a in record.arguments if _has_state(a)]
    for state in (record.state, *described):
        if isinstance(state, dict) and all(isinstance(state.get(part), dict) for part in PARTS):
            return state
    return None


def _has_state(argument: Any) -> bool:
    return isinstance(argument, Inert) and "state" in argument.items
