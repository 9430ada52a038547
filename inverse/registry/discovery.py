"""Discovery of plug-ins: entry points and files, collected in one registry.

An entry point of the group `inverse` that names a package contributes every module in it; an entry
point that names a module contributes that module. A plug-in that fails to load is reported and does
not affect the others.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from inverse.errors import (
    DuplicateNameError,
    OptionError,
    PluginError,
    UnknownNameError,
    suggestion,
)
from inverse.registry import hooks as hookspecs
from inverse.registry.options import build, mistake, source_file

GROUP = "inverse"
DISTRIBUTION = "inverse-posterior"
"""The distribution of the core, whose plug-ins are loaded first and keep their names."""
CLASSES = ("inverse_methods", "inverse_problems")
"""Hooks whose items are classes of options."""


@dataclass(frozen=True)
class Loaded:
    """A plug-in as `inverse plugins` lists it.

    Args:
        module: its module, or the path of its file.
        distribution: its distribution and version, or "file".
        file: the source file.
        error: why it failed, or None.
    """

    module: str
    distribution: str
    file: str
    error: str | None = None


@dataclass(frozen=True)
class Registered:
    """A registered class, function or path, and the module that registered it."""

    thing: Any
    module: str


class Registry:
    """Everything that plug-ins register, by hook and name.

    Attributes:
        manager: the pluggy manager that calls the hooks.
        loaded: the plug-ins in the order of loading, failed ones included.
        refused: by hook and name, the error of an item that its plug-in lost.
    """

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager("inverse")
        self.manager.add_hookspecs(hookspecs)
        self.loaded: list[Loaded] = []
        self.refused: dict[tuple[str, str], Exception] = {}

    def load_entry_points(self) -> None:
        """Import every module that the entry points name, and record those that fail."""
        for entry in sorted(
            importlib.metadata.entry_points(group=GROUP),
            key=lambda e: (
                e.dist is None or e.dist.name != DISTRIBUTION,
                e.dist.name if e.dist else "",
                e.value,
            ),
        ):
            origin = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown"
            for name in _modules(entry.value):
                self._load(functools.partial(importlib.import_module, name), name, origin)

    def load_file(self, path: Path) -> None:
        """Import one file as a plug-in; a file that was imported before is not imported again.

        Raises: PluginError if the file does not exist or cannot be imported.
        """
        if not path.is_file():
            raise PluginError(f"plug-in {path}: no such file")
        if self.manager.has_plugin(str(path)):
            return
        self._load(functools.partial(_import_file, path), str(path), "file")
        if error := self.loaded[-1].error:
            raise PluginError(f"plug-in {path}: {error}")

    def _load(self, load: Callable[[], ModuleType], name: str, origin: str) -> None:
        try:
            module = load()
            if self.manager.is_registered(module):
                return
            self.manager.register(module, name)
            self.loaded.append(
                Loaded(name, origin, getattr(module, "__file__", "") or "", self._misspelt(module))
            )
        except (Exception, SystemExit) as error:
            self.loaded.append(Loaded(name, origin, "", _one_line(error)))

    def _misspelt(self, module: ModuleType) -> str | None:
        """What is wrong with the name of a hook in this module, or None."""
        known = {name for name in vars(hookspecs) if name.startswith("inverse_")}
        for name, value in vars(module).items():
            if callable(value) and hasattr(value, "inverse_impl") and name not in known:
                return f"no hook is called {name}; {suggestion(name, known)}"
        return None

    def _items(self, hook: str) -> Iterator[tuple[str, Registered]]:
        caller = getattr(self.manager.hook, hook)
        for implementation in caller.get_hookimpls():
            try:
                things = implementation.function()
                pairs = (
                    things.items()
                    if isinstance(things, dict)
                    else [(_name_of(thing), thing) for thing in things]
                )
            except Exception as error:
                self._note_failure(
                    implementation.plugin_name, implementation.function.__name__, error
                )
                continue
            for name, thing in pairs:
                reason = mistake(thing) if hook in CLASSES else None
                if reason is None:
                    yield name, Registered(thing, implementation.plugin_name)
                    continue
                file = source_file(thing) if isinstance(thing, type) else implementation.plugin_name
                refusal = PluginError(f"{_singular(hook)} '{name}' ({file}): {reason}")
                self.refused[hook, name] = refusal
                self._note_failure(implementation.plugin_name, hook, refusal)

    def add_commands(self, app: Any) -> None:
        """Let every plug-in add its commands to a typer application."""
        for implementation in self.manager.hook.inverse_commands.get_hookimpls():
            try:
                implementation.function(app=app)
            except Exception as error:
                self._note_failure(
                    implementation.plugin_name, implementation.function.__name__, error
                )

    def _note_failure(self, plugin: str, hook: str, error: Exception) -> None:
        """Record that a plug-in lost an item; raise the error of a plug-in of the core."""
        if plugin.startswith("inverse."):
            raise error
        reason = f"{hook}: {_one_line(error)}"
        self.loaded = [
            replace(item, error=reason) if item.module == plugin else item for item in self.loaded
        ]

    def table(self, hook: str) -> dict[str, Registered]:
        """What a hook registers, sorted by name.

        The plug-in that is loaded first keeps a name; the others lose it, and `loaded` says so.
        """
        table: dict[str, Registered] = {}
        for name, entry in self._items(hook):
            if name not in table:
                table[name] = entry
            elif table[name].thing is not entry.thing:
                error = DuplicateNameError(
                    f"{_singular(hook)} '{name}' is registered twice: by {table[name].module} "
                    f"and by {entry.module}; remove or rename one"
                )
                self._note_failure(entry.module, hook, error)
                if any(p.module == entry.module and p.distribution == "file" for p in self.loaded):
                    self.refused[hook, name] = error
        return dict(sorted(table.items()))

    def find(self, hook: str, name: str) -> Any:
        """What a hook registers under `name`.

        Raises: UnknownNameError with the closest name, the list of names and the plug-ins that
            failed to load; PluginError if its class cannot be used; DuplicateNameError if a file
            that was given as a plug-in claims it too.
        """
        if not isinstance(name, str):
            raise UnknownNameError(f"{_singular(hook)}: expected a name, got {name!r:.80}")
        table = self.table(hook)
        if (hook, name) in self.refused:
            raise self.refused[hook, name]
        if name in table:
            return table[name].thing
        failed = ", ".join(plugin.module for plugin in self.loaded if plugin.error)
        also = f" ({failed} failed to load: see `inverse plugins`)" if failed else ""
        raise UnknownNameError(
            f"{_singular(hook)} '{name}' is not known; {suggestion(name, table)}{also}"
        )


@functools.cache
def registry() -> Registry:
    """The registry of this process, loaded on first use.

    Raises: PluginError if the installed distribution does not register the core's own parts.
    """
    registry = Registry()
    registry.load_entry_points()
    if not any(item.module.startswith("inverse.") for item in registry.loaded):
        raise PluginError(
            "the installed package does not register its own parts, so it is older than this "
            "source; run `pip install -e .` again"
        )
    return registry


def get_method(name: str, **options: Any) -> Any:
    """The method called `name` with these options: get_method("red-diff", steps=200).

    Raises: UnknownNameError for an unknown method or option, OptionError for an impossible value.
    """
    return build(registry().find("inverse_methods", name), options)


def with_settings(base: str, **options: Any) -> Any:
    """The method that `base` names, with `options` as defaults of its settings.

    Args:
        base: a name, with settings after a colon: mmps:sampler=heun,iterations=5.
        options: further options; a setting in `base` takes precedence.

    Raises: OptionError for a setting that is not name=value; UnknownNameError as `get_method`.
    """
    name, _, settings = base.partition(":")
    for setting in filter(None, settings.split(",")):
        option, equals, value = setting.partition("=")
        if not equals:
            raise OptionError(
                f"base '{name}' takes name=value after the colon, separated by commas, "
                f"got '{setting}'"
            )
        options[option.strip()] = value
    return get_method(name, **options)


def get_problem(name: str, **options: Any) -> Any:
    """The problem called `name` with these options: get_problem("deblur", sigma_y=0.02).

    Raises: UnknownNameError for an unknown problem or option, OptionError for an impossible value.
    """
    return build(registry().find("inverse_problems", name), options)


def _modules(value: str) -> list[str]:
    """The modules of an entry point: those inside a package, or the module itself."""
    name = value.split(":")[0]
    try:
        spec = importlib.util.find_spec(name)
    except Exception:  # the import of the module reports why its package fails
        return [name]
    if spec is None or not spec.submodule_search_locations:
        return [name]
    inner = sorted(
        f"{name}.{m.name}"
        for m in pkgutil.iter_modules(spec.submodule_search_locations)
        if not m.name.startswith("_")
    )
    return inner or [name]


def _import_file(path: Path) -> ModuleType:
    name = f"inverse_file_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or ["no message"]
    position = -1 if isinstance(error, pluggy.PluginValidationError) else 0
    return f"{type(error).__name__}: {lines[position]}"


def _singular(hook: str) -> str:
    """inverse_methods -> method."""
    return hook.removeprefix("inverse_").rstrip("s")


def _name_of(thing: Any) -> str:
    if isinstance(thing, Path):
        return thing.stem
    name = getattr(thing, "name", None)
    if not isinstance(name, str):
        raise PluginError(f"{inspect.getmodule(thing)}: {thing!r} has no `name`")
    return name
