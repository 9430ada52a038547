"""State dicts on disk, from safetensors or through torch's restricted reader of pickles.

The restricted reader creates tensors and containers and runs no code; a pickle that needs more is
refused. A `.pkl` file of a whole network (EDM, EDM2) is read for its tensors alone.
"""

from __future__ import annotations

import pickle
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inverse.errors import PriorError, first_line
from inverse.priors.foreign.persistent_pickles import read_persistent

PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".tar", ".pkl")
AVERAGED = ("ema", "ema_model", "model_ema", "params_ema", "state_dict_ema")
"""Entries of checkpoints with averaged weights, which are preferred to those of the last step."""


def read_tensors(path: Path, key: str | None = None, label: str = "convert") -> dict[str, Tensor]:
    """The state dict in a file of weights, without the prefix "module." of parallel training.

    Args:
        key: the entry that holds the state dict, if there are several.
        label: first word of messages.

    Raises: PriorError if the file is missing, holds more than tensors, or holds several state dicts
        and no `key` is given, unless one of them is averaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_weights(path, label)
    if path.suffix == ".pkl":
        return read_persistent(path, label)
    read_pickle = partial(torch.load, map_location="cpu", weights_only=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of pickle protocols that it still reads
            read: Any = load_file if path.suffix == ".safetensors" else read_pickle
            contents = read(path)
    except pickle.UnpicklingError as error:
        raise PriorError(
            f"{label}: {path} holds more than tensors, so it is not read ({_refused(error)}); "
            "save its state_dict() alone"
        ) from error
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
        raise PriorError(
            f"{label}: {path}: not a readable file of weights ({first_line(error)})"
        ) from error
    tensors = _state_dict(contents, path, key, label)
    return {name.removeprefix("module."): value for name, value in tensors.items()}


def check_weights(path: Path, label: str = "convert") -> None:
    """Raise a PriorError unless `path` is a file with a suffix of weights."""
    if not path.is_file():
        raise PriorError(f"{label}: {path}: no such file")
    if path.suffix not in (".safetensors", *PICKLES):
        raise PriorError(
            f"{label}: {path}: expected .safetensors, {', '.join(PICKLES)} or a diffusers folder"
        )


def _state_dict(contents: Any, path: Path, key: str | None, label: str) -> dict[str, Tensor]:
    entries = contents if isinstance(contents, dict) else {}
    if key is None and _is_state(entries):
        return entries
    states = {name: value for name, value in entries.items() if _is_state(value)}
    if key is None and len(states) == 1:
        return next(iter(states.values()))
    averaged = [name for name in states if name in AVERAGED]
    if key is None and len(averaged) == 1:
        key = averaged[0]
    if key in states:
        return states[key]
    missing = f"no state dict '{key}'" if key else "no single state dict"
    advice = "expected names and tensors"
    if states:
        advice = f"choose one with --key: {', '.join(map(str, states))}"
    raise PriorError(f"{label}: {path} holds {missing}; {advice}")


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) > 0
        and all(isinstance(v, Tensor) for v in value.values())
    )


def _refused(error: Exception) -> str:
    """The name that the restricted reader refused, "GLOBAL os.system", if its message says so."""
    words = str(error).replace("`", " ").split()
    if "GLOBAL" in words[:-1]:
        return f"GLOBAL {words[words.index('GLOBAL') + 1]}"
    return "no weights_only checkpoint"
