"""The floor: the time of a solve's counted evaluations alone, measured on the same machine.

Efficiency is the floor over the time of the solve.
"""

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
    """Seconds of one call on all rows of a solve: the prior, its VJP, A and the adjoint of A."""

    forward: float
    vjp: float
    A: float
    A_adjoint: float

    def seconds(self, cost: dict[str, float]) -> float:
        """Seconds of the counted evaluations; `cost` has nfe, vjp, A and A_adjoint per sample."""
        return (
            cost["nfe"] * self.forward
            + cost["vjp"] * self.vjp
            + cost["A"] * self.A
            + cost["A_adjoint"] * self.A_adjoint
        )


def measure_floor(rows: Posterior, clock: Callable[[], float] = time.perf_counter) -> Floor:
    """Smallest time of each evaluation over a few repeats, on all rows at once.

    Args:
        clock: function that returns seconds.
    """
    sigma = (rows.prior.sigma_min * rows.prior.sigma_max) ** 0.5
    x = torch.randn(len(rows), *rows.shape, generator=seeded("floor")).to(rows.device, rows.dtype)
    forward = _shortest(lambda: rows.denoise(x, sigma), rows.device, clock)

    def vjp() -> float:
        _, pull = rows.tweedie(x, sigma)
        return _seconds(lambda: pull(x), rows.device, clock)

    back = min(vjp() for _ in range(3))
    A = _shortest(lambda: rows.A(x), rows.device, clock)
    A_adjoint = _shortest(lambda: rows.A_vjp(x, rows.y), rows.device, clock)
    return Floor(forward, back, A, A_adjoint)


MAX_REPLAYED = 32
"""Largest number of replayed evaluations of a kind; the time of more is extrapolated."""


def replay(
    rows: Posterior, cost: dict[str, float], clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds of the evaluations that a solve counted, one after another, on all rows at once.

    A forward evaluation that keeps a graph is timed as one without.

    Args:
        cost: evaluations per sample: nfe, vjp, A, A_adjoint.
        clock: function that returns seconds.
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
        if times := min(round(cost[name]), MAX_REPLAYED):
            repeated = lambda call=call, times=times: [call() for _ in range(times)]  # noqa: E731
            total += cost[name] / times * _seconds(repeated, rows.device, clock)
    return total


def _shortest(
    call: Callable[[], Any], device: torch.device, clock: Callable[[], float], seconds: float = 0.1
) -> float:
    times = [_seconds(call, device, clock), _seconds(call, device, clock)]
    end = time.perf_counter() + seconds
    while len(times) < 10 and time.perf_counter() < end:
        times.append(_seconds(call, device, clock))
    return min(times)


def _seconds(call: Callable[[], Any], device: torch.device, clock: Callable[[], float]) -> float:
    wait = (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else lambda: None
    wait()
    start = clock()
    call()
    wait()
    return clock() - start
