"""Blur kernels of a lens: defocus and Gaussian."""

from __future__ import annotations

import torch
from torch import Tensor


def disk_kernel(radius: float, reach: int) -> Tensor:
    """Defocus: a disk with a one-pixel ramp at its edge, sum not 1; (2 reach + 1, 2 reach + 1).

    Args:
        radius: of the disk (pixels).
        reach: largest distance from the centre along a side (pixels).
    """
    t = torch.arange(-reach, reach + 1, dtype=torch.float32)
    return (radius + 0.5 - torch.hypot(t[:, None], t[None, :])).clamp(0, 1)


def gaussian_kernel(width: float, reach: int) -> Tensor:
    """A Gaussian, sum not 1; (2 reach + 1, 2 reach + 1).

    Args:
        width: standard deviation (pixels).
        reach: largest distance from the centre along a side (pixels).
    """
    g = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float32) / width) ** 2)
    return torch.outer(g, g)
