"""Scores of a result against the truth or the measurement; None where a score does not apply."""

from __future__ import annotations

from collections.abc import Callable

import torch

from inverse.result import Result


def psnr(result: Result) -> float | None:
    """Peak signal-to-noise ratio of the posterior mean (dB), peak 1, mean over the images; the estimate is clipped to [0, 1]."""
    if result.truth is None or result.truth.ndim != 4:
        return None
    error = (result.mean.clamp(0, 1) - result.truth).square().flatten(1).mean(1)
    return float((-10 * torch.log10(error)).mean())


def ssim(result: Result) -> float | None:
    """Structural similarity of the posterior mean, Gaussian window of 1.5 pixels, mean over the images.

    Source: Wang et al., Image Quality Assessment, IEEE TIP 2004, as in scikit-image. None below 11 pixels a side.
    """
    if result.truth is None or result.truth.ndim != 4 or min(result.truth.shape[-2:]) < 11:
        return None
    from skimage.metrics import structural_similarity

    pairs = zip(result.mean.clamp(0, 1).double().numpy(), result.truth.double().numpy(), strict=True)
    settings = {"data_range": 1.0, "channel_axis": 0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    scores = [structural_similarity(a, b, **settings) for a, b in pairs]
    return float(sum(scores) / len(scores))


def rmse(result: Result) -> float | None:
    """Root mean square error of the posterior mean, physical units."""
    return None if result.truth is None else float((result.mean - result.truth).square().mean().sqrt())


def misfit(result: Result) -> float | None:
    """Residual chi-square per measurement, |y - A x|^2 / (m sigma_y^2), mean over images and samples; 1 is what noise leaves."""
    value = float(result.misfit.mean())
    return value if value == value else None


METRICS: dict[str, Callable[[Result], float | None]] = {"psnr": psnr, "ssim": ssim, "rmse": rmse, "misfit": misfit}
