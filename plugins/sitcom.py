"""SITCOM: step-wise triple-consistent sampling.

Alkhouri, Liang, Huang, Dai, Qu, Ravishankar, Wang, SITCOM: Step-wise Triple-Consistent Diffusion
Sampling for Inverse Problems, ICML 2025, https://arxiv.org/abs/2410.04479 (algorithm 1), in the VE
coordinate x / sqrt(alpha_bar).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

import inverse
from inverse.rows import per_row, row_dot
from inverse.sampling.schedules import transitions


@dataclass(frozen=True)
class SITCOM(inverse.Method):
    """Find a v near x whose denoised image explains y, by Adam; add the next level's noise.

    Each row stops when its residual is below stop sigma_y sqrt(m). The units are the paper's: Adam
    moves u = v / sqrt(1 + s^2), and the residual is in model units.

    Args:
        steps: steps of the VP schedule; the paper's 20.
        inner_steps: largest number of Adam steps at a level; the paper's 20 to 30.
        lr: Adam's step in u; the paper's 0.01.
        lambda_: weight of |u - u_x|^2; the paper's 0 for most tasks.
        stop: residual per measurement at which a row stops, in units of sigma_y.
    """

    name = "sitcom"
    reference = (
        "Alkhouri, Liang, Huang, Dai, Qu, Ravishankar, Wang, SITCOM: Step-wise "
        "Triple-Consistent Diffusion Sampling for Inverse Problems, ICML 2025, "
        "https://arxiv.org/abs/2410.04479"
    )
    equation = (
        "v = argmin |y - A x0_hat(v)|^2 + lambda |v - x|^2 / (1 + s^2);  x' = x0_hat(v) + t z"
    )
    claim = "biased"
    bias = inverse.Method.bias | {"excess": 2.0}  # fits y to sigma_y, however little it says
    needs = ("gaussian",)

    steps: inverse.Count = 20
    inner_steps: inverse.Count = 20
    lr: inverse.Positive = 0.01
    lambda_: inverse.NonNegative = 0.0
    stop: inverse.NonNegative = 1.0

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        sigmas = inverse.noise_levels(posterior, "vp", self.steps)
        x = sigmas[0] * inverse.standard_normal(posterior, generator)
        for sigma, _, t in transitions(sigmas):
            x0 = posterior.denoise(self._consistent(posterior, x, sigma), sigma)
            yield (x := x0 + t * generator.randn_like(x) if t > 0 else x0)

    def _consistent(self, posterior, x, s):
        """The input v near x whose denoised image explains y."""
        unit = (1 + s * s).sqrt()
        v, first, second = x, torch.zeros_like(x), torch.zeros_like(x)
        moving = torch.ones(len(x), dtype=torch.bool, device=x.device)
        for k in range(1, self.inner_steps + 1):
            x0_hat, vjp = posterior.tweedie(v, s)
            r = posterior.residual(x0_hat)
            moving = moving & self._unexplained(posterior, r)
            if not bool(moving.any()):
                break
            misfit = vjp(posterior.A_vjp(x0_hat, r)) * (unit / posterior.prior.scale**2)
            g = 2 * (self.lambda_ * (v - x) / unit - misfit)
            first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
            step = first / (1 - 0.9**k) / ((second / (1 - 0.999**k)).sqrt() + 1e-8)
            v = torch.where(per_row(moving, x), v - self.lr * unit * step, v)
        return v

    def _unexplained(self, posterior, r):
        if posterior.noise.noiseless:
            return row_dot(r, r) > 0
        return posterior.noise.chi_square(posterior.y, posterior.y - r) > self.stop**2


@inverse.hookimpl
def inverse_methods():
    return [SITCOM]
