"""Hashes of source code without its comments and docstrings: versions of what plug-ins register."""

from __future__ import annotations

import ast
import functools
import hashlib
import sys
from pathlib import Path
from typing import Any


def version_of(cls: Any) -> str:
    """Hash of the source of a method or problem: its module, those of its bases, and what these import from their own package.

    The core is left out (see `core_version`), so that a changed method is a new version of that method alone.
    """
    return _version_of(tuple(base.__module__ for base in cls.__mro__))


@functools.cache
def _version_of(modules: tuple[str, ...]) -> str:
    waiting, seen = list(modules), dict[str, str]()
    while waiting:
        name = waiting.pop()
        module = sys.modules.get(name)
        path = Path(getattr(module, "__file__", None) or "")
        if (
            name in seen
            or name.split(".")[0] in sys.stdlib_module_names | {"inverse", "torch", "builtins"}
            or path.suffix != ".py"
        ):
            continue
        tree = ast.parse(path.read_text())
        seen[name] = code_of(tree)
        waiting += [
            found
            for found in _imports(tree)
            if found.split(".")[0] == name.split(".")[0] and found in sys.modules
        ]
    return hashlib.sha256("\n".join(seen[name] for name in sorted(seen)).encode()).hexdigest()[:16]


def code_of(tree: ast.Module) -> str:
    """The syntax tree as text, without docstrings."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


def _imports(tree: ast.Module) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found
