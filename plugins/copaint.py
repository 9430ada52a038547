"""CoPaint: coherent inpainting by optimisation of x at every level.

Zhang, Ji, Zhang, Yu, Jaakkola, Chang, Towards Coherent Image Inpainting Using Denoising Diffusion
Implicit Models, ICML 2023, https://arxiv.org/abs/2304.03322, and the release,
https://github.com/UCSB-NLP-Chang/CoPaint, in the VE coordinate x / sqrt(alpha_bar).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

import inverse
from inverse.rows import per_row, row_dot
from inverse.sampling.schedules import transitions, walk_with_jumps

REJECTIONS = 40
"""After as many rejections a gradient step is given up; rounding alone then decides."""


@dataclass(frozen=True)
class CoPaint(inverse.Method):
    """Move x by gradient steps until x0_hat(x) agrees with y, then take a step of DDIM.

    The objective of a level is the paper's posterior times 2 xi^2, with c = reg xi^2 / sigma^2 as a
    number that grows. lr and reg are the release's, for images in [-1, 1]; a gradient step that
    raises the objective is repeated with 0.8 of its length. repeats = 2 is CoPaint-TT; steps = 100
    and iterations = 1 is CoPaint-Fast.

    y is taken to be exact: its noise is copied. Departures: each sample has its own step length;
    x0_hat is not clipped; lr and reg grow by the same factor over a run of any length; jumps back
    are those of `repaint`.

    Args:
        steps: levels of the VP schedule; the paper's 250.
        iterations: gradient steps at each level.
        lr: length of a gradient step at the first level, in the paper's x.
        lr_growth: factor on lr from a level to the next, of 250 levels.
        reg: weight of the distance from x before the gradient steps.
        reg_growth: factor on reg from a level to the next, of 250 levels.
        jump_length: levels between jump points, and levels of a jump back; the paper's 10.
        repeats: number of times that each stretch is sampled; 1 for no jumps.
    """

    name = "copaint"
    reference = (
        "Zhang, Ji, Zhang, Yu, Jaakkola, Chang, Towards Coherent Image Inpainting Using Denoising "
        "Diffusion Implicit Models, ICML 2023, https://arxiv.org/abs/2304.03322"
    )
    equation = (
        "x = argmin |y - A x0_hat(x)|^2 + c |x - x_prior|^2;  x' = x0_hat + t / s (x - x0_hat)"
    )
    claim = "biased"
    bias = inverse.Method.bias | {"excess": 55.0}  # fits y without regard to sigma_y
    units = "lr and reg are for images and measurements in [-1, 1]"
    needs = ("gaussian", "white")

    steps: inverse.Count = 250
    iterations: inverse.Count = 2
    lr: inverse.Positive = 0.02
    lr_growth: Annotated[float, inverse.Range(above=0, high=1e3)] = 1.012
    reg: inverse.NonNegative = 1e-4
    reg_growth: Annotated[float, inverse.Range(above=0, high=1e3)] = 1.01
    jump_length: inverse.Count = 10
    repeats: inverse.Count = 1

    @property
    def total(self):
        return len(self.walk()) - 1

    def walk(self):
        """Visited levels, counted from the clean image: steps, ..., 0, with the jumps back."""
        return walk_with_jumps(self.steps, self.jump_length, self.repeats)

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        walk, falls = self.walk(), True
        sigmas = inverse.noise_levels(posterior, "vp", self.steps).flip(0)[walk]
        x = sigmas[0] * inverse.standard_normal(posterior, generator)
        for level, (sigma, s, t) in zip(walk, transitions(sigmas), strict=False):
            if falls or t < s:  # also before the first step of a jump back
                x = self.optimised(posterior, x, sigma, s, 250 * (1 - level / self.steps))
            if falls := t < s:
                x0_hat = posterior.denoise(x, sigma)  # anew: `tractable-steering` replaces it
                x = x0_hat + (t / s) * (x - x0_hat)
            else:
                x = x + (t * t - s * s) ** 0.5 * generator.randn_like(x)
            yield x

    def optimised(self, posterior, start, sigma, s, age):
        """x after the gradient steps from `start`; age counts levels of a run of 250."""
        c, scale2 = self.reg * self.reg_growth**age / (1 + s * s), posterior.prior.scale**2

        def evaluated(x):
            x0_hat, vjp = posterior.tweedie(x, sigma)
            r, moved = posterior.residual(x0_hat), x - start
            return row_dot(r, r) / scale2 + c * row_dot(moved, moved), (x0_hat, r, vjp)

        x, (objective, parts) = start, evaluated(start)
        length = torch.full_like(objective, self.lr * self.lr_growth**age * (1 + s * s) ** 0.5)
        for _ in range(self.iterations):
            x0_hat, r, vjp = parts
            gradient = 2 * (c * (x - start) - vjp(posterior.A_vjp(x0_hat, r)) / scale2)
            for tries in range(REJECTIONS + 1):
                candidate = x - per_row(length, x) * gradient
                found, parts = evaluated(candidate)
                worse = ~(found <= objective)
                if not bool(worse.any()):
                    break
                shorter = 0.8 * length if tries < REJECTIONS - 1 else torch.zeros_like(length)
                length = torch.where(worse, shorter, length)
            x, objective = candidate, found
        return x


@inverse.hookimpl
def inverse_methods():
    return [CoPaint]
