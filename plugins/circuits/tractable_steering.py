"""Tractable steering: inpainting in which a circuit given the known pixels corrects the denoiser.

Liu, Niepert, Van den Broeck, Image Inpainting via Tractable Steering of Diffusion Models, ICLR
2024, https://arxiv.org/abs/2401.03349 (section 4, and the mixing schedule of the authors' code), in
the VE coordinate x / sqrt(alpha_bar).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

import inverse
from inverse.errors import OptionError
from inverse.registry.discovery import with_settings
from inverse_plugins.circuits.guides import ImageEvidence, load_guide, measured_pixels

BASES = ("ddnm", "ddnm-plus", "diffpir", "repaint", "copaint")


@dataclass(frozen=True)
class TractableSteering(inverse.Method):
    """Mix the denoiser of another method with a circuit's moments of each pixel in its first steps.

    The circuit gives p(x0_i | x, y). Over pixels (circuit-photo-8, circuit-digits: blocks of its
    size, every channel alone), noisy pixels are soft evidence N(x_i; v, sigma^2) where y has no
    measurement, and known pixels are N(y_i; v, sigma_y^2). Over the codes of a VQ autoencoder
    (circuit-photo-64), as in the authors' experiments, the evidence is the soft code of x0_hat with
    y filled in, and the moments are those of decoded draws. Both sides enter a weighted geometric
    mean, the circuit with weight 1 - a: a = a0 + (a1 - a0) exp(-k t / T), where t / T falls from 1
    to 0 over the steps. a = 1 is the base method, bit for bit.

    Departures: both sides enter by mean and variance; their geometric mean is then a Gaussian, and
    its mean goes to the base. `bins=256` draws each pixel instead, as the authors do. The variance
    of decoded draws includes the codec's own error. The authors' base is `copaint`; the default has
    its DDIM step (eta = 0) and needs no gradient of the network. The gradient steps of `copaint`
    are not steered, as theirs.

    Args:
        steps: steps of the base method, on the VP schedule; a setting of the base takes precedence.
        base: method to steer (ddnm, ddnm-plus, diffpir, repaint or copaint), with settings after a
            colon: diffpir:zeta=0.3,steps=50; otherwise with its defaults.
        circuit: shipped circuit, or a .safetensors file; image sides must be multiples of its block
            sides.
        fraction: share of the steps, from the first, that are steered; the paper takes 0.1 for
            faces and 0.05 for other photographs.
        a0, a1, k: schedule of the exponent a; a0 = a1 = 1 is the base, a0 = a1 = 0 the circuit
            alone.
        variance: variance of the denoiser's side: step is the paper's, the variance of the
            sampler's step; tweedie is that of x0 given x, sigma^2 dx0_hat/dx, by products with
            random signs.
        probes: products for each evaluation of tweedie; auto takes every pixel in turn, exactly.
        draws: number of maps of codes to decode, at least 2, for a circuit over codes.
        drawn: independent draws code by code, as published; joint draws whole maps.
        hot, cold: temperatures of the soft code of a patch without known pixels and of a known
            patch.
        top: number of codes of a patch that keep their weight.
        bins: number of intensities from which each pixel of a steered image is drawn, the authors'
            256; auto takes the mean of the weighted Gaussians.
    """

    name = "tractable-steering"
    reference = (
        "Liu, Niepert, Van den Broeck, Image Inpainting via Tractable Steering of Diffusion "
        "Models, ICLR 2024, https://arxiv.org/abs/2401.03349"
    )
    equation = "p(x0_i | x, y) ~ p_DM(x0_i | x)^a p_PC(x0_i | x, y)^(1 - a)"
    claim = "none"  # the base's claim needs the denoiser of the prior
    needs = ("linear", "gaussian", "image")

    steps: inverse.Count = 100
    base: str = "ddnm:eta=0"
    circuit: str = "circuit-photo-8"
    fraction: inverse.Fraction = 0.1
    a0: inverse.Fraction = 0.8
    a1: inverse.Fraction = 1.0
    k: Annotated[float, inverse.Range(0, 1e6)] = 2.0
    variance: Literal["step", "tweedie"] = "step"
    probes: inverse.Count | None = 8
    draws: Annotated[int, inverse.Range(2, 10**6)] = 8
    drawn: Literal["independent", "joint"] = "independent"
    hot: inverse.Positive = 0.1
    cold: inverse.Positive = 0.01
    top: inverse.Count = 20
    bins: Annotated[int, inverse.Range(2, 65536)] | None = None

    def __post_init__(self):
        super().__post_init__()
        if (name := self.base.partition(":")[0]) not in BASES:
            raise OptionError(
                f"tractable-steering: base must be one of {', '.join(BASES)}, got '{name}'"
            )
        _ = self.steered  # refuses wrong settings of the base

    @property
    def guide(self):
        """The guide of the circuit."""
        settings = {name: getattr(self, name) for name in ("draws", "drawn", "hot", "cold", "top")}
        return load_guide(self.circuit, **settings)

    @property
    def steered(self):
        """The base method."""
        return with_settings(self.base, steps=self.steps)

    def exponent(self, i):
        """a at step i, counted from 0: the denoiser's weight in the geometric mean."""
        steps = self.steered.steps
        if i >= self.fraction * steps:
            return 1.0
        return self.a0 + (self.a1 - self.a0) * math.exp(-self.k * (1 - i / steps))

    @property
    def total(self):
        return self.steered.total

    def unsupported(self, posterior):
        if reason := super().unsupported(posterior) or self.steered.unsupported(posterior):
            return reason
        if not isinstance(posterior.operator, inverse.physics.Inpainting):
            return "tractable-steering needs an inpainting operator, which tells the known pixels"
        reason = self.guide.unsupported_shape(posterior.shape)
        return reason and f"tractable-steering: circuit {self.circuit} does not fit, {reason}"

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor | inverse.Weighted]:
        guide = self.guide.to(posterior.device, posterior.dtype)
        levels = inverse.noise_levels(posterior, "vp", self.steered.steps)
        (known, noise), prior = measured_pixels(posterior), posterior.prior

        def denoise(x, sigma):
            i = int((levels[:-1] - sigma).abs().argmin())
            a = self.exponent(i)
            if a == 1:
                return posterior.denoise(x, sigma)
            x0_hat, v1 = self.denoiser_moments(posterior, x, levels[i], levels[i + 1], generator)
            evidence = ImageEvidence(
                prior.decode(x), (prior.scale * sigma) ** 2, prior.decode(x0_hat), known, noise
            )
            mean, variance = guide.moments(evidence, generator)
            if self.bins is not None:
                u, v = generator.rand_like(x), v1 * prior.scale**2
                return prior.encode(
                    drawn_pixels(self.bins, u, a, prior.decode(x0_hat), v, mean, variance)
                )
            m, v2 = prior.encode(mean), variance / prior.scale**2
            w1, w2 = a / v1, (1 - a) / v2
            return (w1 * x0_hat + w2 * m) / (w1 + w2)

        steered = posterior.replaced(denoise=denoise, tweedie=posterior.tweedie)
        yield from self.steered.run(steered, samples, generator)

    def denoiser_moments(self, posterior, x, s, t, generator):
        """Mean (B, *shape) and variance of x0 according to the denoiser, model units.

        s is the noise level of x and t the next level.
        """
        if self.variance == "step":
            return posterior.denoise(x, s), ((1 - (t / s) ** 2) * t**2 / (1 + t**2)).clamp_min(1e-6)
        x0_hat, vjp = posterior.tweedie(x, s)
        if self.probes is None:
            identity = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device)
            units = identity.reshape(-1, 1, *x.shape[1:])
            slope = sum(v * vjp(v.expand_as(x)) for v in units)
        else:
            signs = (generator.randn_like(x).sign() for _ in range(self.probes))
            slope = sum(v * vjp(v) for v in signs) / self.probes
        return x0_hat, (s**2 * slope).clamp(1e-6, s**2)


