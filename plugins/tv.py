"""Total variation: least squares with a piecewise-smooth solution, the classical baseline.

Rudin, Osher, Fatemi, 1992, with the primal-dual splitting of Condat, JOTA 2013, and Vu, ACM 2013.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

import inverse
from inverse.execution import CG
from inverse.measurement.finite_differences import divergence, gradient, smooth_least_squares

INITIAL_WEIGHT = 1e3
"""Weight of the smooth initial image, in units of lambda^2.

It is large enough to fill a hole and small enough not to blur.
"""


@dataclass(frozen=True)
class TV(inverse.Method):
    """argmin |y - A x|^2 / 2 + lambda TV(x), TV isotropic and joint over channels; physical units.

    Args:
        steps: primal-dual iterations.
        lambda_: weight of the total variation; auto is strength sigma_y.
        strength: factor of the automatic weight; docs/methods.md has the calibration.
    """

    name = "tv"
    group = "baselines"
    reference = (
        "Rudin, Osher, Fatemi, Nonlinear Total Variation Based Noise Removal Algorithms, "
        "Physica D 1992; Condat, JOTA 2013"
    )
    equation = "argmin_x |y - A x|^2 / 2 + lambda TV(x)"
    claim = "point estimate"
    bias = inverse.Method.bias | {"excess": 45.0}  # knows no scale of x, for weak data
    units = "lambda = strength sigma_y weighs TV against |y - A x|^2, which grows by the square"
    needs = ("linear", "gaussian", "image")

    steps: inverse.Count = 300
    lambda_: inverse.NonNegative | None = None
    strength: Annotated[float, inverse.Range(0, 1e9)] = 0.1

    def derived(self, posterior):
        return {"lambda": self._lambda(posterior)}

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        radius = self._lambda(posterior) * posterior.prior.scale
        smooth = posterior.norm_squared
        dual_step = max(smooth, 1e-6) / 8
        step = 1 / (smooth / 2 + 8 * dual_step)
        x = smooth_least_squares(posterior, INITIAL_WEIGHT * radius**2, CG(1e-6, 300))
        p = torch.zeros_like(gradient(x))
        for _ in range(self.steps):
            previous = x
            x = x + step * (posterior.A_adjoint(posterior.residual(x)) + divergence(p))
            p = p + dual_step * gradient(2 * x - previous)
            length = p.square().sum((1, 2), keepdim=True).sqrt()
            p = p * (radius / length.clamp_min(max(radius, 1e-30)))
            yield x

    def _lambda(self, posterior):
        return self.strength * posterior.sigma_y if self.lambda_ is None else self.lambda_


@inverse.hookimpl
def inverse_methods():
    return [TV]
