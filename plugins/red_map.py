"""RED-diff followed down to the posterior's mode: the prior's weight that Bayes' rule asks for, at falling levels.

The gradient, its dropped Jacobian and Adam are RED-diff's: Mardani, Song, Kautz, Vahdat, A Variational Perspective on Solving Inverse
Problems with Diffusion Models, ICLR 2024, https://arxiv.org/abs/2305.04391 (algorithm 1). The weight, the levels and the step are ours.
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
"""sigma_y / |A| counts as at least this fraction of s, so that a measurement without noise leaves what it does not see to the prior."""


@dataclass(frozen=True)
class REDMap(inverse.Method):
    """RED-diff with the weight at which the fixed point of level s is the mode of p_s(x) p(y | x), while s falls: graduated MAP.

    RED-diff weighs the prior by lambda s, which vanishes as s falls, so that its last steps fit the noise. The expected
    mismatch of injected and predicted noise is -s grad log p_s, hence sigma_y^2 / s is the weight that balances |y - A mu|^2 / 2. For a
    Gaussian prior the fixed point at s -> 0 is the posterior mean. A large s comes first, where p_s has one mode. Adam does not
    see how large the gradient is, so that its step has to fall with s. Seeds differ by optimiser noise; they are not posterior samples.

    Args:
        steps: levels, uniform in log s; one prior evaluation each.
        sigma_max: the first level, model units; 1 is about the spread of an image.
        sigma_min: the last level, model units; auto is sigma_y / |A|, at least 0.02: below it the mode sharpens what the mean would not.
        lr: Adam's step in units of s.
        strength: of the prior's weight, in units of the one that Bayes' rule asks for.
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
    needs = ("gaussian",)

    steps: int = 100
    sigma_max: float = 1.0
    sigma_min: float | None = None
    lr: float = 0.1
    strength: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not (self.lr > 0 and self.strength > 0):
            raise OptionError(
                f"red-map: lr and strength must be positive, got {self.lr:g} and {self.strength:g}"
            )
        if self.sigma_min is not None and not 0 < self.sigma_min < self.sigma_max:
            raise OptionError(
                "red-map: need 0 < sigma_min < sigma_max, "
                f"got {self.sigma_min:g} and {self.sigma_max:g}"
            )

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        gain = posterior.norm_squared**0.5 if posterior.linear else posterior.prior.scale
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
