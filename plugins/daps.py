"""DAPS: decoupled annealing posterior sampling.

Zhang, Chu, Berner, Meng, Anandkumar, Song, Improving Diffusion Inverse Problem Solving with
Decoupled Noise Annealing, CVPR 2025, https://arxiv.org/abs/2407.01521 (algorithm 1), with the
settings of the release for images, https://github.com/zhangbingliang2019/DAPS.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

import inverse
from inverse.errors import OptionError
from inverse.sampling.langevin import langevin
from inverse.sampling.schedules import transitions


@dataclass(frozen=True)
class DAPS(inverse.Method):
    """Solve the ODE to x0_hat, draw x0 ~ N(x0_hat, s^2 I) given y, and add fresh noise.

    `inner=langevin` is the release: steps too small to forget x0_hat where A sees nothing. Like the
    release it drops the half of |y - A x|^2 / (2 tau^2), and ignores sigma_y.

    `inner=exact` draws from the Gaussian itself. In the null space of A the draw is x0_hat + s z,
    and the next level adds t z' to that. Every level then starts from too much noise, s^2 + t^2,
    and what A does not see stays noisy to the end.

    Departures: the first level is cut to the prior's range. The Langevin step of a linear operator
    of norm above 1 is divided by the squared norm. Noise that is not Gaussian keeps its likelihood.

    Args:
        steps: annealing levels; the release's 200.
        ode_steps: Euler steps from each level to ode_sigma_min; the release's 5.
        sigma_max, sigma_min: first and last level, model units; the release's 100 and 0.1.
        ode_sigma_min: last level of the ODE, model units; the release's 0.01.
        inner: how x0 is drawn given y: langevin, or exact for a linear A and Gaussian noise.
        langevin_steps: Langevin steps at each level; the release's 100.
        lr: Langevin step at the first level; auto is the release's for images, 1e-4 for linear
            operators and 5e-5 for others.
        lr_min_ratio: Langevin step at the last level, relative to the first; the release's 0.01.
        tau: assumed noise of y in place of sigma_y, model units; the release's 0.01.
    """

    name = "daps"
    reference = (
        "Zhang, Chu, Berner, Meng, Anandkumar, Song, Improving Diffusion Inverse Problem "
        "Solving with Decoupled Noise Annealing, CVPR 2025, https://arxiv.org/abs/2407.01521"
    )
    equation = "x0 ~ p(y | x0) N(x0; ODE(x, s), s^2 I);  x' = x0 + t z"
    claim = "biased"
    bias = inverse.Method.bias | {"excess": 45.0}  # fits weak data to tau, however large sigma_y
    units = "tau is a noise of y on [-1, 1]"

    steps: inverse.Count = 200
    ode_steps: inverse.Count = 5
    sigma_max: inverse.Positive = 100.0
    sigma_min: inverse.Positive = 0.1
    ode_sigma_min: inverse.Positive = 0.01
    inner: Literal["langevin", "exact"] = "langevin"
    langevin_steps: inverse.Count = 100
    lr: inverse.Positive | None = None
    lr_min_ratio: inverse.Positive = 0.01
    tau: inverse.Positive = 0.01

    def __post_init__(self):
        super().__post_init__()
        if not self.ode_sigma_min < self.sigma_min < self.sigma_max:
            raise OptionError("daps: need ode_sigma_min < sigma_min < sigma_max")

    def unsupported(self, posterior):
        exact = self.inner == "exact" and not (posterior.linear and posterior.gaussian)
        return super().unsupported(posterior) or (
            "daps: inner=exact needs a linear operator with Gaussian noise; use inner=langevin"
            if exact
            else None
        )

    def notes(self, posterior):
        if not posterior.gaussian:
            return []
        sigma = 2**0.5 * posterior.sigma_y / posterior.prior.scale
        if self.inner == "exact" or sigma < 20 * self.tau:
            return []
        return [
            f"daps assumes noise of tau = {self.tau:g} in place of sigma_y and fits noise as if it "
            f"were data; tau={sigma:.2g} assumes sigma_y"
        ]

    def derived(self, posterior):
        return {"lr": self._lr(posterior)}

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        sigma_max = min(self.sigma_max, posterior.prior.sigma_max)
        sigmas = inverse.noise_levels(posterior, "karras", self.steps, self.sigma_min, sigma_max)
        euler = inverse.get_sampler("ddim")
        assumed = self._assumed(posterior)
        x = sigmas[0] * inverse.standard_normal(posterior, generator)
        for i, (_, s, t) in enumerate(transitions(sigmas)):
            ode = inverse.noise_levels(
                posterior, "karras", self.ode_steps + 1, self.ode_sigma_min, s
            )
            *_, x0_hat = euler(posterior.denoise, x, ode[:-1], generator)
            if self.inner == "exact":
                x0 = posterior.prox_sample(x0_hat, s * s, generator)
            else:
                x0 = self._langevin(assumed, x0_hat, s, i / self.steps, generator)
            yield (x := x0 + t * generator.randn_like(x0) if t > 0 else x0)

    def _lr(self, posterior):
        return self.lr or (1e-4 if posterior.linear else 5e-5)

    def _assumed(self, posterior):
        """The posterior whose likelihood is exp(-|y - A x|^2 / tau^2)."""
        if not posterior.gaussian:
            return posterior
        sigma = self.tau / 2**0.5 * posterior.prior.scale
        return posterior.replaced(noise=inverse.GaussianNoise(sigma, posterior.noise.observed))

    def _langevin(self, assumed, x0_hat, s, share, generator):
        """The Langevin steps of level s, after a share of the levels."""
        rate = self._lr(assumed) * (1 - share * (1 - self.lr_min_ratio))
        if assumed.linear:
            rate /= max(1.0, assumed.norm_squared / assumed.prior.scale**2)
        if not (assumed.decomposable and assumed.gaussian):
            return langevin(
                x0_hat,
                rate,
                self.langevin_steps,
                score=lambda x: (x0_hat - x) / (s * s),
                gradient=assumed.likelihood_score,
                generator=generator,
            )
        n = self.langevin_steps
        variance = assumed.sigma_y**2

        def forgets(lam):  # a step multiplies the distance from the mode by 1 - forgets
            return rate * (1 / s**2 + lam.double() / variance)

        def moved(lam):
            return (1 - (1 - forgets(lam)) ** n).to(lam)

        def spread(lam):
            h = forgets(lam)
            total = torch.where(h < 2, (1 - (1 - h) ** (2 * n)) / (h * (2 - h)), n)
            return (2 * rate * total).sqrt().to(lam)

        mode = assumed.prox(x0_hat, s * s)
        z = generator.randn_like(x0_hat)
        return x0_hat + assumed.filter(mode - x0_hat, moved, (z, spread))


@inverse.hookimpl
def inverse_methods():
    return [DAPS]
