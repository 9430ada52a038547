"""LGD: loss-guided diffusion by Monte Carlo.

Song, Zhang, Yin, Mardani, Liu, Kautz, Chen, Vahdat, Loss-Guided Diffusion Models for Plug-and-Play
Controllable Generation, ICML 2023, https://proceedings.mlr.press/v202/song23k.html (LGD-MC), in
the VE coordinate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

import inverse
from inverse.rows import per_row
from inverse.sampling.schedules import transitions
from inverse_plugins._residual_norm import UNITS, default_step, paper_length, residual_norm


@dataclass(frozen=True)
class LGD(inverse.Method):
    """Take an ancestral step, then one along grad_x log E[exp(-loss(x0))], x0 ~ N(x0_hat, r^2 I).

    The mean is taken over a few draws, and r^2 = sigma^2 / (1 + sigma^2). A step takes one VJP of
    the prior. The paper leaves the loss and its scale to the task.

    loss=norm is |y - A x0| with a step of the kind of `dps`, each sample with its own norm in model
    units. It damps itself, because the spread of the draws enters the norm. loss=likelihood is -log
    p(y | x0), whose step is that of a score. With many draws, Gaussian noise and temper = 0 it is
    PiGDM. With few, the best draw takes nearly all the weight, and the gradient is as stiff as the
    likelihood. The variance of Gaussian noise is therefore sigma_y^2 + temper r^2 |A|^2, which
    raises the likelihood to a power.

    Args:
        steps: steps of the VP schedule.
        draws: number of Monte Carlo samples n.
        loss: norm or likelihood.
        zeta: step for loss=norm; by default that of `dps`, 5 sqrt(m) / (|A| steps) for m
            measurements.
        temper: share of the spread of the draws that is added to the noise for loss=likelihood.
    """

    name = "lgd"
    reference = (
        "Song, Zhang, Yin, Mardani, Liu, Kautz, Chen, Vahdat, Loss-Guided Diffusion Models for "
        "Plug-and-Play Controllable Generation, ICML 2023, "
        "https://proceedings.mlr.press/v202/song23k.html"
    )
    equation = "x' = ancestral(x, x0_hat) + zeta grad_x log 1/n sum_i exp(-loss(x0_hat + r z_i))"
    claim = "biased"
    bias = inverse.Method.bias | {"excess": 0.6}  # too narrow where y says little
    units = UNITS

    steps: inverse.Count = 100
    draws: inverse.Count = 10
    loss: Literal["norm", "likelihood"] = "norm"
    zeta: inverse.NonNegative | None = None
    temper: inverse.NonNegative = 1.0

    def unsupported(self, posterior):
        stiff = self.loss == "likelihood" and posterior.noise.noiseless
        return super().unsupported(posterior) or (
            "lgd: loss=likelihood needs noise; use loss=norm" if stiff else None
        )

    def derived(self, posterior):
        return {"zeta": self._zeta(posterior)} if self.loss == "norm" else {}

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        sigmas, norm = inverse.noise_levels(posterior, "vp", self.steps), self.loss == "norm"
        zeta = self._zeta(posterior)
        x = sigmas[0] * inverse.standard_normal(posterior, generator)
        for sigma, s, t in transitions(sigmas):
            x0_hat, ascent = self.ascent(posterior, x, sigma, generator)
            ratio = (t / s) ** 2
            x = x0_hat + ratio * (x - x0_hat)
            if t > 0:
                x = x + t * (1 - ratio) ** 0.5 * generator.randn_like(x)
            step = zeta * paper_length(s, t) if norm else s * s - t * t
            yield (x := x + step * ascent)

    def ascent(
        self, posterior: inverse.Posterior, x: Tensor, sigma: Tensor, generator: inverse.Generators
    ) -> tuple[Tensor, Tensor]:
        """x0_hat and grad_x log sum_i exp(-loss(x0_hat + r z_i)): x (B, *shape) -> two alike."""
        x0_hat, vjp = posterior.tweedie(x, sigma)
        r = sigma / (1 + sigma**2) ** 0.5
        points = [x0_hat + r * generator.randn_like(x) for _ in range(self.draws)]
        loss = _norm if self.loss == "norm" else self._likelihood
        values, gradients = zip(*(loss(posterior, x0, r) for x0 in points), strict=True)
        weights = torch.stack([value.flatten() for value in values]).softmax(0)
        terms = (per_row(w, x) * g for w, g in zip(weights, gradients, strict=True))
        return x0_hat, vjp(sum(terms, torch.zeros_like(x)))

    def _likelihood(self, posterior, x0, r):
        """The log-likelihood with noise sigma_y^2 + temper r^2 |A|^2, and its gradient."""
        power = torch.ones_like(r)
        if posterior.gaussian:
            gain = posterior.norm_squared
            power = 1 / (1 + self.temper * r**2 * gain / posterior.sigma_y**2)
        value = power.flatten() * posterior.log_likelihood(x0)
        return value, power * posterior.likelihood_score(x0)

    def _zeta(self, posterior):
        return default_step(posterior, self.steps) if self.zeta is None else self.zeta


def _norm(posterior, x0, r):
    """-|y - A x0| in model units, and its gradient."""
    norm, back = residual_norm(posterior, x0)
    return -norm, back / per_row(norm, x0)


@inverse.hookimpl
def inverse_methods():
    return [LGD]
