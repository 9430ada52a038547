"""Versions of methods and problems: hashes of their source code without comments and docstrings."""

from __future__ import annotations

import ast
import functools
import hashlib
import sys
from pathlib import Path
from typing import Any

EXCLUDED = sys.stdlib_module_names | {"inverse", "torch", "builtins"}
"""Packages that do not count towards the version of a method or a problem."""


def version_of(cls: Any) -> str:
    """Hash of the source code of a method or a problem: 16 hexadecimal digits.

    The hash covers the module of the class, the modules of its bases, and what these import from
    their own package. It excludes the core (see `core_version`), so that a change to one method is
    a new version of that method alone.
    """
    return version_of_modules(tuple(base.__module__ for base in cls.__mro__))


@functools.cache
def version_of_modules(modules: tuple[str, ...]) -> str:
    """Hash of modules and of what they import from their own package, kept for this process."""
    waiting, seen = list(modules), dict[str, str]()
    while waiting:
        name = waiting.pop()
        path = Path(getattr(sys.modules.get(name), "__file__", None) or "")
        excluded = name.split(".")[0] in EXCLUDED
        if name in seen or excluded or path.suffix != ".py":
            continue
        tree = ast.parse(path.read_text())
        seen[name] = code_of(tree)
        package = name.split(".")[0]
        waiting += [
            module
            for module in _imports(tree)
            if module.split(".")[0] == package and module in sys.modules
        ]
    return hashlib.sha256("\n".join(seen[name] for name in sorted(seen)).encode()).hexdigest()[:16]


def code_of(tree: ast.Module) -> str:
    """The syntax tree as text, without docstrings; it removes them from `tree`."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


def _imports(tree: ast.Module) -> list[str]:
    """Modules that the import statements of a file may name."""
    modules = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return modules
