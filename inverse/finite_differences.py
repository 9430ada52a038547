"""Forward differences of images and their negative adjoint, with no flux through the edges."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def gradient(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, 2, C, H, W): differences down and to the right, zero at the last row and column."""
    down = F.pad(x[..., 1:, :] - x[..., :-1, :], (0, 0, 0, 1))
    right = F.pad(x[..., :, 1:] - x[..., :, :-1], (0, 1))
    return torch.stack([down, right], dim=1)


def divergence(p: Tensor) -> Tensor:
    """Minus the adjoint of `gradient`: (B, 2, C, H, W) -> (B, C, H, W)."""
    down, right = p[:, 0, ..., :-1, :], p[:, 1, ..., :, :-1]
    return F.pad(down, (0, 0, 0, 1)) - F.pad(down, (0, 0, 1, 0)) + F.pad(right, (0, 1)) - F.pad(right, (1, 0))
