"""The residual chi-square: how well samples explain the measurement, known without a truth."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from inverse.result import Result


def misfit(result: Result) -> float | None:
    """Residual chi-square per measurement, |y - A x|^2 / (m sigma_y^2), mean over all samples.

    Near 1 for draws from the posterior; None where the noise is not Gaussian or sigma_y is 0.
    """
    value = float(result.misfit.mean())
    return None if math.isnan(value) else value


def neighbour_correlation(residual: Tensor, observed: Tensor | None = None) -> Tensor:
    """Correlation of a residual y - A x with itself one pixel to the right and one below.

    About 0 for white noise, with a standard deviation of 1 / sqrt(2 C H W); positive where the
    operator leaves structure that noise does not have.

    Args:
        residual: (B, C, H, W).
        observed: boolean, broadcasts to (C, H, W); other pixels are left out.

    Returns: (B,); NaN for a residual of zero.
    """
    r = residual.double()
    seen = torch.ones_like(r) if observed is None else observed.to(r).expand_as(r)
    r, power = r * seen, (r * seen).square().flatten(1).sum(1) / seen.flatten(1).sum(1)
    pairs = [(slice(1, None), slice(None)), (slice(None), slice(1, None))]
    products, count = torch.zeros_like(power), torch.zeros_like(power)
    for down, right in pairs:
        back = tuple(slice(None, -1) if s.start else s for s in (down, right))
        products += (r[..., down, right] * r[..., back[0], back[1]]).flatten(1).sum(1)
        count += (seen[..., down, right] * seen[..., back[0], back[1]]).flatten(1).sum(1)
    return products / count / power
