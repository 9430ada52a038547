"""Equal budgets: how many steps a method may take, from the measured cost of fewer steps.

A method with an option `steps` that the suite leaves open gets the largest number of steps whose
cost, counted on a calibration observation, is within the budget. If the cost is an affine function
of the steps, three short runs determine them. If it is not (solvers that stop by tolerance), the
search continues by bisection and aims at nine tenths of the budget; a cell that exceeds its budget
nevertheless is a failed row. A limit in seconds is met in the same way, at eight tenths. A method
without steps, or whose cost does not grow with them, keeps its options; steps that the suite fixed
are kept. A method that does not fit is skipped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from inverse.errors import OptionError
from inverse.method import Method
from inverse.posterior import Posterior
from inverse.registry.discovery import get_method
from inverse.registry.options import values
from inverse.seeding import Generators

MAX_RUNS = 14
"""Largest number of runs in a search."""


@dataclass(frozen=True)
class Fit:
    """The steps of a method within a budget.

    Args:
        steps: None if the method keeps its options.
        skip: reason why the method is skipped; None if it is not.
    """

    steps: int | None = None
    skip: str | None = None


def overrun(budget: dict[str, float] | None, cost: dict[str, float], seconds: float) -> str | None:
    """Which limits were exceeded, in words; None if none was."""
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
    """The largest number of steps within a budget.

    Args:
        posterior: posterior of the calibration observation.
        samples: rows to run where the cost of a row depends on the others: under a limit in
            seconds, and for particle methods, whose samples share a cloud.
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
        """Share of the budget that these steps take; infinite if the method refuses them."""
        if steps not in loads:
            try:
                shortened = get_method(method.name, **{**options, "steps": steps})
                loads[steps] = spend(posterior, shortened, budget, rows)[0]
            except OptionError:
                loads[steps] = float("inf")
        return loads[steps]

    at_4, at_8 = load_at(4), load_at(8)
    if at_8 <= at_4:
        load, words = spend(posterior, method, budget, rows)
        return Fit() if load <= 1 else Fit(skip=f"{words} at its {options['steps']} steps")
    slope = (at_8 - at_4) / 4
    guess = int(8 + (1 - at_8) / slope + 1e-9)
    if "seconds" not in budget and guess >= 1 and load_at(guess) <= 1:
        is_affine = abs(loads[guess] - at_8 - slope * (guess - 8)) < 1e-9
        if is_affine:
            return Fit(steps=guess)
    steps = _search(load_at, loads, 0.8 if "seconds" in budget else 0.9)
    if steps:
        return Fit(steps=steps)
    return Fit(skip=f"one step takes {load_at(1):.3g} times the budget")


def _search(load_at: Callable[[int], float], loads: dict[int, float], target: float) -> int:
    """The largest number of steps whose load is within the target; 0 if there is none.

    A secant search whose steps a bisection keeps within bounds.
    """
    while load_at(max(loads)) <= target and len(loads) < MAX_RUNS:
        load_at(2 * max(loads))
    for _ in range(MAX_RUNS):
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
    """Run the method with seed 0 and discard the answer.

    Returns the largest share of a limit that the run takes, and in words which limits it exceeds.
    """
    rows = posterior.rows(samples)
    start = time.perf_counter()
    generators = Generators.for_samples(0, len(posterior), samples, device=posterior.device)
    with torch.no_grad():
        for _ in method.run(rows, samples, generators):
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
