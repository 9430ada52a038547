"""What a sampler declares of itself; the tests hold every registered sampler to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

SamplerFunction = TypeVar("SamplerFunction", bound=Callable[..., Any])


@dataclass(frozen=True)
class Traits:
    """The declared properties of a sampler, with its default options.

    Args:
        order: order of convergence in the number of steps; None if it depends on the schedule.
        stochastic: whether a step adds fresh noise.
        adaptive: whether the sampler chooses its own noise levels.
        spanning: whether one step may span several intervals of the schedule.
        evaluations: evaluations of the denoiser in a step; the step into 0 takes one.
        starting: evaluations at the start beyond those of the steps.
    """

    order: int | None = None
    stochastic: bool = False
    adaptive: bool = False
    spanning: bool = False
    evaluations: int = 1
    starting: int = 0


def sampler(
    order: int | None = None,
    *,
    stochastic: bool = False,
    adaptive: bool = False,
    spanning: bool = False,
    evaluations: int = 1,
    starting: int = 0,
) -> Callable[[SamplerFunction], SamplerFunction]:
    """Decorator that declares the `Traits` of a sampler: `@sampler(order=2)`."""

    def declare(function: SamplerFunction) -> SamplerFunction:
        declared = Traits(order, stochastic, adaptive, spanning, evaluations, starting)
        function.traits = declared  # type: ignore[attr-defined]
        return function

    return declare


def traits(function: Callable[..., Any]) -> Traits | None:
    """What a sampler declares, or None if it declares nothing."""
    return getattr(function, "traits", None)
