"""Hashes of what decides a number: source code without its comments and docstrings, and the weights of a prior."""

from __future__ import annotations

import ast
import functools
import hashlib
import sys
from pathlib import Path
from typing import Any

from inverse.prior import Prior

APART = {
    "__init__", "__main__", "arena", "assets", "builtin", "checks", "cli", "command", "errors", "files", "hookspecs", "images", "metrics",
    "options", "perceptual", "plugins", "result", "scores", "training",
}  # fmt: skip
"""Modules and packages of the core that decide no sample: commands, training, checks and scores. What nobody thought of counts."""


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
        if name in seen or name.split(".")[0] in sys.stdlib_module_names | {"inverse", "torch", "builtins"} or path.suffix != ".py":
            continue
        tree = ast.parse(path.read_text())
        seen[name] = _code(tree)
        waiting += [found for found in _imports(tree) if found.split(".")[0] == name.split(".")[0] and found in sys.modules]
    return hashlib.sha256("\n".join(seen[name] for name in sorted(seen)).encode()).hexdigest()[:16]


@functools.cache
def core_version() -> str:
    """Hash of the source of what every method runs on: posterior, operators, samplers, solvers and the engine."""
    code = [_code(ast.parse(path.read_text())) for path in core_modules()]
    return hashlib.sha256("\n".join(code).encode()).hexdigest()[:16]


def core_modules() -> list[Path]:
    """The files of the package, those in folders too, without `APART`."""
    folder = Path(__file__).parents[1]
    return [path for path in sorted(folder.rglob("*.py")) if not APART & {path.stem, *path.relative_to(folder).parts[:-1]}]


def prior_hash(prior: Prior) -> str:
    """Hash of a prior: its class, units and every parameter and buffer."""
    units = (type(prior).__qualname__, prior.shape, prior.shift, prior.scale, prior.sigma_min, prior.sigma_max)
    digest = hashlib.sha256(repr(units).encode())
    for name, value in sorted(prior.state_dict().items()):
        digest.update(repr((name, str(value.dtype), tuple(value.shape))).encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _code(tree: ast.Module) -> str:
    """The syntax tree as text, without docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node, clean=False) is not None:
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
