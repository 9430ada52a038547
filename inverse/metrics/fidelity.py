"""Similarity and error of the posterior mean against the truth; None without a truth."""

from __future__ import annotations

import torch
from torch import Tensor

from inverse.measurement.deepinv_import import deepinv, quietly_imported
from inverse.result import Result


def psnr(result: Result) -> float | None:
    """Peak signal-to-noise ratio of the posterior mean (dB), peak 1, mean over the images.

    The mean is clipped to [0, 1]. None for fields in units other than intensity.
    """
    if result.truth is None or not has_intensities(result.truth):
        return None
    error = (result.mean.clamp(0, 1) - result.truth).square().flatten(1).mean(1)
    return float((-10 * torch.log10(error)).mean())


def ssim(result: Result) -> float | None:
    """Structural similarity of the posterior mean, Gaussian window of 1.5 pixels, mean over images.

    None below 11 pixels a side, and for fields in units other than intensity.

    Source: Wang et al., Image Quality Assessment, IEEE TIP 2004, as in scikit-image.
    """
    truth = result.truth
    if truth is None or not has_intensities(truth) or min(truth.shape[-2:]) < 11:
        return None
    from skimage.metrics import structural_similarity

    settings = {
        "data_range": 1.0,
        "channel_axis": 0,
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
    }
    means, truths = result.mean.clamp(0, 1).double().numpy(), truth.double().numpy()
    pairs = zip(means, truths, strict=True)
    scores = [structural_similarity(mean, image, **settings) for mean, image in pairs]
    return float(sum(scores) / len(scores))


def ms_ssim(result: Result) -> float | None:
    """Multi-scale structural similarity of the posterior mean, five scales, mean over the images.

    The implementation is torchmetrics'. None up to 160 pixels a side, and for what is no picture.

    Source: Wang, Simoncelli, Bovik, Multiscale Structural Similarity for Image Quality Assessment,
    Asilomar 2003.
    """
    truth = result.truth
    if truth is None or not is_picture(truth) or min(truth.shape[-2:]) <= 160:
        return None
    torchmetrics = quietly_imported("torchmetrics.functional.image")
    similarity = torchmetrics.multiscale_structural_similarity_index_measure
    mean, truth = result.mean.clamp(0, 1).float(), truth.clamp(0, 1).float()
    return float(similarity(mean, truth, data_range=1.0))


def haarpsi(result: Result) -> float | None:
    """Haar wavelet perceptual similarity of the posterior mean, mean over the images.

    The implementation is deepinv's, with the constants for natural images in [0, 1]. None below
    16 pixels a side, and for what is no picture.

    Source: Reisenhofer et al., A Haar Wavelet-Based Perceptual Similarity Index, Signal Processing:
    Image Communication 2018.
    """
    truth = result.truth
    if truth is None or not is_picture(truth) or min(truth.shape[-2:]) < 16:
        return None
    similarity = deepinv("loss.metric").HaarPSI(C=30.0, alpha=4.2)
    return float(similarity(result.mean.clamp(0, 1).float(), truth.clamp(0, 1).float()).mean())


def rmse(result: Result) -> float | None:
    """Root mean square error of the posterior mean, physical units."""
    if result.truth is None:
        return None
    return float((result.mean - result.truth).square().mean().sqrt())


def area_weighted_rmse(result: Result) -> float | None:
    """Root mean square error of the posterior mean on the sphere, physical units.

    Rows are weighted by the cosine of their latitude: of the result's grid, if its provenance has
    one; otherwise the rows of a (channels, height, width) field are bands of equal width from pole
    to pole, each at the latitude of its centre. None for tensors of other ranks.
    """
    if result.truth is None or result.truth.ndim != 4:
        return None
    rows = result.truth.shape[-2]
    bands = 180 * ((torch.arange(rows, dtype=torch.float64) + 0.5) / rows - 0.5)
    latitudes = result.provenance.get("grid", {}).get("latitudes", bands)
    weight = torch.as_tensor(latitudes, dtype=torch.float64).deg2rad().cos()
    error = (result.mean - result.truth).double().square().mean((0, 1, 3))
    return float((error * weight).sum().div(weight.sum()).sqrt())


def has_intensities(truth: Tensor) -> bool:
    """Whether images (images, channels, height, width) have values of the size of intensities.

    Intensities lie in [0, 1]; temperatures in kelvin do not.
    """
    return truth.ndim == 4 and bool(truth.abs().max() < 10)


def is_picture(truth: Tensor) -> bool:
    """Whether these are intensities in colour or grey: (images, 1 or 3, height, width)."""
    return has_intensities(truth) and truth.shape[1] in (1, 3)
