"""Optimal boundary conditions: a deterministic solver that starts every image from one tensor.

Ma, Yang, Yang, Fu, Liu, Solving Diffusion ODEs with Optimal Boundary Conditions for Better Image
Super-Resolution, ICLR 2024, https://arxiv.org/abs/2305.15357.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

import inverse
from inverse_plugins.optimal_bc.deterministic_solver import (
    candidate,
    deterministic_solver,
    iterates_from,
    tiled,
)
from inverse_plugins.optimal_bc.table import Table, fit_command, load_table, shipped_tables


@dataclass(frozen=True)
class OptimalBC(inverse.Method):
    """Run a deterministic solver from x_T*, the start with the least loss on a reference set.

    `inverse fit-bc` chooses x_T*. All samples of all images start from this tensor: the samples
    have no spread, and the answer is as biased as that of the base. For an image size other than
    the table's, the tensor is repeated periodically and cropped.

    Args:
        base: solver, with settings after a colon: diffpir, ddnm, mmps:sampler=heun, pigdm. Its
            options eta and zeta are set to 0, and an ancestral sampler is replaced by ddim.
        steps: steps of the base.
        table: file from `inverse fit-bc`, or the name of a shipped table. A table fitted for
            another base, prior or problem is refused. auto takes the shipped table that fits all
            three; without one, the start is a fixed random draw, and the result carries a note.
    """

    name = "optimal-bc"
    reference = (
        "Ma, Yang, Yang, Fu, Liu, Solving Diffusion ODEs with Optimal Boundary Conditions for "
        "Better Image Super-Resolution, ICLR 2024, https://arxiv.org/abs/2305.15357"
    )
    equation = "x0 = h(x_T*, y),  x_T* = argmin over z_k ~ N(0, I) of mean_i d(h(z_k, y_i), x_i)"
    claim = "none"  # one answer for each y, chosen by a perceptual distance

    base: str = "diffpir"
    steps: inverse.Count = 10
    table: str | None = None

    def __post_init__(self):
        super().__post_init__()
        _ = self.solver  # raises for an unknown base

    @property
    def solver(self):
        """The base method without fresh noise."""
        return deterministic_solver(self.base, self.steps)

    @property
    def total(self):
        return self.solver.total

    def unsupported(self, posterior):
        if reason := self.solver.unsupported(posterior):
            return f"optimal-bc: {reason}"
        reason = load_table(self.table).misfit(self.solver, posterior) if self.table else None
        if reason is None:
            return None
        command = fit_command(self.base, self.steps, posterior)
        return (
            f"optimal-bc: the boundary table {self.table} does not fit: {reason}; "
            f"`{command}` makes one that does"
        )

    def fitted(self, posterior) -> Table | None:
        """The named table, or the shipped table fitted for this solver, problem and prior."""
        if self.table:
            return load_table(self.table)
        if "problem" not in posterior.provenance:
            return None
        tables = map(load_table, shipped_tables())
        return next((t for t in tables if t.misfit(self.solver, posterior) is None), None)

    def notes(self, posterior):
        if self.fitted(posterior):
            return []
        command = fit_command(self.base, self.steps, posterior)
        return [f"the start is an unfitted random draw; `{command}` fits one for table=FILE"]

    def derived(self, posterior):
        table = self.fitted(posterior)
        return {
            "candidate": float(table.about["candidate"] if table else 0),
            "fitted": float(table is not None),
        }

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor | inverse.Weighted]:
        table = self.fitted(posterior)
        x = tiled(table.x, posterior.shape) if table else candidate(0, 0, posterior.shape)
        start = x.expand(len(posterior), *posterior.shape)
        yield from iterates_from(self.solver, posterior, start, samples)
