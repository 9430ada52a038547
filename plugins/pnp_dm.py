"""PnP-DM: plug-and-play diffusion models, a split Gibbs sampler.

Wu, Sun, Chen, Zhang, Bouman, Yue, Principled Probabilistic Imaging using Diffusion Models as
Plug-and-Play Priors, NeurIPS 2024, https://arxiv.org/abs/2405.18782 (algorithm 1, prior step with
EDM).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

import inverse
from inverse.errors import OptionError


@dataclass(frozen=True)
class PnPDM(inverse.Method):
    """Alternate z ~ p(y | z) N(z; x, rho^2 I) and x ~ p(x | x + rho n = z) while rho falls.

    The second draw is reverse diffusion from the level rho. The stationary law is the posterior
    with the noise covariance R + rho^2 A A^T; it becomes exact as rho -> 0, which takes more
    steps.

    Departures: rho_min is 0.03. On the linear-Gaussian problems of docs/conjugate.md the distance
    to the posterior is 0.8 to 1.0 of its spread with the paper's 0.3, about 0.2 with 0.1 and about
    0.1 with 0.03; on photographs the residual of random inpainting has chi-square 8.9, 2.6 and 1.2
    (docs/own-settings.md). The reverse diffusion has its own number of steps at each rho, where the
    paper enters a fixed EDM schedule at rho. The curvature sets the Langevin step.

    Args:
        steps: Gibbs sweeps; the paper's 100.
        rho_max: first coupling, model units; the paper's 10.
        decay: factor on rho after each sweep; the paper's 0.9.
        rho_min: last coupling, model units.
        prior_steps: reverse-diffusion steps in a sweep.
        sampler: sampler of the reverse diffusion; it must be stochastic to draw from the
            conditional law.
        langevin_steps: Langevin steps of the likelihood step for a nonlinear operator or
            non-Gaussian noise.
        langevin_rate: Langevin step relative to the inverse curvature.
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

    steps: inverse.Count = 100
    rho_max: inverse.Positive = 10.0
    decay: Annotated[float, inverse.Range(above=0, high=1)] = 0.9
    rho_min: inverse.Positive = 0.03
    prior_steps: inverse.Count = 10
    sampler: str = "ancestral"
    langevin_steps: inverse.Count = 100
    langevin_rate: inverse.Positive = 0.3

    def __post_init__(self):
        super().__post_init__()
        if self.rho_min > self.rho_max:
            raise OptionError(
                f"pnp-dm: need rho_min <= rho_max, got {self.rho_min:g} and {self.rho_max:g}"
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
