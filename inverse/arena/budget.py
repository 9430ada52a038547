"""Equal budgets: how many steps a method may take, found by counting what fewer steps cost.

A method with an option `steps` that the suite leaves open gets the most steps whose cost, counted on a calibration observation,
stays within the budget. Where cost is an affine function of steps, three short runs tell; where it is not (solvers that stop by
tolerance), the search goes on by bisection and aims at nine tenths of the budget, and a cell that passes its budget all the same
is a failed row. A limit in seconds is met in the same way, at eight tenths of it. A method whose cost does not grow with its
steps keeps its default, and so does one without steps; steps that the suite fixed are kept. Who does not fit is skipped.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from inverse.errors import OptionError
from inverse.method import Method
from inverse.posterior import Posterior
from inverse.registry.discovery import get_method
from inverse.registry.options import values
from inverse.seeding import Generators

RUNS = 14
"""Most runs of one search."""


@dataclass(frozen=True)
class Fit:
    """Steps, None for those the method has already; or why it is skipped."""

    steps: int | None = None
    skip: str | None = None


def overrun(budget: dict[str, float] | None, cost: dict[str, float], seconds: float) -> str | None:
    """In words, which limit was passed; None if none was."""
    spent = {"nfe": cost["nfe"] + cost["vjp"], "vjp": cost["vjp"], "seconds": seconds}
    words = {"nfe": "prior evaluations and VJPs", "vjp": "VJPs", "seconds": "seconds"}
    over = [
        f"{spent[name]:.4g} of {limit:g} {words[name]}"
        for name, limit in (budget or {}).items()
        if spent[name] > limit
    ]
    return f"over budget: {' and '.join(over)}" if over else None


def fit(
    posterior: Posterior, method: Method, budget: dict[str, float], samples: int, pinned: bool
) -> Fit:
    """The most steps within a budget.

    Args:
        posterior: of the calibration observation.
        samples: rows to run where the cost of one depends on the others: under a limit in seconds, and of an ensemble, whose cloud they share.
        pinned: whether the suite fixed the steps.
    """
    if reason := method.unsupported(posterior):
        return Fit(skip=reason)
    options = values(method)
    rows = samples if "seconds" in budget or "particles" in options else 1
    if pinned or "steps" not in options:
        load, words = spend(posterior, method, budget, rows)
        return Fit() if load <= 1 else Fit(skip=words)
    loads: dict[int, float] = {}

    def load_at(steps: int) -> float:
        """Share of the budget that so many steps take; infinite where the method does not allow them."""
        if steps not in loads:
            try:
                loads[steps] = spend(
                    posterior, get_method(method.name, **{**options, "steps": steps}), budget, rows
                )[0]
            except OptionError:
                loads[steps] = float("inf")
        return loads[steps]

    few, some = load_at(4), load_at(8)
    if some <= few:
        load, words = spend(posterior, method, budget, rows)
        return Fit() if load <= 1 else Fit(skip=f"{words} at its {options['steps']} steps")
    slope = (some - few) / 4
    guess = int(8 + (1 - some) / slope + 1e-9)
    if (
        "seconds" not in budget
        and guess >= 1
        and load_at(guess) <= 1
        and abs(loads[guess] - some - slope * (guess - 8)) < 1e-9
    ):
        return Fit(steps=guess)
    steps = _search(load_at, loads, 0.8 if "seconds" in budget else 0.9)
    return (
        Fit(steps=steps) if steps else Fit(skip=f"one step takes {load_at(1):.3g} times the budget")
    )


def _search(load_at, loads: dict[int, float], target: float) -> int:
    """The most steps whose load is within the target, by secants that a bisection keeps within bounds; 0 if there are none."""
    while load_at(max(loads)) <= target and len(loads) < RUNS:
        load_at(2 * max(loads))
    for _ in range(RUNS):
        low = max((s for s, load in loads.items() if load <= target), default=0)
        high = min((s for s, load in loads.items() if load > target and s > low), default=None)
        if high is None or high - low <= 1:
            break
        bottom = loads.get(low, 0.0)
        secant = (
            low + (target - bottom) / (loads[high] - bottom) * (high - low)
            if loads[high] < float("inf")
            else (low + high) / 2
        )
        load_at(min(max(int(secant), low + 1), high - 1))
    return max((s for s, load in loads.items() if load <= target), default=0)


def spend(
    posterior: Posterior, method: Method, budget: dict[str, float], samples: int
) -> tuple[float, str]:
    """The largest share of a limit that a run takes, and in words what it takes of which; seed 0, answer thrown away."""
    rows = posterior.rows(samples)
    start = time.perf_counter()
    with torch.no_grad():
        for _ in method.run(
            rows,
            samples,
            Generators.for_samples(0, len(posterior), samples, device=posterior.device),
        ):
            pass
    if posterior.device.type == "cuda":
        torch.cuda.synchronize(posterior.device)
    seconds = time.perf_counter() - start
    cost = rows.cost
    spent = {"nfe": cost.nfe + cost.vjp, "vjp": cost.vjp, "seconds": seconds}
    loads = {
        name: 0.0 if not spent[name] else float("inf") if not limit else spent[name] / limit
        for name, limit in budget.items()
    }
    words = overrun(budget, {"nfe": cost.nfe, "vjp": cost.vjp}, seconds) or ""
    return max(loads.values()), words
