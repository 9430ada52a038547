"""DPS: diffusion posterior sampling.

Chung, Kim, Mccann, Klasky, Ye, Diffusion Posterior Sampling for General Noisy Inverse Problems,
ICLR 2023, https://arxiv.org/abs/2209.14687 (algorithm 1), in the VE coordinate x /
sqrt(alpha_bar).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

import inverse
from inverse.rows import per_row
from inverse.sampling.schedules import transitions
from inverse_plugins._residual_norm import UNITS, default_step, paper_length, residual_norm


@dataclass(frozen=True)
class DPS(inverse.Method):
    """Take an ancestral step, then a gradient step of size zeta on |y - A(x0_hat)|.

    The gradient passes through the network. Departure: each sample has its own norm; the authors'
    code takes the norm over the batch. The residual is measured in model units, so that zeta has
    the meaning that it has in the paper, where images are in [-1, 1].

    Args:
        steps: steps of the VP schedule; the paper uses 1000.
        zeta: step size of the likelihood gradient. For the paper's step, auto is 5 sqrt(m) / (|A|
            steps) for m measurements (|A| = 1 for a nonlinear A), since the norm grows as sqrt(m)
            and the steps add up. The paper's 1, for 1000 steps on 3x256x256 and for averages over
            4x4 pixels too (|A| = 1/4), corresponds to 2.3 instead of 5 (docs/methods.md has the
            calibration). For the score step, auto is sqrt(m) / (2 sigma_y): the gradient then
            equals half of the likelihood's where the residual is at the noise level.
        step: paper, zeta at every level; or score, zeta (s^2 - t^2) from level s to t, as a score
            enters the reverse diffusion: closer to the posterior in few dimensions, but an explicit
            step that overshoots on photographs.
    """

    name = "dps"
    reference = (
        "Chung, Kim, Mccann, Klasky, Ye, Diffusion Posterior Sampling for General Noisy "
        "Inverse Problems, ICLR 2023, https://arxiv.org/abs/2209.14687"
    )
    equation = "x' = ancestral(x, x0_hat) - zeta grad_x |y - A(x0_hat(x))|"
    claim = "biased"
    bias = inverse.Method.bias | {"excess": 0.5}  # too narrow where y says little
    units = UNITS

    steps: inverse.Count = 100
    zeta: inverse.NonNegative | None = None
    step: Literal["paper", "score"] = "paper"

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        sigmas = inverse.noise_levels(posterior, "vp", self.steps)
        zeta = self._zeta(posterior)
        x = sigmas[0] * inverse.standard_normal(posterior, generator)
        for sigma, s, t in transitions(sigmas):
            x0_hat, ascent = self._tweedie_and_ascent(posterior, x, sigma)
            ratio = (t / s) ** 2
            x = x0_hat + ratio * (x - x0_hat)
            if t > 0:
                x = x + t * (1 - ratio) ** 0.5 * generator.randn_like(x)
            length = s * s - t * t if self.step == "score" else paper_length(s, t)
            yield (x := x + zeta * length * ascent)

    def _tweedie_and_ascent(self, posterior, x, sigma):
        """x0_hat and -grad_x |y - A(x0_hat)|; the graph of the network is freed on return."""
        x0_hat, vjp = posterior.tweedie(x, sigma)
        norm, back = residual_norm(posterior, x0_hat)
        return x0_hat, vjp(back) / per_row(norm, x)

    def derived(self, posterior):
        return {"zeta": self._zeta(posterior)}

    def unsupported(self, posterior):
        known = (
            self.step == "paper"
            or self.zeta is not None
            or (posterior.gaussian and not posterior.noise.noiseless)
        )
        return super().unsupported(posterior) or (
            None if known else "dps needs zeta for step = score, or Gaussian noise with sigma_y > 0"
        )

    def _zeta(self, posterior):
        if self.zeta is not None:
            return self.zeta
        if self.step == "paper":
            return default_step(posterior, self.steps)
        return (
            float(posterior.noise.weights(posterior.y).sum()) ** 0.5
            * posterior.prior.scale
            / (2 * posterior.sigma_y)
        )


@inverse.hookimpl
def inverse_methods():
    return [DPS]
