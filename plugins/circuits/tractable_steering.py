"""Tractable steering: inpainting in which a probabilistic circuit, conditioned exactly on the known pixels, corrects the denoiser.

Liu, Niepert, Van den Broeck, Image Inpainting via Tractable Steering of Diffusion Models, ICLR 2024, https://arxiv.org/abs/2401.03349
(section 4 and the mixing schedule of the authors' code), in the VE coordinate x / sqrt(alpha_bar).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

import inverse
from inverse.errors import OptionError
from inverse_plugins.circuits.guide import Look, load_guide, pixels_seen


@dataclass(frozen=True)
class TractableSteering(inverse.Method):
    """In the first steps of another method, mixes what its denoiser says of each pixel with what a circuit says.

    The circuit's side is p(x0_i | x, y) under the circuit. Over pixels (circuit-photo-8, circuit-digits: blocks of its size, every channel alone)
    noisy ones are soft evidence N(x_i; v, sigma^2) where y says nothing, and known ones N(y_i; v, sigma_y^2). Over the codes of a VQ autoencoder
    (circuit-photo-64), as the authors run it, the evidence is the soft code of x0_hat with y in its place, and the moments are those of decoded
    draws. The circuit's share 1 - a is that of a weighted geometric mean, a = a0 + (a1 - a0) exp(-k t / T), t / T falling from 1 to 0 over the
    steps; a = 1 is the base method, bit by bit.

    Departures: both sides enter by mean and variance, whose geometric mean is again a Gaussian, and its mean goes to the base where the
    authors draw from 256 bins; the variance of decoded draws includes the codec's own error; the bases are methods of this package where theirs is CoPaint.

    Args:
        steps: of the base method, on the VP schedule.
        base: the method that is steered, with its own defaults otherwise.
        circuit: a shipped circuit's name, or its .safetensors file; images must be made of blocks of its size.
        fraction: of the steps, from the first on, that are steered; the paper's 0.1 for faces, 0.05 for other photographs.
        a0, a1, k: of the schedule of the exponent; a0 = a1 = 1 is the base, a0 = a1 = 0 the circuit alone.
        variance: of the denoiser's side: step is the paper's, the variance of the sampler's own step; tweedie is that of x0 given x,
            sigma^2 dx0_hat/dx, by products with random signs.
        probes: of tweedie, products for each evaluation; auto takes every pixel in turn, which is exact.
        draws: of a circuit over codes, how many maps of codes are decoded, at least 2.
        drawn: how: independent is the published one, code by code; joint draws whole maps from the circuit.
        hot, cold: temperature of the soft code of a patch of which nothing is known, and of one that is known.
        top: codes of a patch that keep their weight.
    """

    name = "tractable-steering"
    reference = "Liu, Niepert, Van den Broeck, Image Inpainting via Tractable Steering of Diffusion Models, ICLR 2024, https://arxiv.org/abs/2401.03349"
    equation = "p(x0_i | x, y) ~ p_DM(x0_i | x)^a p_PC(x0_i | x, y)^(1 - a)"
    claim = "none"  # that of the base, whose denoiser is no longer the prior's
    needs = ("linear", "gaussian", "image")

    steps: int = 100
    base: Literal["ddnm", "ddnm-plus", "diffpir", "repaint"] = "ddnm"
    circuit: str = "circuit-photo-8"
    fraction: float = 0.1
    a0: float = 0.8
    a1: float = 1.0
    k: float = 2.0
    variance: Literal["step", "tweedie"] = "step"
    probes: int | None = 8
    draws: int = 8
    drawn: Literal["independent", "joint"] = "independent"
    hot: float = 0.1
    cold: float = 0.01
    top: int = 20

    def __post_init__(self):
        super().__post_init__()
        if self.draws < 2 or self.top < 1 or not min(self.hot, self.cold) > 0:
            raise OptionError(
                "tractable-steering: draws must be at least 2, top at least 1, hot and cold above 0"
            )
        if not (
            0 <= self.fraction <= 1 and 0 <= self.a0 <= 1 and 0 <= self.a1 <= 1 and self.k >= 0
        ) or (self.probes is not None and self.probes < 1):
            raise OptionError(
                "tractable-steering: fraction, a0 and a1 must lie in [0, 1], k be at least 0 and probes at least 1"
            )

    @property
    def guide(self):
        """What the circuit steers with."""
        return load_guide(
            self.circuit,
            draws=self.draws,
            drawn=self.drawn,
            hot=self.hot,
            cold=self.cold,
            top=self.top,
        )

    @property
    def steered(self):
        """The base method."""
        return inverse.get_method(self.base, steps=self.steps)

    def exponent(self, i):
        """a at step i, counted from 0: the denoiser's share of the geometric mean."""
        return (
            self.a0 + (self.a1 - self.a0) * math.exp(-self.k * (1 - i / self.steps))
            if i < self.fraction * self.steps
            else 1.0
        )

    @property
    def total(self):
        return self.steered.total

    def unsupported(self, posterior):
        if reason := super().unsupported(posterior) or self.steered.unsupported(posterior):
            return reason
        if not isinstance(posterior.operator, inverse.physics.Inpainting):
            return "tractable-steering needs an inpainting operator: it must know which pixels were seen"
        reason = self.guide.unfit(posterior.shape)
        return reason and f"tractable-steering: circuit {self.circuit} does not fit, {reason}"

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor | inverse.Weighted]:
        guide = self.guide.to(posterior.device, posterior.dtype)
        levels = inverse.noise_levels(posterior, "vp", self.steps)
        (known, noise), scale = pixels_seen(posterior), posterior.prior.scale

        def denoise(x, sigma):
            i = int((levels[:-1] - sigma).abs().argmin())
            a = self.exponent(i)
            if a == 1:
                return posterior.denoise(x, sigma)
            x0_hat, v1 = self._denoiser(posterior, x, levels[i], levels[i + 1], generator)
            decode = posterior.prior.decode
            mean, variance = guide.moments(
                Look(decode(x), (scale * sigma) ** 2, decode(x0_hat), known, noise), generator
            )
            m, v2 = posterior.prior.encode(mean), variance / scale**2
            w1, w2 = a / v1, (1 - a) / v2
            return (w1 * x0_hat + w2 * m) / (w1 + w2)

        yield from self.steered.run(posterior.replaced(denoise=denoise), samples, generator)

    def _denoiser(self, posterior, x, s, t, generator):
        """Mean and variance of x0 as the denoiser has them at level s, t being the next."""
        if self.variance == "step":
            return posterior.denoise(x, s), ((1 - (t / s) ** 2) * t**2 / (1 + t**2)).clamp_min(1e-6)
        x0_hat, vjp = posterior.tweedie(x, s)
        if self.probes is None:
            units = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device).reshape(
                -1, 1, *x.shape[1:]
            )
            slope = sum(v * vjp(v.expand_as(x)) for v in units)
        else:
            signs = (generator.randn_like(x).sign() for _ in range(self.probes))
            slope = sum(v * vjp(v) for v in signs) / self.probes
        return x0_hat, (s**2 * slope).clamp(1e-6, s**2)
