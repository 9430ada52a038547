"""SENSE by conjugate gradients: least squares over all coils, the baseline of parallel imaging.

Pruessmann, Weiger, Boernert, Boesiger, Advances in Sensitivity Encoding With Arbitrary k-Space
Trajectories, Magnetic Resonance in Medicine 2001, https://doi.org/10.1002/mrm.1241.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

import inverse
from inverse.execution import CG
from inverse.measurement.linalg import conjugate_gradient


@dataclass(frozen=True)
class SENSE(inverse.Method):
    """argmin |y - A x|^2 + damping |A|^2 |x|^2 in physical units, from a black image.

    Args:
        steps: conjugate-gradient iterations; stopping early regularises.
        damping: weight of |x|^2 in units of the squared norm of A.
    """

    name = "sense"
    group = "baselines"
    reference = (
        "Pruessmann, Weiger, Boernert, Boesiger, Advances in Sensitivity Encoding With Arbitrary "
        "k-Space Trajectories, Magnetic Resonance in Medicine 2001, "
        "https://doi.org/10.1002/mrm.1241"
    )
    equation = "x = (A^T A + damping |A|^2)^-1 A^T y"
    claim = "none"
    needs = ("linear",)

    steps: inverse.Count = 30
    damping: inverse.NonNegative = 1e-3

    @property
    def total(self) -> int:
        """1: the iterations are one solve."""
        return 1

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        black = posterior.prior.encode(posterior.zeros())
        offset, weight = posterior.A(black), self.damping * posterior.norm_squared
        yield black + conjugate_gradient(
            lambda v: posterior.A_adjoint(posterior.A(black + v) - offset) + weight * v,
            posterior.A_adjoint(posterior.y - offset),
            settings=CG(0.0, self.steps),
        )


@inverse.hookimpl
def inverse_methods():
    return [SENSE]
