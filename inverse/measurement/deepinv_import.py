"""Import deepinv on first use, without the warnings of what it imports."""

from __future__ import annotations

import functools
import importlib
import warnings
from types import ModuleType


@functools.cache
def deepinv(submodule: str = "") -> ModuleType:
    """The module deepinv, or deepinv.<submodule>, imported on first use."""
    return quietly_imported(f"deepinv.{submodule}" if submodule else "deepinv")


def quietly_imported(name: str) -> ModuleType:
    """Import a module without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)
