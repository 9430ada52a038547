"""How large the noise of observations is, from their departures from background and analysis."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def desroziers(background: Tensor, analysis: Tensor) -> Tensor:
    """Variance of the observations' noise, representativeness included, from departures: mean of (y - H x_a)(y - H x_b).

    It is the noise's own where the analysis was made with the right covariances, and otherwise the next step of a fixed-point iteration.

    Args:
        background: y - H x_b, (cases, n), x_b made without y.
        analysis: y - H x_a, (cases, n).

    Returns: (n,).

    Source: Desroziers, Berre, Chapnik, Poli, Diagnosis of observation, background and analysis-error statistics in observation space,
    Quarterly Journal of the Royal Meteorological Society 131, 2005, eq. 3.
    """
    return (background * analysis).mean(0)


def estimated_sigma(
    departures: Tensor,
    background: Tensor,
    start: float,
    iterations: int = 20,
    analysis: Callable[[float], Tensor] | None = None,
) -> float:
    """Standard deviation of noise common to all observations, by iterating `desroziers`.

    Args:
        departures: y - H x_b, (cases, n).
        background: H B H^T, (n, n), covariance of the background's error at the observations.
        start: first guess, positive.
        analysis: sigma -> y - H x_a (cases, n); by default that of optimal interpolation, R (H B H^T + R)^-1 (y - H x_b).
    """
    eye, sigma = torch.eye(len(background), dtype=background.dtype), start
    for _ in range(iterations):
        left = (
            analysis(sigma)
            if analysis
            else torch.linalg.solve(background + sigma**2 * eye, sigma**2 * departures.T).T
        )
        sigma = float(desroziers(departures, left).mean().clamp_min(1e-12).sqrt())
    return sigma
