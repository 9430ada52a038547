"""Commands and trainers that distributions contribute by entry points: listed without importing anything, loaded when called.

[project.entry-points."inverse.commands"]
train-codec = "my_package.commands:train_codec"      # a function, or a typer application

[project.entry-points."inverse.trainers"]
nc = "my_package.commands:train_fields"              # takes over `inverse train --images FILE.nc`
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import importlib.util
from collections.abc import Iterable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from inverse.errors import PluginError

COMMANDS, TRAINERS = "inverse.commands", "inverse.trainers"


class LazyCommand(TyperCommand):
    """A command of an entry point: its name and its summary are known, its code is imported when it is called."""

    def __init__(self, entry: EntryPoint):
        super().__init__(entry.name, help=summary(entry), callback=None)
        self.entry = entry

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        return loaded(self.entry).make_context(info_name, args, parent, **extra)


@functools.cache
def commands() -> dict[str, LazyCommand]:
    """Commands of installed distributions by name."""
    entries = importlib.metadata.entry_points(group=COMMANDS)
    return {
        entry.name: LazyCommand(entry) for entry in sorted(entries, key=lambda entry: entry.name)
    }


def trainer_for(files: Iterable[str]) -> Any | None:
    """The command that trains from one of these files, by its suffix; None where none is claimed by a plug-in."""
    suffixes = {Path(file).suffix.removeprefix(".").lower() for file in files}
    found = [
        entry for entry in importlib.metadata.entry_points(group=TRAINERS) if entry.name in suffixes
    ]
    return loaded(found[0]) if found else None


def suffixes_taking(option: str) -> list[str]:
    """The suffixes of files whose training commands have this option, such as --variable."""
    entries = importlib.metadata.entry_points(group=TRAINERS)
    return sorted(
        entry.name
        for entry in entries
        if any(option in parameter.opts for parameter in loaded(entry).params)
    )


def loaded(entry: EntryPoint) -> Any:
    """The click command behind an entry point that names a function or a typer application.

    Raises: PluginError if it cannot be imported or is neither.
    """
    try:
        thing = entry.load()
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise PluginError(
            f"command {entry.name} ({entry.value}) cannot be loaded: {reason}; see `inverse plugins`"
        ) from error
    if not isinstance(thing, typer.Typer):
        application = typer.Typer(add_completion=False)
        application.command(name=entry.name)(thing)
        thing = application
    return typer.main.get_command(thing)


def summary(entry: EntryPoint) -> str:
    """First sentence of the docstring of the function, or else of the module, that an entry point names; read from the source."""
    module, _, name = entry.value.partition(":")
    path = source_of(module)
    if path is None:
        return f"From {entry.value}."
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    return (ast.get_docstring(functions[0] if functions else tree) or f"From {entry.value}.").split(
        "\n\n"
    )[0]


def source_of(module: str) -> Path | None:
    """The source file of a module, found without importing it or its packages; None if there is none."""
    top, *inner = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None:
        return None
    for folder in map(Path, spec.submodule_search_locations or []):
        for path in (
            folder.joinpath(*inner).with_suffix(".py"),
            folder.joinpath(*inner, "__init__.py"),
        ):
            if path.is_file():
                return path
    return Path(spec.origin) if not inner and spec.origin else None
