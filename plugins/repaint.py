"""RePaint: inpainting by replacement and resampling.

Lugmayr, Danelljan, Romero, Yu, Timofte, Van Gool, RePaint: Inpainting using Denoising Diffusion
Probabilistic Models, CVPR 2022, https://arxiv.org/abs/2201.09865 (algorithm 1 and the jump
schedule of its appendix), in the VE coordinate x / sqrt(alpha_bar).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

import inverse
from inverse.sampling.schedules import transitions, walk_with_jumps


@dataclass(frozen=True)
class RePaint(inverse.Method):
    """Take ancestral steps that replace the known pixels by noisy copies of y, with jumps back.

    The known pixels are taken to be exact: the samples repeat y with its noise. Departures: 50
    levels instead of the paper's 250, for about 400 prior evaluations instead of 4500; the last
    jump point is a noisy level, not the clean image.

    Args:
        steps: levels of the VP schedule.
        jump_length: levels between jump points, and levels of a jump back; the paper's 10.
        repeats: number of times that each stretch is sampled; the paper's 10; 1 for no jumps.
    """

    name = "repaint"
    reference = (
        "Lugmayr, Danelljan, Romero, Yu, Timofte, Van Gool, RePaint: Inpainting using "
        "Denoising Diffusion Probabilistic Models, CVPR 2022, https://arxiv.org/abs/2201.09865"
    )
    equation = (
        "x' = m (y + t z1) + (1 - m) ancestral(x, x0_hat);  and back: x = x' + sqrt(s^2 - t^2) z2"
    )
    claim = "biased"
    units = "it takes y for pixels, and 0 and 1 for the only values of the mask"
    needs = ("linear",)

    steps: inverse.Count = 50
    jump_length: inverse.Count = 10
    repeats: inverse.Count = 10

    def unsupported(self, posterior):
        masks = isinstance(posterior.operator, inverse.physics.Inpainting)
        return super().unsupported(posterior) or (
            None if masks else "repaint needs an inpainting operator"
        )

    @property
    def total(self):
        return len(self.walk()) - 1

    def walk(self):
        """Visited levels, counted from the clean image: steps, ..., 0, with the jumps back."""
        return walk_with_jumps(self.steps, self.jump_length, self.repeats)

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        sigmas = inverse.noise_levels(posterior, "vp", self.steps).flip(0)[self.walk()]
        mask = (posterior.operator.mask != 0).to(posterior.dtype)
        known = posterior.prior.encode(posterior.y)
        x = sigmas[0] * inverse.standard_normal(posterior, generator)
        for sigma, s, t in transitions(sigmas):
            if t > s:
                x = x + (t * t - s * s) ** 0.5 * generator.randn_like(x)
            else:
                x = self._reverse(x, posterior.denoise(x, sigma), s, t, generator)
                x = mask * (known + t * generator.randn_like(x)) + (1 - mask) * x
            yield x

    def _reverse(self, x, x0_hat, s, t, generator):
        a = 1 - (t / s) ** 2
        return x + a * (x0_hat - x) + t * a**0.5 * generator.randn_like(x)


@inverse.hookimpl
def inverse_methods():
    return [RePaint]
