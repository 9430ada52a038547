"""DAPS: decoupled annealing posterior sampling.

Zhang, Chu, Berner, Meng, Anandkumar, Song, Improving Diffusion Inverse Problem Solving with
Decoupled Noise Annealing, CVPR 2025, https://arxiv.org/abs/2407.01521 (algorithm 1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

import inverse
from inverse.errors import OptionError
from inverse.sampling.schedules import transitions


@dataclass(frozen=True)
class DAPS(inverse.Method):
    """Solve the ODE to x0_hat, draw x0 ~ N(x0_hat, sigma^2 I) given y, and add fresh noise.

    Departures: for a linear operator with Gaussian noise the draw is exact (perturbation and a
    linear solve), where the paper runs Langevin. For others the curvature sets the Langevin step;
    the paper tunes it for each task, against an assumed noise of 0.01. The first level is cut to
    the prior's range.

    Args:
        steps: annealing levels; the paper's 200.
        ode_steps: Euler steps from each level to 0; the paper's 5.
        sigma_max, sigma_min: first and last level, model units; the paper's 100 and 0.1.
        ode_sigma_min: last level of the ODE before 0, model units.
        langevin_steps: Langevin steps for other operators and noises; the paper's 100.
        langevin_rate: Langevin step relative to the inverse curvature.
    """

    name = "daps"
    reference = (
        "Zhang, Chu, Berner, Meng, Anandkumar, Song, Improving Diffusion Inverse Problem "
        "Solving with Decoupled Noise Annealing, CVPR 2025, https://arxiv.org/abs/2407.01521"
    )
    equation = "x0 ~ p(y | x0) N(x0; ODE(x, s), s^2 I);  x' = x0 + t z"
    claim = "biased"

    steps: int = 200
    ode_steps: int = 5
    sigma_max: float = 100.0
    sigma_min: float = 0.1
    ode_sigma_min: float = 0.01
    langevin_steps: int = 100
    langevin_rate: float = 0.3

    def __post_init__(self):
        super().__post_init__()
        if self.ode_steps < 1 or not 0 < self.ode_sigma_min < self.sigma_min < self.sigma_max:
            raise OptionError(
                "daps: need ode_steps of at least 1 and 0 < ode_sigma_min < sigma_min < sigma_max"
            )

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        sigma_max = min(self.sigma_max, posterior.prior.sigma_max)
        sigmas = inverse.noise_levels(posterior, "karras", self.steps, self.sigma_min, sigma_max)
        euler = inverse.get_sampler("ddim")
        x = sigmas[0] * inverse.standard_normal(posterior, generator)
        for _, s, t in transitions(sigmas):
            inner = inverse.noise_levels(posterior, "karras", self.ode_steps, self.ode_sigma_min, s)
            *_, x0_hat = euler(posterior.denoise, x, inner, generator)
            if posterior.linear and posterior.gaussian:
                x0 = posterior.prox_sample(x0_hat, s * s, generator)
            else:
                x0 = posterior.prox_langevin(
                    x0_hat, s * s, generator, self.langevin_steps, self.langevin_rate
                )
            yield (x := x0 + t * generator.randn_like(x0) if t > 0 else x0)


@inverse.hookimpl
def inverse_methods():
    return [DAPS]
