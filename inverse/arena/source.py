"""Hashes of what decides a number: source code without its comments and docstrings, and the weights of a prior."""

from __future__ import annotations

import ast
import functools
import hashlib
from pathlib import Path

from inverse.priors.prior import Prior
from inverse.registry.source import code_of

APART = {
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
"""Modules and folders of the core that decide no sample: commands, files, training, checks and scores. Every other one counts."""


@functools.cache
def core_version() -> str:
    """Hash of the source of what every method runs on: posterior, operators, samplers, solvers and the engine."""
    code = [code_of(ast.parse(path.read_text())) for path in core_modules()]
    return hashlib.sha256("\n".join(code).encode()).hexdigest()[:16]


def core_modules() -> list[Path]:
    """The files of the package, those in folders too, without `APART`."""
    folder = Path(__file__).parents[1]
    return [
        path
        for path in sorted(folder.rglob("*.py"))
        if not APART & {path.stem, path.relative_to(folder).parts[0]}
    ]


def prior_hash(prior: Prior) -> str:
    """Hash of a prior: its class, units and every parameter and buffer."""
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
