"""Scores of a result's samples as an ensemble: accuracy and calibration of the uncertainty.

Every function returns None without a truth, or for too few samples.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from inverse.metrics import ensemble
from inverse.result import Result


def crps(result: Result) -> float | None:
    """Fair continuous ranked probability score (`ensemble.fair_crps`), mean over the images.

    In physical units; smaller is better.
    """
    return _mean_score(ensemble.fair_crps, result)


def energy_score(result: Result) -> float | None:
    """Fair energy score (`ensemble.energy_score`), mean over the images.

    In physical units; smaller is better.
    """
    return _mean_score(ensemble.energy_score, result)


def coverage(result: Result) -> float | None:
    """Fraction of the truth inside the central 80 % intervals of the samples; 0.8 is ideal.

    None below 9 samples, which are too few for such an interval.
    """
    return _mean_score(_coverage_of_80_percent, result, smallest=9)


def spread_skill(result: Result) -> float | None:
    """sqrt((m + 1) / m) times the spread of the m samples over the error of their mean.

    Spread and error are root mean squares over all entries; 1 is ideal.

    Source: Fortin et al., Why Should Ensemble Spread Match the RMSE of the Ensemble Mean?,
    J. Hydrometeorology 2014.
    """
    if result.truth is None or (m := result.samples.shape[1]) < 2:
        return None
    spread = result.std.double().square().mean().sqrt()
    error = (result.mean - result.truth).double().square().mean().sqrt()
    return float(((m + 1) / m) ** 0.5 * spread / error)


def _coverage_of_80_percent(samples: Tensor, truth: Tensor) -> Tensor:
    return ensemble.interval_coverage(samples, truth, 0.8)


def _mean_score(
    score: Callable[[Tensor, Tensor], Tensor], result: Result, smallest: int = 2
) -> float | None:
    """Mean over the images; a weighted ensemble of m samples is scored by m draws from it.

    None without a truth, or below the smallest number of samples.
    """
    if result.truth is None or result.samples.shape[1] < smallest:
        return None
    samples = result.samples if result.log_weights is None else result.draw(result.samples.shape[1])
    return float(score(samples, result.truth).mean())
