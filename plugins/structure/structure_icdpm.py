"""Structure-guided deblurring by an image-conditioned diffusion network, without a kernel.

Ren, Delbracio, Talebi, Gerig, Milanfar, Multiscale Structure Guided Diffusion for Image Deblurring,
ICCV 2023, https://arxiv.org/abs/2212.01789.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

import inverse
from inverse.per_image import image_by_image
from inverse_plugins.structure.cards import StructureCard, load_conditional
from inverse_plugins.structure.diffusion_network import ConditionalPrior


@dataclass(frozen=True)
class StructureICDPM(inverse.Method):
    """Sample an image-conditioned diffusion network guided by coarse structure of y.

    Small networks extract the structure from y; their features enter the encoder of the diffusion
    network. The structure is computed once for each picture. The method uses neither the operator
    nor the prior of the problem: it removes the kinds of blur in its training corpus. The mean of
    several samples is the paper's "SA".

    The shipped network is small. Use the mean of four samples, which is 0.3 to 0.4 dB above the
    blurry picture; single samples are not above it. `inverse train-structure --diffusion` trains a
    better network (docs/structure.md).

    Departures: the network predicts x0 with the weights of Karras et al. (2022), where the paper
    predicts the noise; the diffusion is centred on y and starts from y + sigma_max n; the loss of
    the structure networks is a Gaussian likelihood, where the paper's is the square error; guidance
    is dropped in a share of the training, so that one network serves both sides of the ablation and
    guidance has a weight.

    Args:
        steps: sampler steps.
        sampler: name of a sampler; ancestral is the paper's.
        schedule: name of a noise schedule.
        sigma_max: first noise level, model units; by default the network's. The paper tunes it with
            the number of steps.
        sigma_min: last noise level before 0, model units; by default the network's.
        net: diffusion network: a shipped name, or a .safetensors file.
        guidance: weight w of structure in D_0 + w (D_h - D_0), where D_0 has no structure; 1 and 0
            take one evaluation per step, other weights two.
    """

    name = "structure-icdpm"
    reference = (
        "Ren, Delbracio, Talebi, Gerig, Milanfar, Multiscale Structure Guided Diffusion for Image "
        "Deblurring, ICCV 2023, https://arxiv.org/abs/2212.01789"
    )
    equation = "x ~ p(x | y, h),  h_s = last features of g_s(B_s y),  D = D(x, sigma | y, h)"
    claim = "none"  # the law is that of the training corpus
    units = "it reads y as a picture, in intensities"
    needs = ("image",)

    steps: inverse.Count = 50
    sampler: str = "ancestral"
    schedule: str = "karras"
    sigma_max: inverse.Positive | None = None
    sigma_min: inverse.Positive | None = None
    net: str = "structure-icdpm"
    guidance: Annotated[float, inverse.Range(-1e3, 1e3)] = 1.0

    def unsupported(self, posterior):
        if reason := super().unsupported(posterior):
            return reason
        size_of_y = tuple(posterior.y.shape[1:])
        if not posterior.prior.affine or size_of_y != posterior.shape:
            return (
                "structure-icdpm reads y as a picture of the size of x, "
                f"{posterior.shape}; this y is {size_of_y}"
            )
        channels = StructureCard.read(self.net).unet.channels
        if posterior.shape[0] != channels:
            return (
                f"structure-icdpm: its network reads pictures of {channels} channels, "
                f"this one has {posterior.shape[0]}"
            )
        return None

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor | inverse.Weighted]:
        network = load_conditional(self.net).to(posterior.device)

        def run_image(image, samples, generator):
            return self._iterates(network, image, generator)

        yield from image_by_image(posterior, samples, generator, run_image)

    def _iterates(self, network, image, generator):
        """The iterates of the rows of one image."""
        variants = {0.0: [False], 1.0: [True]}.get(self.guidance, [False, True])
        posteriors = [self._with_network(network, image, guided) for guided in variants]
        sigmas = inverse.noise_levels(
            posteriors[0], self.schedule, self.steps, self.sigma_min, self.sigma_max
        )
        x = image.prior.encode(image.y) + sigmas[0] * inverse.standard_normal(image, generator)

        def denoise(x, sigma):
            unguided, *guided = (posterior.denoise(x, sigma) for posterior in posteriors)
            return unguided + self.guidance * (guided[0] - unguided) if guided else unguided

        yield from inverse.get_sampler(self.sampler)(denoise, x, sigmas, generator)

    def _with_network(self, network, image, guided):
        """The posterior with the network as its prior, in the units of the posterior's prior."""
        dtype = next(network.parameters()).dtype
        native = ConditionalPrior(network, image.y[:1].to(dtype), guided)
        scale = image.prior.scale / native.scale
        shift = (image.prior.shift - native.shift) / native.scale
        return image.replaced(prior=inverse.RescaledPrior(native, scale, shift))
