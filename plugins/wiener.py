"""The Wiener estimate: the mean of a Gaussian prior given linear data with Gaussian noise.

Wiener, Extrapolation, Interpolation, and Smoothing of Stationary Time Series, MIT Press 1949; with
any covariance it is kriging or optimal interpolation.

    m, C the mean and covariance of the prior, R the covariance of the noise
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

import inverse
from inverse.analytic_start import gaussian_mean, unmet_requirement
from inverse.execution import CG


@dataclass(frozen=True)
class Wiener(inverse.Method):
    """Compute the linear estimate of least mean square error, without evaluating the prior.

    For a Gaussian prior it is the posterior's mean. For a network whose card states the power law
    of its training photographs, it is the best that their spectrum alone can do.

    Args:
        steps: largest number of conjugate-gradient iterations.
        tolerance: relative residual at which they stop.
    """

    name = "wiener"
    group = "baselines"
    reference = (
        "Wiener, Extrapolation, Interpolation, and Smoothing of Stationary Time Series, 1949"
    )
    equation = "x = m + C A^T (A C A^T + R)^-1 (y - A m)"
    claim = "point estimate"
    needs = ("linear", "gaussian")

    steps: inverse.Count = 1000
    tolerance: inverse.Positive = 1e-6

    @property
    def total(self):
        return 1

    def unsupported(self, posterior: inverse.Posterior) -> str | None:
        reason = unmet_requirement(posterior)
        return super().unsupported(posterior) or (f"wiener needs {reason}" if reason else None)

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        yield gaussian_mean(posterior, CG(self.tolerance, self.steps))


@inverse.hookimpl
def inverse_methods():
    return [Wiener]
