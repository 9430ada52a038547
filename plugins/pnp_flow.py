"""PnP-Flow: plug-and-play restoration with a flow-matching prior.

Martin, Gagneux, Hagemann, Steidl, PnP-Flow: Plug-and-Play Image Restoration with Flow Matching,
ICLR 2025, https://arxiv.org/abs/2410.02423 (algorithm 3).

    t_n = n / N, gamma_n the step on the data fidelity, D_t(x) = E[x1 | x_t = x]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

import inverse
from inverse_plugins._flow import destination


@dataclass(frozen=True)
class PnPFlow(inverse.Method):
    """Step on the data fidelity, interpolate with noise to time t, denoise; t rises from 0 to 1.

    gamma_n = lr (1 - t_n)^alpha, in units of sigma_y^2 / |A|^2. For a Gaussian prior the result is
    Gaussian. For alpha < 2 it tends, as steps grow, to the posterior of a measurement without
    noise, with 1 / (2 draws) of its covariance: the method meets y, noise included.

    Departure: the step is divided by |A|^2, which is 1 for the paper's operators.

    Args:
        steps: N, times in [0, 1).
        draws: interpolations whose denoised images are averaged; one prior evaluation each.
        alpha: decay of the step; the paper's is 0.8 for denoising, 0.3 for super-resolution, 0.5
            for box inpainting, 0.01 for deblurring and random inpainting.
        lr: first step.
    """

    name = "pnp-flow"
    reference = (
        "Martin, Gagneux, Hagemann, Steidl, PnP-Flow: Plug-and-Play Image Restoration with Flow "
        "Matching, ICLR 2025, https://arxiv.org/abs/2410.02423"
    )
    equation = (
        "z = x + gamma_t A^T (y - A x);  x' = E_n[ D_t(t z + (1 - t) n) ],  "
        "gamma_t = lr (1 - t)^alpha / |A|^2"
    )
    claim = "point estimate"
    bias = inverse.Method.bias | {"excess": 15.0}  # follows weak data, however large sigma_y
    needs = ("gaussian", "white")

    steps: inverse.Count = 100
    draws: inverse.Count = 5
    alpha: Annotated[float, inverse.Range(0, 1e3)] = 0.5
    lr: inverse.Positive = 1.0

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        x = torch.zeros(
            len(posterior), *posterior.shape, dtype=posterior.dtype, device=posterior.device
        )
        norm = posterior.norm**2
        for n in range(self.steps):
            t = n / self.steps
            gamma = self.lr * (1 - t) ** self.alpha / norm
            z = x + gamma * posterior.A_vjp(x, posterior.residual(x))
            x = torch.zeros_like(x)
            for _ in range(self.draws):
                z_tilde = t * z + (1 - t) * generator.randn_like(z)
                x = x + destination(posterior, z_tilde, t) / self.draws
            yield x


@inverse.hookimpl
def inverse_methods():
    return [PnPFlow]
