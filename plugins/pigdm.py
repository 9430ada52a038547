"""PiGDM: pseudo-inverse guidance with Gaussian noise.

Song, Vahdat, Mardani, Kautz, Pseudoinverse-Guided Diffusion Models for Inverse Problems, ICLR 2023,
https://openreview.net/forum?id=9_gsMA8MRKQ (eq. 7 and algorithm 1), as released in
https://github.com/NVlabs/RED-diff (algos/pgdm.py), in the VE coordinate x / sqrt(alpha_bar).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

import inverse


@dataclass(frozen=True)
class PiGDM(inverse.Guidance):
    """Take x0 given x to be N(x0_hat, r^2 I), and condition on y.

    r^2 = sigma^2 sigma_data^2 / (sigma^2 + sigma_data^2); sigma_data = 1 is the paper's. A step of
    the sampler is followed by r^2 g, with g the score of y given x, as in the release (its adaptive
    weights, for y with noise). The paper's algorithm 1 has sqrt(1 + t^2) r^2 g.

    `step=score` has x0_hat + sigma^2 g in the sampler: g as a score enters the reverse diffusion,
    exact for white data of variance sigma_data^2. At high noise the step along a direction of
    variance v is about v, and diverges for the spectrum of photographs.

    Departures: the start is not moved to A^+ y. Within a step of a sampler of higher order x0_hat
    is fixed.

    Args:
        steps: sampler steps; the paper's 100.
        sampler: name of a registered sampler; ancestral is the paper's eta = 1.
        schedule: name of a noise schedule; vp is the paper's.
        sigma_data: standard deviation of the data, model units.
        step: released or score.
    """

    name = "pigdm"
    reference = (
        "Song, Vahdat, Mardani, Kautz, Pseudoinverse-Guided Diffusion Models for Inverse "
        "Problems, ICLR 2023, https://openreview.net/forum?id=9_gsMA8MRKQ"
    )
    equation = (
        "x' = ancestral(x, x0_hat) + r^2 J^T A^T (r^2 A A^T + R)^-1 (y - A x0_hat),  "
        "r^2 = sigma^2 / (1 + sigma^2)"
    )
    claim = "biased"
    bias = inverse.Method.bias | {"excess": 0.5}  # too narrow where y says little
    needs = ("linear", "gaussian")

    sampler: str = "ancestral"
    schedule: str = "vp"
    sigma_data: inverse.Positive = 1.0
    step: Literal["released", "score"] = "released"

    def denoise(self, posterior: inverse.Posterior, x: Tensor, sigma: Tensor) -> Tensor:
        x0_hat, _, g = self._guidance(posterior, x, sigma)
        return x0_hat + sigma**2 * g

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor | inverse.Weighted]:
        if self.step == "score":
            yield from super().run(posterior, samples, generator)
            return
        sampler = inverse.get_sampler(self.sampler)
        x, sigmas = self.begin(posterior, generator)
        for levels in sigmas.unfold(0, 2, 1):
            x0_hat, r2, g = self._guidance(posterior, x, levels[0])
            *_, x = sampler(lambda x, sigma, known=x0_hat: known, x, levels, generator)
            yield (x := x + r2 * g)

    def _guidance(
        self, posterior: inverse.Posterior, x: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x0_hat, r^2, and J^T A^T (r^2 A A^T + R)^-1 (y - A x0_hat)."""
        x0_hat, vjp = posterior.tweedie(x, sigma)
        r2 = sigma**2 * self.sigma_data**2 / (sigma**2 + self.sigma_data**2)
        v = posterior.solve_normal(posterior.residual(x0_hat), r2)
        return x0_hat, r2, vjp(posterior.A_adjoint(v))


@inverse.hookimpl
def inverse_methods():
    return [PiGDM]