def drawn_pixels(bins, u, a, m1, v1, m2, v2):
    """A draw of each pixel from p1^a p2^(1 - a) on `bins` intensities from 0 to 1, by uniform u.

    As in the authors' code, p1 is the denoiser's Gaussian, cut at two standard deviations (here, at
    least the nearest bin remains), and p2 the circuit's, with a floor of 1e-3 on its density in
    units of [-1, 1].
    """
    values = torch.linspace(0, 1, bins, dtype=u.dtype, device=u.device)
    distance1, distance2 = ((values - m[..., None]).square() for m in (m1.clamp(0, 1), m2))
    v1, v2 = (v.expand_as(u)[..., None] for v in (v1, v2))
    density2 = torch.exp(-0.5 * distance2 / v2) / (2 * math.pi * v2).sqrt() + 2e-3
    log_p = -0.5 * a * distance1 / v1 + (1 - a) * density2.log()
    if a > 0:
        cut = torch.maximum(4 * v1, distance1.amin(-1, keepdim=True))
        log_p = log_p.masked_fill(distance1 > cut, -torch.inf)
    cumulative = log_p.softmax(-1).cumsum(-1)
    place = torch.searchsorted(cumulative, u[..., None] * cumulative[..., -1:], right=True)
    return values[place[..., 0].clamp_max(bins - 1)]
