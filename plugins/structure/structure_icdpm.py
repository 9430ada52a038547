"""Structure-guided deblurring by a diffusion network that is given the blurry picture; no kernel, no operator.

Ren, Delbracio, Talebi, Gerig, Milanfar, Multiscale Structure Guided Diffusion for Image Deblurring, ICCV 2023,
https://arxiv.org/abs/2212.01789.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

import inverse
from inverse.per_image import image_by_image
from inverse_plugins.structure.card import StructureCard, load_conditional
from inverse_plugins.structure.conditional import ConditionalPrior


@dataclass(frozen=True)
class StructureICDPM(inverse.Method):
    """Sample from an image-conditioned diffusion network whose encoder takes in what small networks see of coarse grey structure in y.

    It knows the blurs that it was trained on, and neither the operator nor the prior of the problem. Structure is computed once for a
    picture. Several samples and their mean are the paper's "SA".

    The network that ships is small: take means of four samples, which are 0.3 to 0.4 dB above the blurry picture where single ones are not.
    `inverse train-structure --diffusion` trains a better one (docs/structure.md).

    Departures: x0 is predicted, with the weights of Karras et al. (2022), where the paper predicts the noise; the diffusion is written around y
    and starts from y + sigma_max n; the structure networks' loss is a Gaussian likelihood where theirs is the square error; guidance was left out
    of a share of the training, so that one network gives both sides of the ablation and takes a weight.

    Args:
        steps: sampler steps.
        sampler: ancestral is the paper's.
        schedule: name of a noise schedule.
        sigma_max: first noise level, model units; by default the network's. The paper tunes it with the steps.
        sigma_min: last noise level before 0, model units; by default the network's.
        net: the network: a shipped name, or its .safetensors file.
        guidance: weight w of structure in D_0 + w (D_h - D_0), D_0 without it; 1 and 0 take one evaluation a step, others two.
    """

    name = "structure-icdpm"
    reference = "Ren, Delbracio, Talebi, Gerig, Milanfar, Multiscale Structure Guided Diffusion for Image Deblurring, ICCV 2023, https://arxiv.org/abs/2212.01789"
    equation = "x ~ p(x | y, h),  h_s = last features of g_s(B_s y),  D = D(x, sigma | y, h)"
    claim = "none"  # of a network's training
    units = "it reads y as a picture, in intensities"
    needs = ("image",)

    steps: int = 50
    sampler: str = "ancestral"
    schedule: str = "karras"
    sigma_max: float | None = None
    sigma_min: float | None = None
    net: str = "structure-icdpm"
    guidance: float = 1.0

    def unsupported(self, posterior):
        if reason := super().unsupported(posterior):
            return reason
        if not posterior.prior.affine or tuple(posterior.y.shape[1:]) != posterior.shape:
            return f"structure-icdpm reads y as a picture of the size of x, {posterior.shape}; this y is {tuple(posterior.y.shape[1:])}"
        channels = StructureCard.read(self.net).unet.channels
        if posterior.shape[0] != channels:
            return f"structure-icdpm: its network reads pictures of {channels} channels, this one has {posterior.shape[0]}"
        return None

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor | inverse.Weighted]:
        network = load_conditional(self.net).to(posterior.device)
        yield from image_by_image(
            posterior, samples, generator, lambda one, n, g: self._one(network, one, g)
        )

    def _one(self, network, one, generator):
        """The iterates of one image's rows."""
        wanted = {0.0: [False], 1.0: [True]}.get(self.guidance, [False, True])
        given = [self._given(network, one, guided) for guided in wanted]
        sigmas = inverse.noise_levels(
            given[0], self.schedule, self.steps, self.sigma_min, self.sigma_max
        )
        x = one.prior.encode(one.y) + sigmas[0] * inverse.standard_normal(one, generator)

        def denoise(x, sigma):
            first, *second = (posterior.denoise(x, sigma) for posterior in given)
            return first + self.guidance * (second[0] - first) if second else first

        yield from inverse.get_sampler(self.sampler)(denoise, x, sigmas, generator)

    def _given(self, network, one, guided):
        """The posterior with the network's denoiser in place of the prior's, in the prior's units."""
        native = ConditionalPrior(network, one.y[:1].to(next(network.parameters()).dtype), guided)
        a = one.prior.scale / native.scale
        return one.replaced(
            prior=inverse.RescaledPrior(native, a, (one.prior.shift - native.shift) / native.scale),
        )
