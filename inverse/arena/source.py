"""Hashes of what determines a number: the code of the core, and the weights of a prior."""

from __future__ import annotations

import ast
import functools
import hashlib
from pathlib import Path

from inverse.priors.prior import Prior
from inverse.registry.source import code_of

EXCLUDED = {
    "__init__",
    "__main__",
    "arena",
    "builtin",
    "checks",
    "command",
    "errors",
    "io",
    "metrics",
    "panel",
    "registry",
    "result",
    "training",
}
"""Modules and folders that do not affect samples: commands, files, training, checks, metrics."""


@functools.cache
def core_version() -> str:
    """Hash of the code that every method runs on: posterior, operators, samplers, solvers, engine.

    Comments and docstrings do not count.
    """
    code = [code_of(ast.parse(path.read_text())) for path in core_modules()]
    return hashlib.sha256("\n".join(code).encode()).hexdigest()[:16]


def core_modules() -> list[Path]:
    """All Python files of the package outside `EXCLUDED`."""
    folder = Path(__file__).parents[1]
    return [
        path
        for path in sorted(folder.rglob("*.py"))
        if not EXCLUDED & {path.stem, path.relative_to(folder).parts[0]}
    ]


def prior_hash(prior: Prior) -> str:
    """sha256 of a prior: its class, its units, and every parameter and buffer."""
    units = (
        type(prior).__qualname__,
        prior.shape,
        prior.shift,
        prior.scale,
        prior.sigma_min,
        prior.sigma_max,
    )
    digest = hashlib.sha256(repr(units).encode())
    for name, value in sorted(prior.state_dict().items()):
        digest.update(repr((name, str(value.dtype), tuple(value.shape))).encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
