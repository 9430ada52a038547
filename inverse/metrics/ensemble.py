"""Scores of an ensemble against a truth, unbiased in the size of the ensemble.

Tensors are samples (images, m, *shape) and truth (images, *shape). Every function returns one
number per image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inverse.errors import InputError


def fair_crps(samples: Tensor, truth: Tensor) -> Tensor:
    """Fair CRPS: mean_j |x_j - x*| - sum_jk |x_j - x_k| / (2 m (m - 1)), averaged over entries.

    Returns (images,) in units of x; smaller is better. Unbiased: for every m, the expectation is
    the CRPS of the distribution that the samples are drawn from.

    Source: Ferro, Fair scores for ensemble forecasts, QJRMS 2014.
    """
    x, m = as_members(samples, truth), samples.shape[1]
    error = (x[:, 1:] - x[:, :1]).abs().mean(1)
    weight = 2 * torch.arange(m, dtype=x.dtype, device=x.device) - (m - 1)
    spread = (weight[:, None] * x[:, 1:].sort(1).values).sum(1) / (m * (m - 1))
    return (error - spread).mean(1)


def energy_score(samples: Tensor, truth: Tensor) -> Tensor:
    """mean_j |x_j - x*| - sum_jk |x_j - x_k| / (2 m (m - 1)) with Euclidean norms.

    Returns (images,) in units of x; smaller is better.

    Source: Gneiting, Raftery, Strictly proper scoring rules, JASA 2007, in its unbiased form.
    """
    m = samples.shape[1]
    distance = distances(as_members(samples, truth))
    return distance[:, 0].sum(1) / m - distance[:, 1:, 1:].sum((1, 2)) / (2 * m * (m - 1))


def interval_coverage(samples: Tensor, truth: Tensor, level: float) -> Tensor:
    """Fraction of the entries of x* within the central interval of their m samples: (images,).

    The limits are the order statistics at p (m + 1), p = (1 -+ level) / 2, interpolated (type 6 of
    Hyndman and Fan). With them the expectation is `level` for uniform samples at every m; the
    interval between plain quantiles of the samples is too narrow.

    Raises: InputError if m is less than 2 / (1 - level) - 1, too few for such an interval.
    """
    x, m = as_members(samples, truth), samples.shape[1]
    position = (1 - level) / 2 * (m + 1)
    if not 0 < level < 1 or position < 1 - 1e-9:
        raise InputError(
            f"coverage: an interval at level {level:g} needs a level within (0, 1) and at least "
            f"{2 / (1 - level) - 1:.0f} samples, got {m}"
        )
    ordered = x[:, 1:].sort(1).values
    k = min(int(position + 1e-9), m - 1)
    low = torch.lerp(ordered[:, k - 1], ordered[:, k], position - k)
    high = torch.lerp(ordered[:, m - k], ordered[:, m - 1 - k], position - k)
    return ((low <= x[:, 0]) & (x[:, 0] <= high)).to(x.dtype).mean(1)


def as_members(samples: Tensor, truth: Tensor) -> Tensor:
    """The truth as member 0 and the samples as members 1 to m, in float64: (images, m + 1, n).

    Raises: InputError if the shapes do not fit, or for fewer than 2 samples.
    """
    if samples.shape[:1] + samples.shape[2:] != truth.shape:
        raise InputError(
            f"diagnostics: samples {tuple(samples.shape)} do not fit truths "
            f"{tuple(truth.shape)}; want (images, m, *shape) and (images, *shape)"
        )
    if samples.shape[1] < 2:
        raise InputError(
            f"diagnostics: each posterior needs at least 2 samples, got {samples.shape[1]}"
        )
    return torch.cat([truth[:, None], samples], 1).flatten(2).double()


def distances(x: Tensor) -> Tensor:
    """|x_j - x_k| of all pairs of members: (images, M, n) -> (images, M, M)."""
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
