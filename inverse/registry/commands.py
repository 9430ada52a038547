"""Commands and trainers of installed distributions, listed without importing their code.

A distribution names them in entry points:

[project.entry-points."inverse.commands"]
train-codec = "my_package.commands:train_codec"      # a function, or a typer application

[project.entry-points."inverse.trainers"]
nc = "my_package.commands:train_fields"              # runs for `inverse train --images FILE.nc`
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

from inverse.errors import PluginError, first_line

COMMANDS, TRAINERS = "inverse.commands", "inverse.trainers"


class LazyCommand(TyperCommand):
    """A command of an entry point, whose code is imported when the command is called."""

    def __init__(self, entry: EntryPoint):
        super().__init__(entry.name, help=summary(entry), callback=None)
        self.entry = entry

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        return click_command(self.entry).make_context(info_name, args, parent, **extra)


@functools.cache
def commands() -> dict[str, LazyCommand]:
    """Commands of installed distributions, sorted by name."""
    entries = importlib.metadata.entry_points(group=COMMANDS)
    return {
        entry.name: LazyCommand(entry) for entry in sorted(entries, key=lambda entry: entry.name)
    }


def trainer_for(files: Iterable[str]) -> Any | None:
    """The click command that trains from files with one of these suffixes, or None."""
    suffixes = {Path(file).suffix.removeprefix(".").lower() for file in files}
    for entry in importlib.metadata.entry_points(group=TRAINERS):
        if entry.name in suffixes:
            return click_command(entry)
    return None


def suffixes_taking(option: str) -> list[str]:
    """Suffixes, without the dot, whose training commands have an option such as --variable."""
    entries = importlib.metadata.entry_points(group=TRAINERS)
    return sorted(
        entry.name
        for entry in entries
        if any(option in parameter.opts for parameter in click_command(entry).params)
    )


def click_command(entry: EntryPoint) -> Any:
    """Import the click command of an entry point that names a function or a typer application.

    Raises: PluginError if the import fails.
    """
    try:
        target = entry.load()
    except Exception as error:
        reason = first_line(error)
        raise PluginError(
            f"command {entry.name} ({entry.value}) cannot be loaded: {reason}; "
            "see `inverse plugins`"
        ) from error
    if not isinstance(target, typer.Typer):
        application = typer.Typer(add_completion=False)
        application.command(name=entry.name)(target)
        target = application
    return typer.main.get_command(target)


def summary(entry: EntryPoint) -> str:
    """First paragraph of the docstring of an entry point's function, or of its module.

    The docstring is read from the source file; nothing is imported.
    """
    module, _, name = entry.value.partition(":")
    path = source_of(module)
    docstring = None
    if path is not None:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = [
            node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name
        ]
        docstring = ast.get_docstring(functions[0] if functions else tree)
    return (docstring or f"From {entry.value}.").split("\n\n")[0]


def source_of(module: str) -> Path | None:
    """The source file of a module, located without importing anything; None if not located."""
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
