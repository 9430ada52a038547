"""Forward differences of images, their negative adjoint, and least squares with a smoothness term.

No flux passes through the edges.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from inverse.execution import CG
from inverse.measurement.linalg import conjugate_gradient
from inverse.measurement.solves import LinearSolves


def gradient(x: Tensor) -> Tensor:
    """Differences down and to the right, zero at the last row and column.

    x (B, C, H, W) -> (B, 2, C, H, W), per pixel.
    """
    down = F.pad(x[..., 1:, :] - x[..., :-1, :], (0, 0, 0, 1))
    right = F.pad(x[..., :, 1:] - x[..., :, :-1], (0, 1))
    return torch.stack([down, right], dim=1)


def divergence(p: Tensor) -> Tensor:
    """Minus the adjoint of `gradient`: (B, 2, C, H, W) -> (B, C, H, W)."""
    down, right = p[:, 0, ..., :-1, :], p[:, 1, ..., :, :-1]
    return (
        F.pad(down, (0, 0, 0, 1))
        - F.pad(down, (0, 0, 1, 0))
        + F.pad(right, (0, 1))
        - F.pad(right, (1, 0))
    )


def smooth_least_squares(posterior: LinearSolves, weight: float, settings: CG) -> Tensor:
    """argmin |y - A x|^2 + weight |grad x|^2 for a linear A, by conjugate gradients: (B, *shape).

    Args:
        posterior: its operator must be linear; x is in model units.
        weight: of the smoothness term, units of y squared.
        settings: of the iteration, which starts at the pseudo-inverse.
    """
    start = posterior.pseudo_inverse()
    offset = posterior.A(torch.zeros_like(start))
    right = posterior.A_adjoint(posterior.y - offset)
    return conjugate_gradient(
        lambda v: posterior.A_adjoint(posterior.A(v) - offset) - weight * divergence(gradient(v)),
        right,
        start,
        settings,
    )
