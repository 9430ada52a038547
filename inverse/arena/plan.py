"""Plans the cells of a suite: draws observations and fits steps to budgets, in a fixed order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from inverse.arena.bank import Bank, Observation
from inverse.arena.budget import Fit
from inverse.arena.cell import Cell, describe, plain
from inverse.arena.local import Executor
from inverse.arena.source import prior_hash
from inverse.arena.suite import MethodEntry, ProblemEntry, Suite
from inverse.errors import InputError, InverseError, first_line
from inverse.io.files import atomic_write
from inverse.problem import ImageProblem, Problem
from inverse.registry.discovery import get_method, get_problem
from inverse.registry.options import values
from inverse.registry.source import version_of

PROBE = 32
"""Side of the squares on which costs are counted (pixels).

A method needs as many evaluations on a small photograph as on a large one.
"""


@dataclass
class Planner:
    """Turns a suite into cells.

    Args:
        suite: the suite.
        folder: stores the fitted steps, so that a continued run has the same cells.
        executor: counts costs.
        bank: draws or reads observations.
        fits: fitted steps by the hash of the question.
    """

    suite: Suite
    folder: Path
    executor: Executor
    bank: Bank
    fits: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        path = self.folder / "budgets.json"
        self.fits = stored_fits(path) if path.is_file() else {}

    def cells(self) -> Iterator[Cell]:
        """Every cell: by problem, then method, its options and budget, then truth and seed."""
        for entry in self.suite.problems:
            yield from self._of_problem(entry)

    def observe(self, cell: Cell) -> Observation:
        """The observation of a cell."""
        return self.bank.get(cell.build_problem(), cell.problem, cell.truth, cell.seed)

    def _of_problem(self, entry: ProblemEntry) -> Iterator[Cell]:
        problem: Problem = get_problem(entry.name, **entry.options)
        description = describe(problem, version_of(type(problem)), entry.crop, entry.options)
        source = entry.prior or self.suite.prior
        prior = problem.resolve_prior(source)
        weights = {
            "name": getattr(prior, "name", problem.prior or type(prior).__name__),
            "sha256": prior_hash(prior),
            "source": source,
        }
        truths = entry.truths or self.suite.truths
        observed = {
            (truth, seed): self.bank.get(problem, description, truth, seed).sha256
            for truth in truths
            for seed in self.suite.seeds
        }
        for method in self.suite.methods:
            if method.problems is not None and entry.name not in method.problems:
                continue
            first = observed[truths[0], self.suite.seeds[0]]
            for options in method.combinations():
                for limits in self.suite.limits:
                    cell = self._cell(description, weights, method, options, limits, first)
                    cell = self._fitted(cell, problem, options)
                    for (truth, seed), sha256 in observed.items():
                        yield replace(cell, truth=truth, seed=seed, observation=sha256)

    def _cell(
        self,
        description: dict,
        weights: dict,
        entry: MethodEntry,
        options: dict[str, Any],
        limits: dict | None,
        observation: str,
    ) -> Cell:
        method = get_method(entry.name, **options)
        named = {
            "name": entry.name,
            "options": plain(values(method)),
            "version": version_of(type(method)),
            "given": options,
        }
        tuned = "set by the suite" if options else "defaults"
        if entry.tuned is not None:
            tuned = str(entry.tuned)
        return Cell(
            problem=description,
            method=named,
            prior=weights,
            truth=0,
            seed=0,
            samples=entry.samples or self.suite.samples,
            budget=limits,
            tuned=tuned,
            observation=observation,
            device=self.suite.device,
            dtype=self.suite.dtype,
            metrics=tuple(self.suite.metrics),
        )

    def _fitted(self, cell: Cell, problem: Problem, options: dict[str, Any]) -> Cell:
        """The cell with the steps that its budget allows, or with the reason to skip it."""
        if cell.budget is None:
            return cell
        fit = self._fit(cell, problem, "steps" in options)
        if fit.steps is None:
            return replace(cell, skip=fit.skip)
        return replace(
            cell, method={**cell.method, "options": {**cell.method["options"], "steps": fit.steps}}
        )

    def _fit(self, cell: Cell, problem: Problem, pinned: bool) -> Fit:
        assert cell.budget is not None
        batch: list[Any] = []
        if "seconds" in cell.budget:
            batch = [cell.samples, cell.device, cell.dtype]
        elif "particles" in cell.method["options"]:
            batch = [cell.samples]
        description = {
            name: value
            for name, value in cell.problem.items()
            if name != "crop" or not _is_counted_small(cell, problem)
        }
        question = [
            description,
            cell.method["name"],
            cell.method["options"],
            cell.method["version"],
            cell.prior["sha256"],
            cell.budget,
            pinned,
            *batch,
        ]
        text = json.dumps(question, sort_keys=True, default=str)
        key = hashlib.sha256(text.encode()).hexdigest()[:24]
        if key not in self.fits:
            fit = self._counted(cell, problem, pinned)
            self.fits[key] = {
                "method": cell.method["name"],
                "problem": cell.problem["name"],
                "budget": cell.budget,
                "steps": fit.steps,
                "skip": fit.skip,
            }
            with atomic_write(self.folder / "budgets.json") as temporary:
                temporary.write_text(json.dumps(self.fits, indent=1, sort_keys=True))
        return Fit(self.fits[key]["steps"], self.fits[key]["skip"])

    def _counted(self, cell: Cell, problem: Problem, pinned: bool) -> Fit:
        """Count costs on truth 0 with independent noise, on a small square of it if possible."""
        sizes: list[int | None] = []
        if _is_counted_small(cell, problem):
            sizes = [PROBE, 2 * PROBE, cell.problem.get("crop")]
        for size in sizes:
            try:
                observation = Bank(None).get(problem, {**cell.problem, "crop": size}, 0, "budget")
                return self.executor.call("steps_within", cell, observation, cell.budget, pinned)
            except (InverseError, RuntimeError):
                continue  # the operator has one size, or the kernel is larger than the square
        observation = Bank(None).get(problem, cell.problem, 0, "budget")
        return self.executor.call("steps_within", cell, observation, cell.budget, pinned)


def _is_counted_small(cell: Cell, problem: Problem) -> bool:
    """Whether the costs of a cell are counted on a small square instead of the whole truth."""
    return isinstance(problem, ImageProblem) and "seconds" not in (cell.budget or {})


def stored_fits(path: Path) -> dict[str, dict[str, Any]]:
    """The fitted steps that an earlier run stored.

    Raises: InputError if the file is damaged.
    """
    try:
        fits = json.loads(path.read_text())
        for fit in fits.values():
            steps, skip = fit["steps"], fit["skip"]
            is_count = type(steps) is int and 1 <= steps <= 10**7
            if not (steps is None or is_count) or not isinstance(skip, str | None):
                raise ValueError(f"steps {steps!r:.40}")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = first_line(error)
        raise InputError(
            f"{path}: not the steps that a run fitted ({reason}); delete the file to fit them again"
        ) from error
    return fits
