"""DDRM: denoising diffusion restoration models.

Kawar, Elad, Ermon, Song, Denoising Diffusion Restoration Models, NeurIPS 2022,
https://arxiv.org/abs/2201.11793 (eq. 4-5 and 7-8), in the paper's VE coordinate.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

import inverse
from inverse.sampling.schedules import transitions


@dataclass(frozen=True)
class DDRM(inverse.Method):
    """Diffuse in the singular basis of A, where a coordinate has noise tau = sigma_y / s.

    On the way to level t a coordinate with t >= tau is drawn around its measured value, whose
    noise is completed from tau to t. A coordinate with t < tau is drawn around the denoiser's
    estimate, pulled towards its measured value. An unmeasured coordinate follows DDIM. All terms
    are functions of A^T A applied to real images, so that the noise is real and has its full
    variance for Fourier operators too. Departure: the VP levels are cut to the prior's range.

    Args:
        steps: steps of the VP schedule; the paper's 20.
        eta: fraction of fresh noise in unmeasured and noisier coordinates, in [0, 1].
        eta_b: weight of the measured value in the other coordinates, in [0, 1].
    """

    name = "ddrm"
    reference = (
        "Kawar, Elad, Ermon, Song, Denoising Diffusion Restoration Models, NeurIPS 2022, "
        "https://arxiv.org/abs/2201.11793"
    )
    equation = (
        "x'_i ~ N((1 - eta_b) x0_hat_i + eta_b y_i / s_i, t^2 - eta_b^2 sigma_y^2 / s_i^2)"
        "  where t >= sigma_y / s_i"
    )
    claim = "biased"
    bias = inverse.Method.bias | {"excess": 0.7}  # too narrow where y says little
    needs = ("decomposable", "gaussian", "white")

    steps: inverse.Count = 20
    eta: inverse.Fraction = 0.85
    eta_b: inverse.Fraction = 1.0

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        sigmas = inverse.noise_levels(posterior, "vp", self.steps)
        first = float(sigmas[0])
        x = inverse.standard_normal(posterior, generator)
        seen = posterior.A_dagger(posterior.residual(torch.zeros_like(x)))

        @functools.cache  # every step passes the same tensor lam
        def tau(lam):
            return torch.where(lam > 0, posterior.sigma_y / lam.sqrt(), torch.inf)

        x = posterior.filter(
            seen,
            lambda lam: (tau(lam) <= first).to(x),
            (x, lambda lam: self._std(tau(lam), first, 1.0, 1.0)),
        )
        for sigma, s, t in transitions(sigmas):
            x0_hat = posterior.denoise(x, sigma)
            keep = t * (1 - self.eta**2) ** 0.5
            unseen = (x - x0_hat, lambda lam, k=keep / s: torch.where(lam > 0, 0.0, k))
            pull = (
                seen - x0_hat,
                lambda lam, t=t, k=keep: torch.where(
                    lam > 0, torch.where(t >= tau(lam), self.eta_b, k / tau(lam)), 0.0
                ),
            )
            fresh = (
                [
                    (
                        generator.randn_like(x),
                        lambda lam, t=t: self._std(tau(lam), t, self.eta, self.eta_b),
                    )
                ]
                if t > 0
                else []
            )
            yield (x := x0_hat + posterior.filter(*unseen, pull, *fresh))

    @staticmethod
    def _std(tau, t, eta, eta_b):
        """Standard deviation of the fresh noise at level t, for a coordinate of noise tau."""
        return torch.where(tau <= t, (t * t - (eta_b * tau.clamp(max=t)) ** 2).sqrt(), eta * t)


@inverse.hookimpl
def inverse_methods():
    return [DDRM]
