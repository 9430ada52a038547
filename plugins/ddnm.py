"""DDNM and DDNM+: the range of A from the measurement, its null space from the prior.

Wang, Yu, Zhang, Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model, ICLR 2023,
https://arxiv.org/abs/2212.00490 (algorithm 1; DDNM+: eq. 17-19), and the release,
https://github.com/wyhuai/DDNM, in the VE coordinate x / sqrt(alpha_bar).

    s -> t is a step, eps = (x - x0_hat) / s;    the step ends with noise of level t in all
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

import inverse
from inverse.sampling.schedules import transitions


@dataclass(frozen=True)
class DDNM(inverse.Method):
    """Replace the range part of x0_hat by A^+ y, then take a step with fresh noise.

    `rule=released` is what the authors run: fresh noise eta t, and the rest of t along eps.
    `rule=paper` is the ancestral step of algorithm 1, which weights the correction by
    a = 1 - d / s.

    The method is meant for sigma_y = 0: it copies the noise of y into the samples. Departure: no
    time travel, which the paper does not use for linear tasks either.

    Args:
        steps: steps of the VP schedule; the paper's 100.
        rule: released or paper.
        eta: fraction of fresh noise, from 1 to 0 (DDIM's step with the corrected x0); by default
            the release's 0.85, or the paper's 1.
    """

    name = "ddnm"
    reference = (
        "Wang, Yu, Zhang, Zero-Shot Image Restoration Using Denoising Diffusion Null-Space "
        "Model, ICLR 2023, https://arxiv.org/abs/2212.00490"
    )
    equation = (
        "x0 = x0_hat + A^+ (y - A x0_hat);  x' = x0 + c z + d eps,  c = eta t,  d^2 = t^2 - c^2"
    )
    claim = "none"  # on noisy measurements
    needs: ClassVar[tuple[str, ...]] = ("linear",)

    steps: inverse.Count = 100
    rule: Literal["released", "paper"] = "released"
    eta: inverse.Fraction | None = None

    def derived(self, posterior):
        return {"eta": self._eta}

    @property
    def _eta(self):
        return (0.85 if self.rule == "released" else 1.0) if self.eta is None else self.eta

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        sigmas = inverse.noise_levels(posterior, "vp", self.steps)
        x = sigmas[0] * inverse.standard_normal(posterior, generator)
        for sigma, s, t in transitions(sigmas):
            x0_hat = posterior.denoise(x, sigma)
            correction = posterior.A_dagger(posterior.residual(x0_hat))
            c = self._eta * t
            if self.rule == "paper":
                c *= (1 - (t / s) ** 2) ** 0.5
            d = (t * t - c * c) ** 0.5
            a = 1.0 if self.rule == "released" else 1 - d / s
            eps = (x - x0_hat) / s
            yield (x := x0_hat + self._step(posterior, correction, eps, generator, a, c, d))

    def _step(self, posterior, correction, eps, generator, a, c, d):
        z = generator.randn_like(eps) if c > 0 else torch.zeros_like(eps)
        return a * correction + c * z + d * eps


@dataclass(frozen=True)
class DDNMPlus(DDNM):
    """Weaken the correction and the fresh noise of DDNM where y is noisier than the step.

    In the singular basis y / s_i has noise u = sigma_y / s_i, of which the correction copies
    Lambda u. `rule=released`: where t >= u, Lambda = 1, and fresh noise fills up to t; where t < u,
    Lambda = d / u, and the fresh noise is c; eps enters only where s_i = 0. `rule=paper`:
    Lambda = min(1, c / (a u)), and the fresh variance is c^2 - (a Lambda u)^2; where s_i is small
    this amplifies what x0_hat gets wrong.

    Args:
        steps: steps of the VP schedule; the paper's 100.
        rule: released or paper.
        eta: fraction of fresh noise, from 1 to 0; by default the release's 0.85, or the paper's 1.
    """

    name = "ddnm-plus"
    equation = (
        "x0 = x0_hat + Lambda A^+ (y - A x0_hat);  x' = x0 + fresh z + d eps (where A is 0),  "
        "of variance t^2 in all"
    )
    claim = "biased"
    bias = inverse.Method.bias | {"excess": 1.0}  # too narrow where y says little
    needs = ("decomposable", "gaussian", "white")

    def _step(self, posterior, correction, eps, generator, a, c, d):
        if posterior.noise.noiseless:
            return super()._step(posterior, correction, eps, generator, a, c, d)
        weight, fresh, old = (self._paper if self.rule == "paper" else self._released)(
            posterior.sigma_y, a, c, d
        )
        drawn = c > 0 or (d > 0 and self.rule == "released")
        z = generator.randn_like(eps) if drawn else torch.zeros_like(eps)
        return posterior.filter(correction, weight, (z, fresh), (eps, old))

    @staticmethod
    def _released(sigma_y, a, c, d):
        """Lambda, fresh and d as functions of lam = s_i^2."""
        t = (c * c + d * d) ** 0.5

        def u(lam):
            return torch.where(lam > 0, sigma_y / lam.sqrt(), torch.inf)

        return (
            lambda lam: torch.where(u(lam) > t, d / u(lam), 1.0),
            lambda lam: torch.where(u(lam) > t, c, (t * t - u(lam).clamp(max=t) ** 2).sqrt()),
            lambda lam: torch.where(lam > 0, 0.0, d),
        )

    @staticmethod
    def _paper(sigma_y, a, c, d):
        """a Lambda, fresh and d as functions of lam = s_i^2."""

        def weight(lam):
            return torch.where(lam > 0, (c * lam.sqrt() / sigma_y).clamp(max=a), a)

        def fresh(lam):
            copied = torch.where(lam > 0, weight(lam) * sigma_y / lam.sqrt(), 0.0)
            return (c * c - copied**2).clamp_min(0).sqrt()

        return weight, fresh, lambda lam: torch.full_like(lam, d)


@inverse.hookimpl
def inverse_methods():
    return [DDNM, DDNMPlus]
