"""PiGDM: pseudo-inverse guidance with Gaussian noise.

Song, Vahdat, Mardani, Kautz, Pseudoinverse-Guided Diffusion Models for Inverse Problems, ICLR 2023,
https://openreview.net/forum?id=9_gsMA8MRKQ (eq. 7 and algorithm 1), in the VE coordinate
x / sqrt(alpha_bar).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

import inverse


@dataclass(frozen=True)
class PiGDM(inverse.Guidance):
    """Take x0 given x to be N(x0_hat, r^2 I), and condition on y.

    r^2 = sigma^2 sigma_data^2 / (sigma^2 + sigma_data^2). sigma_data = 1 is the paper's r^2 =
    sigma^2 / (1 + sigma^2), exact for white data of unit variance. Departure: the score of eq. 7
    enters the denoiser, so that the sampler applies it consistently; the paper's algorithm 1 adds
    sqrt(alpha_bar) r^2 times it after a DDIM step.

    Args:
        steps: sampler steps; the paper's 100.
        sampler: name of a registered sampler; ancestral is the paper's eta = 1.
        schedule: name of a noise schedule; vp is the paper's.
        sigma_data: standard deviation of the data, model units.
    """

    name = "pigdm"
    reference = (
        "Song, Vahdat, Mardani, Kautz, Pseudoinverse-Guided Diffusion Models for Inverse "
        "Problems, ICLR 2023, https://openreview.net/forum?id=9_gsMA8MRKQ"
    )
    equation = (
        "E[x0|x,y] = x0_hat + sigma^2 J^T A^T (r^2 A A^T + R)^-1 (y - A x0_hat),  "
        "r^2 = sigma^2 / (1 + sigma^2)"
    )
    claim = "biased"
    needs = ("linear", "gaussian")

    sampler: str = "ancestral"
    schedule: str = "vp"
    sigma_data: inverse.Positive = 1.0

    def denoise(self, posterior: inverse.Posterior, x: Tensor, sigma: Tensor) -> Tensor:
        x0_hat, vjp = posterior.tweedie(x, sigma)
        r2 = sigma**2 * self.sigma_data**2 / (sigma**2 + self.sigma_data**2)
        v = posterior.solve_normal(posterior.residual(x0_hat), r2)
        return x0_hat + sigma**2 * vjp(posterior.A_adjoint(v))


@inverse.hookimpl
def inverse_methods():
    return [PiGDM]
