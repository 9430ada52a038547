"""DiffPIR: plug-and-play restoration with a diffusion denoiser.

Zhu, Zhang, Liang, Cao, Wen, Timofte, Van Gool, Denoising Diffusion Models for Plug-and-Play Image
Restoration, CVPRW 2023, https://arxiv.org/abs/2305.08995 (algorithm 1), in the VE coordinate
x / sqrt(alpha_bar).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

import inverse
from inverse.sampling.schedules import transitions


@dataclass(frozen=True)
class DiffPIR(inverse.Method):
    """Denoise, solve the proximal data problem exactly, and add the noise of the next level.

    With rho_t = lambda sigma_y^2 / sigma_t^2, the solution of the paper's proximal problem |y - A
    x|^2 + rho_t |x - x0_hat|^2 is the mean of a Gaussian of variance sigma_t^2 / lambda around
    x0_hat, given y.

    The defaults are the authors' for inpainting; docs/methods.md has the calibration.

    Args:
        steps: steps of the VP schedule.
        lambda_: inverse prior variance in units of 1 / sigma_t^2.
        zeta: fraction of fresh noise in [0, 1]; the rest is the predicted noise.
    """

    name = "diffpir"
    reference = (
        "Zhu, Zhang, Liang, Cao, Wen, Timofte, Van Gool, Denoising Diffusion Models for "
        "Plug-and-Play Image Restoration, CVPRW 2023, https://arxiv.org/abs/2305.08995"
    )
    equation = (
        "x0 = prox_{-log p(y|.)}(x0_hat; sigma^2 / lambda);  "
        "x' = x0 + t (sqrt(1 - zeta) eps_hat + sqrt(zeta) z)"
    )
    claim = "biased"
    bias = inverse.Method.bias | {"excess": 0.4}  # too narrow where y says little
    needs = ("linear", "gaussian")

    steps: inverse.Count = 100
    lambda_: inverse.Positive = 1.0
    zeta: inverse.Fraction = 1.0

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        sigmas = inverse.noise_levels(posterior, "vp", self.steps)
        x = sigmas[0] * inverse.standard_normal(posterior, generator)
        for sigma, s, t in transitions(sigmas):
            x0_hat = posterior.denoise(x, sigma)
            x0 = posterior.prox(x0_hat, s * s / self.lambda_)
            eps_hat = (x - x0) / s
            x = x0 + t * (1 - self.zeta) ** 0.5 * eps_hat
            if t > 0 and self.zeta > 0:
                x = x + t * self.zeta**0.5 * generator.randn_like(x)
            yield x


@inverse.hookimpl
def inverse_methods():
    return [DiffPIR]
