"""Estimates of the noise of observations from their departures.

A departure is the difference between an observation and the background or the analysis.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def desroziers(background: Tensor, analysis: Tensor) -> Tensor:
    """Variance of the observations' noise, representativeness included.

    The estimate is the mean of (y - H x_a)(y - H x_b). It equals the variance of the noise if the
    analysis used the right covariances; otherwise it is a step of a fixed-point iteration.

    Args:
        background: y - H x_b, (cases, n); the background x_b does not depend on y.
        analysis: y - H x_a, (cases, n).

    Returns: (n,), in squared units of y.

    Source: Desroziers, Berre, Chapnik, Poli, Diagnosis of observation, background and
    analysis-error statistics in observation space, Quarterly Journal of the Royal Meteorological
    Society 131, 2005, eq. 3.
    """
    return (background * analysis).mean(0)


def estimated_sigma(
    departures: Tensor,
    background: Tensor,
    start: float,
    iterations: int = 20,
    analysis: Callable[[float], Tensor] | None = None,
) -> float:
    """Standard deviation of the noise common to all observations, by iterating `desroziers`.

    Args:
        departures: y - H x_b, (cases, n).
        background: H B H^T, (n, n), covariance of the background's error at the observations.
        start: first guess, in units of y, positive.
        iterations: number of iterations.
        analysis: sigma -> y - H x_a, (cases, n); by default the departures of optimal
            interpolation, R (H B H^T + R)^-1 (y - H x_b).
    """
    eye, sigma = torch.eye(len(background), dtype=background.dtype), start

    def optimal_interpolation(sigma: float) -> Tensor:
        return torch.linalg.solve(background + sigma**2 * eye, sigma**2 * departures.T).T

    for _ in range(iterations):
        residual = (analysis or optimal_interpolation)(sigma)
        sigma = float(desroziers(departures, residual).mean().clamp_min(1e-12).sqrt())
    return sigma
