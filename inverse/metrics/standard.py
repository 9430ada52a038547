"""Scores of a result against the truth or the measurement; None where a score does not apply."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from inverse.measurement.deepinv_import import deepinv, import_beside_torchvision
from inverse.metrics import ensemble as scores
from inverse.result import Result


def psnr(result: Result) -> float | None:
    """Peak signal-to-noise ratio of the posterior mean (dB), peak 1, mean over the images; the estimate is clipped to [0, 1]. None for kelvins."""
    if result.truth is None or not _intensities(result.truth):
        return None
    error = (result.mean.clamp(0, 1) - result.truth).square().flatten(1).mean(1)
    return float((-10 * torch.log10(error)).mean())


def ssim(result: Result) -> float | None:
    """Structural similarity of the posterior mean, Gaussian window of 1.5 pixels, mean over the images.

    Source: Wang et al., Image Quality Assessment, IEEE TIP 2004, as in scikit-image. None below 11 pixels a side, and for fields of other units.
    """
    if result.truth is None or not _intensities(result.truth) or min(result.truth.shape[-2:]) < 11:
        return None
    from skimage.metrics import structural_similarity

    pairs = zip(
        result.mean.clamp(0, 1).double().numpy(), result.truth.double().numpy(), strict=True
    )
    settings = {
        "data_range": 1.0,
        "channel_axis": 0,
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
    }
    scores = [structural_similarity(a, b, **settings) for a, b in pairs]
    return float(sum(scores) / len(scores))


def rmse(result: Result) -> float | None:
    """Root mean square error of the posterior mean, physical units."""
    return (
        None if result.truth is None else float((result.mean - result.truth).square().mean().sqrt())
    )


def misfit(result: Result) -> float | None:
    """Residual chi-square per measurement, |y - A x|^2 / (m sigma_y^2), mean over images and samples; 1 is what noise leaves."""
    value = float(result.misfit.mean())
    return value if value == value else None


def ms_ssim(result: Result) -> float | None:
    """Multi-scale structural similarity of the posterior mean, five scales, mean over the images; torchmetrics' implementation.

    Source: Wang, Simoncelli, Bovik, Multiscale Structural Similarity for Image Quality Assessment, Asilomar 2003. None up to 160 pixels a side.
    """
    if result.truth is None or not is_picture(result.truth) or min(result.truth.shape[-2:]) <= 160:
        return None
    score = import_beside_torchvision(
        "torchmetrics.functional.image"
    ).multiscale_structural_similarity_index_measure
    return float(
        score(result.mean.clamp(0, 1).float(), result.truth.clamp(0, 1).float(), data_range=1.0)
    )


def haarpsi(result: Result) -> float | None:
    """Haar wavelet perceptual similarity of the posterior mean in [0, 1], constants for natural images; deepinv's implementation.

    Source: Reisenhofer et al., A Haar Wavelet-Based Perceptual Similarity Index, Signal Processing: Image Communication 2018.
    None below 16 pixels a side.
    """
    if result.truth is None or not is_picture(result.truth) or min(result.truth.shape[-2:]) < 16:
        return None
    score = deepinv("loss.metric").HaarPSI(C=30.0, alpha=4.2)
    return float(score(result.mean.clamp(0, 1).float(), result.truth.clamp(0, 1).float()).mean())


def area_weighted_rmse(result: Result) -> float | None:
    """Root mean square error of the posterior mean on the sphere, rows weighted by the cosine of latitude, physical units.

    The latitudes are those of the result's grid, where its provenance names them; otherwise the rows of a (channels, height, width)
    field are taken as equal bands of latitude from pole to pole, their centres inside.
    """
    if result.truth is None or result.truth.ndim != 4:
        return None
    rows = result.truth.shape[-2]
    bands = 180 * ((torch.arange(rows, dtype=torch.float64) + 0.5) / rows - 0.5)
    weight = (
        torch.as_tensor(
            result.provenance.get("grid", {}).get("latitudes", bands), dtype=torch.float64
        )
        .deg2rad()
        .cos()
    )
    error = (result.mean - result.truth).double().square().mean((0, 1, 3))
    return float((error * weight).sum().div(weight.sum()).sqrt())


def crps(result: Result) -> float | None:
    """Fair continuous ranked probability score (`scores.fair_crps`), mean over the images, physical units."""
    return _of_samples(scores.fair_crps, result)


def energy_score(result: Result) -> float | None:
    """Fair energy score (`scores.energy_score`), mean over the images, physical units."""
    return _of_samples(scores.energy_score, result)


def coverage(result: Result) -> float | None:
    """Fraction of the truth inside the samples' central 80 % intervals; 0.8 is right. None below 9 samples, too few for such an interval."""
    return _of_samples(
        lambda samples, truth: scores.interval_coverage(samples, truth, 0.8), result, least=9
    )


def spread_skill(result: Result) -> float | None:
    """sqrt((m + 1) / m) times the samples' spread over the error of their mean, root mean squares over all entries; 1 is right.

    Source: Fortin et al., Why Should Ensemble Spread Match the RMSE of the Ensemble Mean?, J. Hydrometeorology 2014.
    """
    if result.truth is None or (m := result.samples.shape[1]) < 2:
        return None
    spread = result.std.double().square().mean().sqrt()
    return float(
        ((m + 1) / m) ** 0.5 * spread / (result.mean - result.truth).double().square().mean().sqrt()
    )


def _of_samples(
    score: Callable[[Tensor, Tensor], Tensor], result: Result, least: int = 2
) -> float | None:
    """Mean over the images, of a weighted ensemble by as many draws from it; None without a truth, or for too few samples."""
    if result.truth is None or result.samples.shape[1] < least:
        return None
    samples = result.samples if result.log_weights is None else result.draw(result.samples.shape[1])
    return float(score(samples, result.truth).mean())


def _intensities(truth: Tensor) -> bool:
    """Whether these are (images, channels, height, width) of the size of intensities in [0, 1], and not kelvins."""
    return truth.ndim == 4 and bool(truth.abs().max() < 10)


def is_picture(truth: Tensor) -> bool:
    """Whether these are intensities in colour or grey: (images, 1 or 3, height, width)."""
    return _intensities(truth) and truth.shape[1] in (1, 3)


METRICS: dict[str, Callable[[Result], float | None]] = {
    "psnr": psnr,
    "ssim": ssim,
    "ms-ssim": ms_ssim,
    "haarpsi": haarpsi,
    "rmse": rmse,
    "area-rmse": area_weighted_rmse,
    "misfit": misfit,
    "crps": crps,
    "energy-score": energy_score,
    "coverage": coverage,
    "spread-skill": spread_skill,
}

HEAVY = {"ms-ssim", "haarpsi", "lpips", "dists"}
"""Those whose packages take seconds to import: computed where a suite asks for them, not by `inverse solve`."""
