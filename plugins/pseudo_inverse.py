"""The pseudo-inverse: a reconstruction from the operator alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

import inverse
from inverse.execution import CG
from inverse.measurement.linalg import conjugate_gradient


@dataclass(frozen=True)
class PseudoInverse(inverse.Method):
    """A^+ y by conjugate gradients on the normal equations, from zero to a relative residual.

    Args:
        tolerance: relative residual at which to stop; stopping earlier regularises.
        max_iter: largest number of iterations.
    """

    name = "pseudo-inverse"
    group = "baselines"
    reference = "Hestenes, Stiefel, Methods of Conjugate Gradients for Solving Linear Systems, 1952"
    equation = "x = A^+ y, the least-squares solution of least norm around mid-grey"
    claim = "none"
    needs = ("linear",)

    tolerance: inverse.Positive = 1e-3
    max_iter: inverse.Count = 100

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        x = torch.zeros(
            len(posterior), *posterior.shape, dtype=posterior.dtype, device=posterior.device
        )
        offset = posterior.A(x)
        normal = posterior.A_adjoint(posterior.y - offset)
        yield conjugate_gradient(
            lambda v: posterior.A_adjoint(posterior.A(v) - offset),
            normal,
            settings=CG(self.tolerance, self.max_iter),
        )


@inverse.hookimpl
def inverse_methods():
    return [PseudoInverse]
