"""The norm of the residual |y - A x0|, which DPS and LGD descend, and the step along it."""

from __future__ import annotations

from torch import Tensor

import inverse
from inverse.rows import row_dot

UNITS = (
    "its step zeta |grad| / |y - A x| is a length in the units of the paper, "
    "images and measurements in [-1, 1]"
)
"""Why the methods depend on the units of y."""


def residual_norm(posterior: inverse.Posterior, x0: Tensor) -> tuple[Tensor, Tensor]:
    """|y - A x0| in model units (B,), and A^T (y - A x0), which divided by it is its descent.

    x0 (B, *shape) -> (B,), (B, *shape).
    """
    e = posterior.residual(x0)
    norm = row_dot(e, e).sqrt().clamp_min(1e-12) * posterior.prior.scale
    return norm, posterior.A_vjp(x0, e)


def default_step(posterior: inverse.Posterior, steps: int) -> float:
    """5 sqrt(m) / (|A| steps) for m measurements; `DPS` says why.

    Raises: OperatorError if A maps every image to zero.
    """
    gain = posterior.norm / posterior.prior.scale
    return 5 * posterior.y[0].numel() ** 0.5 / (gain * steps)


def paper_length(s: Tensor, t: Tensor) -> Tensor:
    """What turns a step of the paper, from level s to t, into the VE coordinate."""
    return ((1 + s * s) * (1 + t * t)) ** 0.5
