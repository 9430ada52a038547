"""TMPD: Tweedie moment projected diffusions.

Boys, Girolami, Pidstrigach, Reich, Mosca, Akyildiz, Tweedie Moment Projected Diffusions for
Inverse Problems, TMLR 2024, https://arxiv.org/abs/2310.06721 (the approximation of the covariance
by its row sums).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import inverse


@dataclass(frozen=True)
class TMPD(inverse.Guidance):
    """Take x0 given x to be N(x0_hat, diag(d)), d the row sums of sigma^2 J; condition on y.

    A step takes two VJPs. Departures: d is that of the image (the authors' code takes row sums of
    A V A^T, which can be negative for an A with signs) and is cut off at 0, since the row sums of a
    network's Jacobian need not be variances. 400 ancestral steps instead of the paper's 1000.
    """

    name = "tmpd"
    reference = (
        "Boys, Girolami, Pidstrigach, Reich, Mosca, Akyildiz, Tweedie Moment Projected "
        "Diffusions for Inverse Problems, TMLR 2024, https://arxiv.org/abs/2310.06721"
    )
    equation = (
        "E[x0|x,y] = x0_hat + V A^T (A diag(V 1) A^T + R)^-1 (y - A x0_hat),  V = sigma^2 J^T"
    )
    claim = "biased"
    needs = ("linear", "gaussian")

    steps: inverse.Count = 400
    sampler: str = "ancestral"
    schedule: str = "vp"

    def denoise(self, posterior: inverse.Posterior, x: Tensor, sigma: Tensor) -> Tensor:
        x0_hat, vjp = posterior.tweedie(x, sigma)
        d = (sigma**2 * vjp(torch.ones_like(x))).clamp_min(0)
        v = posterior.solve_normal(posterior.residual(x0_hat), d)
        return x0_hat + sigma**2 * vjp(posterior.A_adjoint(v))


@inverse.hookimpl
def inverse_methods():
    return [TMPD]
