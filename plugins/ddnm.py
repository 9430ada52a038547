"""DDNM and DDNM+: the range of A from the measurement, its null space from the prior.

Wang, Yu, Zhang, Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model, ICLR 2023,
https://arxiv.org/abs/2212.00490 (algorithm 1; DDNM+: eq. 17-19), in the VE coordinate
x / sqrt(alpha_bar).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import inverse
from inverse.errors import OptionError
from inverse.sampling.schedules import transitions


@dataclass(frozen=True)
class DDNM(inverse.Method):
    """Replace the range part of x0_hat by A^+ y, then take an ancestral step.

    The method is meant for sigma_y = 0: it copies the noise of y into the samples. Departure: no
    time travel, which the paper does not use for linear tasks either.

    Args:
        steps: steps of the VP schedule; the paper's 100.
        eta: fraction of fresh noise, from 1 (ancestral, the paper's algorithm) to 0 (DDIM's step
            with the corrected x0).
    """

    name = "ddnm"
    reference = (
        "Wang, Yu, Zhang, Zero-Shot Image Restoration Using Denoising Diffusion Null-Space "
        "Model, ICLR 2023, https://arxiv.org/abs/2212.00490"
    )
    equation = (
        "x0 = x0_hat + A^+ (y - A x0_hat);  x' = a x0 + (1 - a) x + c z,  "
        "c = eta t sqrt(1 - t^2/s^2),  a = 1 - sqrt(t^2 - c^2)/s"
    )
    claim = "none"  # on noisy measurements
    needs: ClassVar[tuple[str, ...]] = ("linear",)

    steps: int = 100
    eta: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.eta <= 1:
            raise OptionError(f"{self.name}: eta must lie in [0, 1], got {self.eta:g}")

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        sigmas = inverse.noise_levels(posterior, "vp", self.steps)
        x = sigmas[0] * inverse.standard_normal(posterior, generator)
        for sigma, s, t in transitions(sigmas):
            x0_hat = posterior.denoise(x, sigma)
            correction = posterior.A_dagger(posterior.residual(x0_hat))
            c = self.eta * t * (1 - (t / s) ** 2) ** 0.5
            a = 1 - (t * t - c * c) ** 0.5 / s
            mean = x + a * (x0_hat - x)
            z = generator.randn_like(x) if c > 0 else torch.zeros_like(x)
            yield (x := self._step(posterior, mean, a, correction, c, z))

    def _step(self, posterior, mean, a, correction, c, z):
        return mean + a * correction + c * z


@dataclass(frozen=True)
class DDNMPlus(DDNM):
    """Weaken the correction and the fresh noise of DDNM where y is noisier than the step.

    In the singular basis, with c the noise of the step: Lambda = min(1, c s_i / (a sigma_y)), and
    the fresh variance is c^2 - (a Lambda sigma_y / s_i)^2, so that the total variance is c^2.

    Args:
        steps: steps of the VP schedule; the paper's 100.
        eta: fraction of fresh noise, from 1 (ancestral) to 0, where y has no influence.
    """

    name = "ddnm-plus"
    equation = (
        "x0 = x0_hat + Lambda A^+ (y - A x0_hat);  "
        "x' = a x0 + (1 - a) x + noise, of variance c^2 in all"
    )
    needs = ("decomposable", "gaussian", "white")

    def _step(self, posterior, mean, a, correction, c, z):
        def weight(lam):
            return torch.where(
                lam > 0, (c * lam.sqrt() / (a * posterior.sigma_y)).clamp(max=1.0), 1.0
            )

        def fresh(lam):
            copied = torch.where(lam > 0, a * weight(lam) * posterior.sigma_y / lam.sqrt(), 0.0)
            return (c * c - copied**2).clamp_min(0).sqrt()

        if posterior.noise.noiseless:
            return super()._step(posterior, mean, a, correction, c, z)
        return mean + posterior.filter(a * correction, weight, (z, fresh))


@inverse.hookimpl
def inverse_methods():
    return [DDNM, DDNMPlus]
