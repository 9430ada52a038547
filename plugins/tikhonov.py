"""Tikhonov regularisation: least squares with a smooth solution."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

import inverse
from inverse.execution import CG
from inverse.measurement.finite_differences import smooth_least_squares


@dataclass(frozen=True)
class Tikhonov(inverse.Method):
    """argmin |y - A x|^2 + lambda |grad x|^2 over images in physical units, by conjugate gradients.

    Args:
        lambda_: weight of the squared gradient; auto is strength sigma_y^2.
        strength: factor of the automatic weight; docs/methods.md has the calibration.
        tolerance: relative residual at which conjugate gradients stop.
        max_iter: largest number of iterations.
    """

    name = "tikhonov"
    group = "baselines"
    reference = "Tikhonov, Arsenin, Solutions of Ill-Posed Problems, 1977"
    equation = "argmin_x |y - A x|^2 + lambda |grad x|^2"
    claim = "point estimate"
    bias = inverse.Method.bias | {"excess": 25.0}  # knows no scale of x, for weak data
    needs = ("linear", "gaussian", "image")

    lambda_: inverse.NonNegative | None = None
    strength: Annotated[float, inverse.Range(0, 1e9)] = 30.0
    tolerance: inverse.Positive = 1e-6
    max_iter: inverse.Count = 300

    def derived(self, posterior):
        return {"lambda": self._lambda(posterior)}

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        weight = self._lambda(posterior) * posterior.prior.scale**2
        yield smooth_least_squares(posterior, weight, CG(self.tolerance, self.max_iter))

    def _lambda(self, posterior):
        return self.strength * posterior.sigma_y**2 if self.lambda_ is None else self.lambda_


@inverse.hookimpl
def inverse_methods():
    return [Tikhonov]
