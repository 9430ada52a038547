"""Discovery: entry points, files and classes become one registry; a broken plug-in is reported and hides nobody.

An entry point of the group `inverse` that names a package contributes every module in it; one that names a module
contributes itself.
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
from inverse.registry.options import build

GROUP = "inverse"


@dataclass(frozen=True)
class Loaded:
    """One plug-in as `inverse plugins` shows it: module, distribution and version, file, and why it failed if it did."""

    module: str
    distribution: str
    file: str
    error: str | None = None


@dataclass(frozen=True)
class Registered:
    """A thing and the module that registered it."""

    thing: Any
    module: str


class Registry:
    """Everything that plug-ins registered, by kind and name."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager("inverse")
        self.manager.add_hookspecs(hookspecs)
        self.loaded: list[Loaded] = []

    def load_entry_points(self) -> None:
        """Import every module behind the entry points of the group, each guarded."""
        for entry in sorted(
            importlib.metadata.entry_points(group=GROUP),
            key=lambda e: (e.dist.name if e.dist else "", e.value),
        ):
            origin = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown"
            for name in _modules(entry.value):
                self._load(functools.partial(importlib.import_module, name), name, origin)

    def load_file(self, path: Path) -> None:
        """Import one file as a plug-in.

        Raises: PluginError if it does not exist or cannot be imported: the user named it, so failing is not optional.
        """
        if not path.is_file():
            raise PluginError(f"plug-in {path}: no such file")
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
        known = {name for name in vars(hookspecs) if name.startswith("inverse_")}
        stray = [
            n
            for n, f in vars(module).items()
            if callable(f) and hasattr(f, "inverse_impl") and n not in known
        ]
        return f"no hook is called {stray[0]}; {suggestion(stray[0], known)}" if stray else None

    def _items(self, hook: str) -> Iterator[tuple[str, Registered]]:
        caller = getattr(self.manager.hook, hook)
        for implementation in caller.get_hookimpls():
            try:
                found = implementation.function()
                pairs = (
                    found.items()
                    if isinstance(found, dict)
                    else [(_name_of(thing), thing) for thing in found]
                )
            except Exception as error:
                self._blame(implementation, error)
                continue
            yield from (
                (name, Registered(thing, implementation.plugin_name)) for name, thing in pairs
            )

    def add_commands(self, app: Any) -> None:
        """Let every plug-in add its commands to a typer application."""
        for implementation in self.manager.hook.inverse_commands.get_hookimpls():
            try:
                implementation.function(app=app)
            except Exception as error:
                self._blame(implementation, error)

    def _blame(self, implementation: pluggy.HookImpl, error: Exception) -> None:
        """Note that a plug-in's hook raised, for `inverse plugins`; an error of the core's own hooks goes on."""
        if implementation.plugin_name.startswith("inverse."):
            raise error
        reason = f"{implementation.function.__name__}: {_one_line(error)}"
        self.loaded = [
            replace(item, error=reason) if item.module == implementation.plugin_name else item
            for item in self.loaded
        ]

    def table(self, hook: str) -> dict[str, Registered]:
        """Name -> thing of one hook.

        Raises: DuplicateNameError naming both plug-ins if a name is claimed twice.
        """
        table: dict[str, Registered] = {}
        for name, entry in self._items(hook):
            if name in table and table[name].thing is not entry.thing:
                both = f"by {table[name].module} and by {entry.module}"
                raise DuplicateNameError(
                    f"{hook.removeprefix('inverse_').rstrip('s')} '{name}' is registered twice: {both}; remove or rename one"
                )
            table[name] = entry
        return dict(sorted(table.items()))

    def find(self, hook: str, name: str) -> Any:
        """The thing registered under `name`.

        Raises: UnknownNameError with the closest name and the list; it mentions plug-ins that failed to load.
        """
        table = self.table(hook)
        if name in table:
            return table[name].thing
        broken = [plugin.module for plugin in self.loaded if plugin.error]
        also = f" ({', '.join(broken)} failed to load: see `inverse plugins`)" if broken else ""
        raise UnknownNameError(
            f"{hook.removeprefix('inverse_').rstrip('s')} '{name}' is not known; {suggestion(name, table)}{also}"
        )


@functools.cache
def registry() -> Registry:
    """The registry of this process, loaded on first use."""
    registry = Registry()
    registry.load_entry_points()
    if not any(item.module.startswith("inverse.") for item in registry.loaded):
        raise PluginError(
            "the installed package does not register its own parts, so it is older than this source; run `pip install -e .` again"
        )
    return registry


def get_method(name: str, **options: Any) -> Any:
    """The method called `name` with these options: get_method("red-diff", steps=200)."""
    return build(registry().find("inverse_methods", name), options)


def with_settings(base: str, **options: Any) -> Any:
    """The method that `base` names, settings after a colon (mmps:sampler=heun,iterations=5), with these options where it does not say otherwise."""
    name, _, settings = base.partition(":")
    for setting in filter(None, settings.split(",")):
        option, given, value = setting.partition("=")
        if not given:
            raise OptionError(
                f"base '{name}' takes name=value after the colon, separated by commas, got '{setting}'"
            )
        options[option.strip()] = value
    return get_method(name, **options)


def get_problem(name: str, **options: Any) -> Any:
    """The problem called `name` with these options: get_problem("deblur", sigma_y=0.02)."""
    return build(registry().find("inverse_problems", name), options)


def _modules(value: str) -> list[str]:
    """The modules behind an entry point: those inside a package, or the module itself."""
    name = value.split(":")[0]
    try:
        spec = importlib.util.find_spec(name)
    except Exception:  # the parent package does not import; importing the module will say why
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
    return f"{type(error).__name__}: {lines[-1 if isinstance(error, pluggy.PluginValidationError) else 0]}"


def _name_of(thing: Any) -> str:
    if isinstance(thing, Path):
        return thing.stem
    name = getattr(thing, "name", None)
    if not isinstance(name, str):
        raise PluginError(f"{inspect.getmodule(thing)}: {thing!r} has no `name`")
    return name
