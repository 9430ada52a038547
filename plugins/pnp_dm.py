"""PnP-DM: plug-and-play diffusion models, a split Gibbs sampler.

Wu, Sun, Chen, Zhang, Bouman, Yue, Principled Probabilistic Imaging using Diffusion Models as Plug-and-Play Priors,
NeurIPS 2024, https://arxiv.org/abs/2405.18782 (algorithm 1, prior step with EDM).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

import inverse
from inverse.errors import OptionError


@dataclass(frozen=True)
class PnPDM(inverse.Method):
    """Alternate z ~ p(y | z) N(z; x, rho^2 I) and x ~ p(x | x + rho n = z), the latter by reverse diffusion from rho; rho falls.

    The stationary law is the posterior with the noise covariance R + rho^2 A A^T, so it is exact as rho -> 0 with the
    steps that this takes. Departures: rho_min is 0.1 (with the paper's 0.3 the distance to the posterior is 0.8 to 1.0
    of its spread on the problem of docs/conjugate.md, with 0.1 about 0.2); the reverse diffusion has its own number of
    steps at each rho, where the paper enters a fixed EDM schedule at rho; Langevin's step is set by the curvature.

    Args:
        steps: Gibbs sweeps; the paper's 100.
        rho_max: first coupling, model units; the paper's 10.
        decay: of rho per sweep; the paper's 0.9.
        rho_min: last coupling, model units.
        prior_steps: reverse-diffusion steps in a sweep.
        sampler: of the reverse diffusion; it must be stochastic for the draws to be from the conditional law.
        langevin_steps: of the likelihood step where the operator is not linear or the noise not Gaussian.
        langevin_rate: its step relative to the inverse curvature.
    """

    name = "pnp-dm"
    reference = (
        "Wu, Sun, Chen, Zhang, Bouman, Yue, Principled Probabilistic Imaging using Diffusion "
        "Models as Plug-and-Play Priors, NeurIPS 2024, https://arxiv.org/abs/2405.18782"
    )
    equation = (
        "z ~ p(y | z) N(z; x, rho^2 I);  x ~ p(x0 | x0 + rho n = z);  "
        "rho' = max(decay rho, rho_min)"
    )
    claim = "exact in the limit"
    limit = {"steps": 1, "prior_steps": 0.5, "rho_min": -0.5}

    steps: int = 100
    rho_max: float = 10.0
    decay: float = 0.9
    rho_min: float = 0.1
    prior_steps: int = 10
    sampler: str = "ancestral"
    langevin_steps: int = 100
    langevin_rate: float = 0.3

    def __post_init__(self):
        super().__post_init__()
        if self.prior_steps < 1 or not 0 < self.rho_min <= self.rho_max or not 0 < self.decay <= 1:
            raise OptionError(
                "pnp-dm: need prior_steps of at least 1, 0 < rho_min <= rho_max and decay in (0, 1]"
            )

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        reverse = inverse.get_sampler(self.sampler)
        rho = min(self.rho_max, posterior.prior.sigma_max)
        x = inverse.standard_normal(posterior, generator)
        for _ in range(self.steps):
            if posterior.linear and posterior.gaussian:
                z = posterior.prox_sample(x, rho * rho, generator)
            else:
                z = posterior.prox_langevin(
                    x, rho * rho, generator, self.langevin_steps, self.langevin_rate
                )
            *_, x = reverse(
                posterior.denoise,
                z,
                inverse.noise_levels(posterior, "karras", self.prior_steps, sigma_max=rho),
                generator,
            )
            rho = max(self.decay * rho, self.rho_min)
            yield x


@inverse.hookimpl
def inverse_methods():
    return [PnPDM]
