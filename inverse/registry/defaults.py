"""Names that stand where the user gives none: read from `defaults.toml` of the package `inverse_data`."""

from __future__ import annotations

import functools
import importlib.resources
import tomllib


@functools.cache
def default(user: str, kind: str) -> str:
    """The name of the default `kind` (problem, method or prior) of a command or of problems: default("solve", "method")."""
    text = (
        importlib.resources.files("inverse_data")
        .joinpath("defaults.toml")
        .read_text(encoding="utf-8")
    )
    return tomllib.loads(text)[user][kind]
