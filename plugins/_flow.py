"""The straight path of flow matching on any prior: x_t = t x1 + (1 - t) x0 with x0 ~ N(0, I).

x_t / t = x1 + sigma n with sigma = (1 - t) / t, so that a denoiser gives E[x1 | x_t]. Times beyond
the prior's range of noise levels, t = 0 among them, are moved to its ends.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

import inverse
from inverse.errors import OptionError


def clipped(posterior: inverse.Posterior, t: float) -> float:
    """The nearest time at which the prior's range of noise levels holds sigma = (1 - t) / t."""
    first, last = 1 / (1 + posterior.prior.sigma_max), 1 / (1 + posterior.prior.sigma_min)
    return min(max(t, first), last)


def destination(posterior: inverse.Posterior, x: Tensor, t: float) -> Tensor:
    """E[x1 | x_t = x]: x (B, *shape) -> (B, *shape)."""
    t = clipped(posterior, t)
    return posterior.denoise(x / t, (1 - t) / t)


def destination_with_vjp(
    posterior: inverse.Posterior, x: Tensor, t: float
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """E[x1 | x_t = x], and v -> J^T v with its Jacobian J in x."""
    t = clipped(posterior, t)
    x1, vjp = posterior.tweedie(x / t, (1 - t) / t)
    return x1, lambda v: vjp(v) / t


def check_time(name: str, option: str, t: float) -> None:
    """Raises: OptionError for a time outside [0, 1)."""
    if not 0 <= t < 1:
        raise OptionError(f"{name}: {option} must be in [0, 1), got {t:g}")
