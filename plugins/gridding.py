"""Gridding: the density-compensated adjoint of MRI off a Cartesian grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

import inverse


@dataclass(frozen=True)
class Gridding(inverse.Method):
    """x = A^T D y, D the area of k-space that each measured frequency stands for."""

    name = "gridding"
    group = "baselines"
    reference = (
        "Jackson, Meyer, Nishimura, Macovski, Selection of a Convolution Function for Fourier "
        "Inversion Using Gridding, IEEE Transactions on Medical Imaging 1991"
    )
    equation = "x = A^T D y"
    claim = "none"

    def unsupported(self, posterior: inverse.Posterior) -> str | None:
        if hasattr(posterior.operator, "gridding"):
            return super().unsupported(posterior)
        return (
            "gridding needs frequencies off a grid with their density, as radial and spiral mri "
            f"has; this posterior has {type(posterior.operator).__name__}"
        )

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        posterior.cost.A_adjoint_rows += len(posterior)
        yield posterior.prior.encode(posterior.operator.gridding(posterior.y))


@inverse.hookimpl
def inverse_methods():
    return [Gridding]
