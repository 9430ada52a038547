"""Differences between pictures up to a shift, as a blind estimate of a kernel leaves one free."""

from __future__ import annotations

import math

import torch
from scipy.ndimage import shift as shifted
from torch import Tensor

FARTHEST = 20
"""Largest shift along a side (pixels)."""


def aligned_ssd(x: Tensor, truth: Tensor, border: int) -> float:
    """Smallest sum of squared differences over shifts of x, in the truth without its border.

    Whole pixels up to `FARTHEST` first, then quarters around the best.

    Args:
        x, truth: (C, H, W) or (H, W), of one size.
        border: pixels of the truth on each side that do not count; larger than `FARTHEST`.

    Source: the protocol of Levin et al., CVPR 2009.
    """
    x, truth = (t.double().reshape(-1, *t.shape[-2:]) for t in (x, truth))
    inner = (slice(None), slice(border, -border), slice(border, -border))
    counted, target = torch.zeros_like(truth), torch.zeros_like(truth)
    counted[inner], target[inner] = 1, truth[inner]

    def correlation(a: Tensor, b: Tensor) -> Tensor:
        return torch.fft.irfft2(
            torch.fft.rfft2(a).conj() * torch.fft.rfft2(b), s=truth.shape[-2:]
        ).sum(0)

    error = correlation(counted, x**2) - 2 * correlation(target, x)
    reach = range(-FARTHEST, FARTHEST + 1)
    _, down, right = min((float(error[i, j]), i, j) for i in reach for j in reach)
    quarters = [q / 4 for q in range(-3, 4)]
    best = math.inf
    for i in quarters:
        for j in quarters:
            moved = shifted(x.numpy(), (0, i - down, j - right), order=3, mode="nearest")
            best = min(best, float((torch.from_numpy(moved)[inner] - truth[inner]).square().sum()))
    return best


def aligned_psnr(x: Tensor, truth: Tensor, border: int = FARTHEST + 1) -> float:
    """Peak signal-to-noise ratio (dB, peak 1) after the best shift; see `aligned_ssd`."""
    inner = truth[..., border:-border, border:-border].numel()
    return 10 * math.log10(inner / aligned_ssd(x, truth, border))
