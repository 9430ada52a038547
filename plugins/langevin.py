"""Annealed Langevin dynamics on the posterior.

Song, Ermon, Generative Modeling by Estimating Gradients of the Data Distribution, NeurIPS 2019,
https://arxiv.org/abs/1907.05600 (algorithm 1), with the annealed likelihood of Jalal, Arvinte,
Daras, Price, Dimakis, Tamir, Robust Compressed Sensing MRI with Deep Generative Priors, NeurIPS
2021, https://arxiv.org/abs/2108.01368.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

import inverse
from inverse.sampling.langevin import langevin


@dataclass(frozen=True)
class AnnealedLangevin(inverse.Method):
    """Take Langevin steps on p_sigma(x) N(y; A x, R + gamma^2 I) at each noise level.

    With gamma = |A| sigma a step of epsilon sigma^2 is stable at every level. Departures: gamma
    follows sigma (Jalal et al. tune it), and R may vary over the measurements.

    Args:
        steps: noise levels, log-uniform.
        inner_steps: Langevin steps at each level.
        epsilon: step in units of sigma^2; the chain is stable below 1.
        sigma_max: first level, model units; by default the prior's.
        sigma_min: last level, model units; by default the prior's, at least 0.002.
    """

    name = "langevin"
    reference = (
        "Song, Ermon, Generative Modeling by Estimating Gradients of the Data Distribution, "
        "NeurIPS 2019; Jalal et al., NeurIPS 2021, https://arxiv.org/abs/2108.01368"
    )
    equation = (
        "x' = x + eta [(x0_hat - x) / sigma^2 + A^T (R + gamma^2 I)^-1 (y - A x)] + sqrt(2 "
        "eta) z,  eta = epsilon sigma^2"
    )
    claim = "exact in the limit"
    needs = ("gaussian",)

    steps: inverse.Count = 100
    inner_steps: inverse.Count = 5
    epsilon: Annotated[float, inverse.Range(above=0, below=1)] = 0.2
    sigma_max: inverse.Positive | None = None
    sigma_min: inverse.Positive | None = None

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        assert isinstance(posterior.noise, inverse.GaussianNoise)
        sigmas = inverse.noise_levels(
            posterior, "log-uniform", self.steps, self.sigma_min, self.sigma_max
        )[:-1]
        x = sigmas[0] * inverse.standard_normal(posterior, generator)
        gain = posterior.norm_squared
        for s in sigmas:
            variance = posterior.noise.variance(posterior.y) + gain * s**2
            eta = self.epsilon * s**2

            def score(x, s=s):
                return (posterior.denoise(x, s) - x) / s**2

            def gradient(x, variance=variance):
                return posterior.A_vjp(x, posterior.residual(x) / variance)

            yield (x := langevin(x, eta, self.inner_steps, score, gradient, generator))


@inverse.hookimpl
def inverse_methods():
    return [AnnealedLangevin]
