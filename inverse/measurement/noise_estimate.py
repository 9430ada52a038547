"""The noise level of a picture, from the picture alone."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDING = 1 / 255
"""Smallest noise level that is returned: one step of 8 bits (intensity)."""

BLOCKS = 64
"""Smallest number of complete blocks of 2 x 2 pixels for an estimate."""


def noise_level(y: Tensor, observed: Tensor | None = None) -> float | None:
    """Standard deviation of white noise on a picture: robust, from the diagonal Haar details.

    The details (a - b - c + d) / 2 of blocks of 2 x 2 pixels have the noise's deviation and little
    of the picture; their median absolute value / 0.6745 is hardly moved by edges. Texture of single
    pixels counts as noise.

    Args:
        y: (C, H, W), intensities.
        observed: boolean (H, W); blocks with an unobserved pixel are left out.

    Returns: at least `ROUNDING`; None for fewer than `BLOCKS` blocks.

    Source: Donoho and Johnstone, Ideal spatial adaptation by wavelet shrinkage, Biometrika 1994.
    """
    height, width = (n // 2 * 2 for n in y.shape[-2:])
    blocks = y[..., :height, :width].double().unfold(-2, 2, 2).unfold(-2, 2, 2)
    details = (blocks[..., 0, 0] - blocks[..., 0, 1] - blocks[..., 1, 0] + blocks[..., 1, 1]) / 2
    complete = torch.ones(height // 2, width // 2, dtype=torch.bool)
    if observed is not None:
        complete = observed[:height, :width].unfold(0, 2, 2).unfold(1, 2, 2).all(-1).all(-1)
    if int(complete.sum()) < BLOCKS:
        return None
    return max(ROUNDING, float(details[..., complete].abs().median()) / 0.6745)
