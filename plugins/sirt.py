"""SIRT: simultaneous iterative reconstruction, the algebraic baseline of tomography.

Gregor, Benson, Computational Analysis and Improvement of SIRT, IEEE TMI 2008,
https://doi.org/10.1109/TMI.2008.923696.

    R inverse row sums of A, C inverse column sums
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

import inverse
from inverse.errors import UnsupportedError


@dataclass(frozen=True)
class SIRT(inverse.Method):
    """Steps along the residual, divided by the row and column sums of A, from zero.

    Each step projects onto non-negative intensities, as SIRT in practice does. Stopping early
    regularises. Entries of A must not be negative.

    Args:
        steps: iterations.
        relaxation: factor of each step, in (0, 2).
        non_negative: whether intensities are kept at or above 0.
    """

    name = "sirt"
    group = "baselines"
    reference = (
        "Gregor, Benson, Computational Analysis and Improvement of SIRT, IEEE TMI 2008, "
        "https://doi.org/10.1109/TMI.2008.923696"
    )
    equation = "x' = max(0, x + C A^T R (y - A x))"
    claim = "none"
    needs = ("linear",)

    steps: inverse.Count = 100
    relaxation: Annotated[float, inverse.Range(above=0, below=2)] = 1.0
    non_negative: bool = True

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        operator, prior = posterior.operator, posterior.prior
        ones = torch.ones(1, *posterior.shape, dtype=posterior.dtype, device=posterior.device)
        rows, columns = operator.A(ones), operator.A_adjoint(torch.ones_like(posterior.y[:1]))
        if float(rows.min()) < 0 or float(columns.min()) < 0:
            raise UnsupportedError(
                "sirt needs an operator without negative entries, as that of ct or pet; "
                f"this posterior has {type(operator).__name__}"
            )
        R, C = _inverse(rows), _inverse(columns)
        intensity = torch.zeros_like(ones).expand(len(posterior), *posterior.shape)
        for _ in range(self.steps):
            x = prior.encode(intensity)
            gradient = posterior.A_adjoint(R * posterior.residual(x)) / prior.scale
            intensity = intensity + self.relaxation * C * gradient
            intensity = intensity.clamp_min(0) if self.non_negative else intensity
            yield prior.encode(intensity)


def _inverse(sums: Tensor) -> Tensor:
    """1 / sums, and 0 where nothing is measured."""
    least = 1e-6 * sums.max()
    return torch.where(sums > least, 1 / sums.clamp_min(least), 0.0)


@inverse.hookimpl
def inverse_methods():
    return [SIRT]
