"""RED-diff continued to the posterior's mode: the weight of Bayes' rule at falling noise levels.

The gradient, its dropped Jacobian and Adam are those of RED-diff: Mardani, Song, Kautz, Vahdat, A
Variational Perspective on Solving Inverse Problems with Diffusion Models, ICLR 2024,
https://arxiv.org/abs/2305.04391 (algorithm 1). The weight, the levels and the step are ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

import inverse
from inverse.errors import OptionError
from inverse.sampling.schedules import transitions

FLOOR = 0.02
"""Smallest sigma_y / |A| in units of s.

The prior then decides what a measurement without noise does not see.
"""


@dataclass(frozen=True)
class REDMap(inverse.Method):
    """RED-diff whose fixed point at level s is the mode of p_s(x) p(y | x), while s falls.

    RED-diff weights the prior by lambda s, which vanishes as s falls, so that its last steps fit
    the noise. The expected mismatch of injected and predicted noise is -s grad log p_s; the weight
    that balances |y - A mu|^2 / 2 is therefore sigma_y^2 / s. For a Gaussian prior the fixed point
    at s -> 0 is the posterior mean. The iteration starts at a large s, where p_s has one mode
    (graduated MAP). Adam ignores the size of the gradient, so that its step has to fall with s.
    Different seeds give the noise of the optimiser, not posterior samples.

    Args:
        steps: levels, uniform in log s; one prior evaluation each.
        sigma_max: first level, model units; 1 is about the spread of an image.
        sigma_min: last level, model units; auto is sigma_y / |A|, at least 0.02: below it the mode
            is sharper than the mean.
        lr: Adam's step in units of s.
        strength: weight of the prior, in units of the weight of Bayes' rule.
    """

    name = "red-map"
    reference = (
        "Mardani, Song, Kautz, Vahdat, A Variational Perspective on Solving Inverse Problems "
        "with Diffusion Models, ICLR 2024, https://arxiv.org/abs/2305.04391"
    )
    equation = (
        "mu' = mu - s lr Adam[ A^T (A mu - y) + (sigma_y^2 / s) sg(eps_hat(mu + s eps) - eps) "
        "],  s falling to sigma_y"
    )
    claim = "point estimate"
    bias = inverse.Method.bias | {"excess": 1.0}  # where y says little
    needs = ("gaussian",)

    steps: inverse.Count = 100
    sigma_max: inverse.Positive = 1.0
    sigma_min: inverse.Positive | None = None
    lr: inverse.Positive = 0.1
    strength: inverse.Positive = 1.0

    def __post_init__(self):
        super().__post_init__()
        if self.sigma_min is not None and not 0 < self.sigma_min < self.sigma_max:
            raise OptionError(
                "red-map: need 0 < sigma_min < sigma_max, "
                f"got {self.sigma_min:g} and {self.sigma_max:g}"
            )

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        gain = posterior.norm
        sigma_y = posterior.sigma_y / gain
        last = (
            min(max(sigma_y, 0.02), self.sigma_max / 2)
            if self.sigma_min is None
            else self.sigma_min
        )
        mu = posterior.pseudo_inverse()
        adam = torch.optim.Adam([mu], betas=(0.9, 0.99))
        sigmas = inverse.noise_levels(posterior, "log-uniform", self.steps, last, self.sigma_max)
        for sigma, s, _ in transitions(sigmas):
            eps = generator.randn_like(mu)
            x = mu + s * eps
            eps_hat = (x - posterior.denoise(x, sigma)) / s
            misfit = posterior.A_vjp(mu, posterior.residual(mu)) / gain**2
            weight = self.strength * max(sigma_y, FLOOR * s) ** 2 / s
            mu.grad = weight * (eps_hat - eps) - misfit
            adam.param_groups[0]["lr"] = self.lr * s
            adam.step()
            yield mu.clone()


@inverse.hookimpl
def inverse_methods():
    return [REDMap]
