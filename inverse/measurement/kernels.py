"""The kernels of a lens: out of focus, and Gaussian."""

from __future__ import annotations

import torch
from torch import Tensor


def disk_kernel(radius: float, reach: int) -> Tensor:
    """Defocus: a disk, antialiased by a one-pixel ramp at its edge; (2 reach + 1) squared, not normalised."""
    t = torch.arange(-reach, reach + 1, dtype=torch.float32)
    return (radius + 0.5 - torch.hypot(t[:, None], t[None, :])).clamp(0, 1)


def gaussian_kernel(width: float, reach: int) -> Tensor:
    """A Gaussian of standard deviation `width`; (2 reach + 1) squared, not normalised."""
    g = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float32) / width) ** 2)
    return torch.outer(g, g)
