"""The hooks that a plug-in may implement. A hook registers or observes; each hook is optional.

import inverse

@inverse.hookimpl
def inverse_methods():
    return [MyMethod]
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pluggy

hookspec = pluggy.HookspecMarker("inverse")
hookimpl = pluggy.HookimplMarker("inverse")


@hookspec
def inverse_methods() -> list[type]:  # type: ignore[empty-body]
    """Subclasses of `inverse.Method`."""


@hookspec
def inverse_problems() -> list[type]:  # type: ignore[empty-body]
    """Subclasses of `inverse.Problem`."""


@hookspec
def inverse_priors() -> list[Path]:  # type: ignore[empty-body]
    """Paths of prior cards (JSON) with their weights beside them."""


@hookspec
def inverse_laws() -> dict[str, Callable[..., Any]]:  # type: ignore[empty-body]
    """Loaders by the kind of law that a card names: (card, weights by name) -> `FieldLaw`."""


@hookspec
def inverse_architectures() -> list[type]:  # type: ignore[empty-body]
    """Subclasses of `inverse.priors.foreign.architecture.Architecture`."""


@hookspec
def inverse_samplers() -> dict[str, Callable[..., Any]]:  # type: ignore[empty-body]
    """Samplers by name."""


@hookspec
def inverse_metrics() -> dict[str, Any]:  # type: ignore[empty-body]
    """Metrics by name: an `inverse.Metric`, or a function of a `Result` (None if not applicable).

    A bare function becomes a metric that is labelled by its name and printed without a direction;
    an `inverse.Metric` says how its values are ranked and printed. See there for the attributes
    `ready` and `version` that a function may have.
    """


@hookspec
def inverse_suites() -> list[Path]:  # type: ignore[empty-body]
    """Paths of suites of the arena (TOML), each known by the name of its file."""


@hookspec
def inverse_commands(app: Any) -> None:
    """Add commands to the typer application `app`."""


@hookspec
def inverse_step(
    index: int, total: int | None, x: Any, misfit: Callable[[], float], nfe: float
) -> None:
    """Observe an iterate.

    Args:
        index: number of the iterate, from 1.
        total: number of iterates, or None if the method does not know it.
        x: the iterate (rows, *shape), model units.
        misfit: a function that returns the residual chi-square; it evaluates A once, outside the
            time and the cost of the solve.
        nfe: prior evaluations so far.
    """


@hookspec
def inverse_result(result: Any) -> None:
    """Observe the result of a solve, finished or interrupted."""
