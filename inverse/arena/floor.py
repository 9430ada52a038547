"""The floor: what a solve's counted evaluations take on their own, timed on the spot. Floor over the time of the solve is efficiency."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from inverse.posterior import Posterior
from inverse.seeding import seeded


@dataclass(frozen=True)
class Floor:
    """Seconds that one call takes on all rows of a solve at once: the prior forward, its VJP, A and its adjoint."""

    forward: float
    vjp: float
    A: float
    A_adjoint: float

    def seconds(self, cost: dict[str, float]) -> float:
        """What the counted evaluations alone take."""
        return (
            cost["nfe"] * self.forward
            + cost["vjp"] * self.vjp
            + cost["A"] * self.A
            + cost["A_adjoint"] * self.A_adjoint
        )


def measure_floor(rows: Posterior, clock: Callable[[], float] = time.perf_counter) -> Floor:
    """Least seconds of each evaluation over a few repeats, on all rows at once.

    Args:
        clock: whose seconds are counted.
    """
    sigma = (rows.prior.sigma_min * rows.prior.sigma_max) ** 0.5
    x = torch.randn(len(rows), *rows.shape, generator=seeded("floor")).to(rows.device, rows.dtype)
    forward = _least(lambda: rows.denoise(x, sigma), rows.device, clock)

    def vjp() -> float:
        _, pull = rows.tweedie(x, sigma)
        return _once(lambda: pull(x), rows.device, clock)

    back = min(vjp() for _ in range(3))
    A, A_adjoint = (
        _least(call, rows.device, clock)
        for call in (lambda: rows.A(x), lambda: rows.A_vjp(x, rows.y))
    )
    return Floor(forward, back, A, A_adjoint)


MOST = 32
"""Evaluations of a kind that are replayed; of more, these stand for all."""


def replay(
    rows: Posterior, cost: dict[str, float], clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds of as many evaluations as a solve counted, one after another with nothing between, on all rows at once.

    A forward that keeps a graph is timed as one without.

    Args:
        cost: evaluations per sample: nfe, vjp, A, A_adjoint.
    """
    sigma = (rows.prior.sigma_min * rows.prior.sigma_max) ** 0.5
    x = torch.randn(len(rows), *rows.shape, generator=seeded("floor")).to(rows.device, rows.dtype)
    pull = rows.tweedie(x, sigma)[1] if cost["vjp"] else None
    calls: dict[str, Callable[[], Any]] = {
        "nfe": lambda: rows.denoise(x, sigma),
        "A": lambda: rows.A(x),
        "A_adjoint": lambda: rows.A_vjp(x, rows.y),
    }
    if pull is not None:
        calls["vjp"] = lambda: pull(x)
    total = 0.0
    for name, call in calls.items():
        if times := min(round(cost[name]), MOST):
            repeated = lambda call=call, times=times: [call() for _ in range(times)]  # noqa: E731
            total += cost[name] / times * _once(repeated, rows.device, clock)
    return total


def _least(
    call: Callable[[], Any], device: torch.device, clock: Callable[[], float], seconds: float = 0.1
) -> float:
    times, end = (
        [_once(call, device, clock), _once(call, device, clock)],
        time.perf_counter() + seconds,
    )
    while len(times) < 10 and time.perf_counter() < end:
        times.append(_once(call, device, clock))
    return min(times)


def _once(call: Callable[[], Any], device: torch.device, clock: Callable[[], float]) -> float:
    wait = (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else lambda: None
    wait()
    start = clock()
    call()
    wait()
    return clock() - start
