"""The residual chi-square: how well samples explain the measurement, known without a truth."""

from __future__ import annotations

import math

from inverse.result import Result


def misfit(result: Result) -> float | None:
    """Residual chi-square per measurement, |y - A x|^2 / (m sigma_y^2), mean over all samples.

    Near 1 for draws from the posterior; None where the noise is not Gaussian or sigma_y is 0.
    """
    value = float(result.misfit.mean())
    return None if math.isnan(value) else value
