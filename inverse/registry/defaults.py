"""Default names of problems, methods and priors: `defaults.toml` of the package `inverse_data`."""

from __future__ import annotations

import functools
import importlib.resources
import tomllib


@functools.cache
def default(section: str, key: str) -> str:
    """A default name, such as default("solve", "method").

    Args:
        section: a command, or "problems".
        key: "problem", "method" or "prior".
    """
    text = (
        importlib.resources.files("inverse_data")
        .joinpath("defaults.toml")
        .read_text(encoding="utf-8")
    )
    return tomllib.loads(text)[section][key]
