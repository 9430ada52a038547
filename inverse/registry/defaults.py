"""Default names of problems, methods and priors: `defaults.toml` of the package `inverse_data`."""

from __future__ import annotations

import functools
import importlib.resources
import tomllib
from typing import Any


def default(section: str, key: str) -> str:
    """A default name, such as default("solve", "method").

    Args:
        section: a command, or "problem".
        key: "problem", "method" or "prior".
    """
    return _defaults()[section][key]


def first_methods() -> dict[str, str]:
    """The methods that `inverse methods` lists first, with the use of each."""
    return _defaults()["start"]


@functools.cache
def _defaults() -> dict[str, Any]:
    text = (
        importlib.resources.files("inverse_data")
        .joinpath("defaults.toml")
        .read_text(encoding="utf-8")
    )
    return tomllib.loads(text)
