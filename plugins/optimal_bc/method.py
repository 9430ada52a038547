"""Optimal boundary conditions: a deterministic solver that starts every image from one stored tensor.

Ma, Yang, Yang, Fu, Liu, Solving Diffusion ODEs with Optimal Boundary Conditions for Better Image Super-Resolution, ICLR 2024,
https://arxiv.org/abs/2305.15357.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

import inverse
from inverse_plugins.optimal_bc.table import (
    Table,
    candidate,
    deterministic,
    fit_command,
    load_table,
    run_from,
    shipped_tables,
    sized,
)


@dataclass(frozen=True)
class OptimalBC(inverse.Method):
    """Run any solver that is deterministic given its start from x_T*, the start that served a reference set best (`inverse fit-bc`).

    All samples of all images start from the same tensor: there is no spread, and the answer is as biased as the base's.
    For another size than the table's the tensor is repeated periodically, then cut.

    Args:
        base: the solver, with settings after a colon: diffpir, ddnm, mmps:sampler=heun, pigdm, ... Its eta or zeta is 0, an ancestral sampler ddim.
        steps: of the base.
        table: a file of `inverse fit-bc` or the name of a shipped one, refused where it was fitted for another base, prior or problem; auto is
            the shipped one for all three, and where there is none a fixed draw that nothing was fitted to, which a note on the result says.
    """

    name = "optimal-bc"
    reference = (
        "Ma, Yang, Yang, Fu, Liu, Solving Diffusion ODEs with Optimal Boundary Conditions for Better Image Super-Resolution, ICLR 2024, "
        "https://arxiv.org/abs/2305.15357"
    )
    equation = "x0 = h(x_T*, y),  x_T* = argmin over z_k ~ N(0, I) of mean_i d(h(z_k, y_i), x_i)"
    claim = "none"  # one answer for each y, chosen by a perceptual distance

    base: str = "diffpir"
    steps: int = 10
    table: str | None = None

    def __post_init__(self):
        super().__post_init__()
        _ = self.solver

    @property
    def solver(self):
        return deterministic(self.base, self.steps)

    @property
    def total(self):
        return self.solver.total

    def unsupported(self, posterior):
        if reason := self.solver.unsupported(posterior):
            return f"optimal-bc: {reason}"
        reason = load_table(self.table).misfit(self.solver, posterior) if self.table else None
        make = fit_command(self.base, self.steps, posterior)
        return (
            f"optimal-bc: the boundary table {self.table} does not fit: {reason}; `{make}` makes one that does"
            if reason
            else None
        )

    def fitted(self, posterior) -> Table | None:
        """The table named, or the shipped one that was fitted for all of this."""
        if self.table:
            return load_table(self.table)
        if "problem" not in posterior.provenance:
            return None
        return next(
            (
                t
                for t in map(load_table, shipped_tables())
                if t.misfit(self.solver, posterior) is None
            ),
            None,
        )

    def notes(self, posterior):
        if self.fitted(posterior):
            return []
        return [
            f"the boundary is an unfitted draw; `{fit_command(self.base, self.steps, posterior)}` fits one, for table=FILE"
        ]

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
        x = sized(table.x, posterior.shape) if table else candidate(0, 0, posterior.shape)
        yield from run_from(
            self.solver, posterior, x.expand(len(posterior), *posterior.shape), samples
        )
