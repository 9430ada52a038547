"""A diffusion network conditioned on a blurry picture and guided by coarse structure.

    D(x, sigma | y, h) = y + c_skip (x - y) + c_out F([c_in (x - y), y], log(sigma) / 4, h)

The coefficients are those of Karras et al. (NeurIPS 2022, table 1) for data with standard deviation
sigma_data around y. h_s, the last features of the structure network of scale s, enter the residual
blocks of the encoder level at that scale.

Ren, Delbracio, Talebi, Gerig, Milanfar, Multiscale Structure Guided Diffusion for Image Deblurring,
ICCV 2023, https://arxiv.org/abs/2212.01789. Departure: the paper's diffusion of x is centred on y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from inverse.errors import OptionError
from inverse.priors.networks.unet import UNet, UNetConfig, pad_to_multiple
from inverse.priors.prior import Prior
from inverse.rows import like
from inverse_plugins.structure.structure_network import (
    Estimate,
    StructureConfig,
    StructureNetworks,
)

Guide = Sequence[Sequence[Tensor | None]]
"""Features added in each block of each encoder level; None at scales without structure network."""

SIGMA_SPAN = (0.01, 20.0)
"""Lowest and highest training noise level, in units of sigma_data."""


@dataclass(frozen=True)
class ConditionalConfig:
    """Architecture of a `ConditionalNetwork`.

    Args:
        structure: the structure networks; their scales must be among those of F's levels.
        unet: F, without the input channels of y.

    Raises: OptionError for a scale without a level.
    """

    structure: StructureConfig = StructureConfig()
    unet: UNetConfig = UNetConfig(widths=(32, 64, 96), blocks=(1, 2, 2), embedding=128)

    def __post_init__(self):
        if missing := set(self.structure.scales) - set(self.levels):
            raise OptionError(
                f"structure: the network has levels at scales {self.levels}, none at {min(missing)}"
            )

    @property
    def levels(self) -> list[int]:
        """The scale of each level of F: 2, 4, ..."""
        return [2 ** (level + 1) for level in range(len(self.unet.widths))]


class ConditionalNetwork(nn.Module):
    """F and the structure networks that guide it.

    Args:
        config: architecture.
        sigma_data: root mean square of x - y, model units.
    """

    def __init__(self, config: ConditionalConfig, sigma_data: float):
        super().__init__()
        structure, unet = config.structure, config.unet
        self.config, self.sigma_data = config, float(sigma_data)
        self.structure = StructureNetworks(structure)
        self.unet = UNet(replace(unet, extra=unet.channels))
        levels = zip(config.levels, unet.widths, unet.blocks, strict=True)
        self.inject = nn.ModuleDict(
            {
                str(scale): nn.ModuleList(
                    _zero_convolution(structure.widths[0], width) for _ in range(blocks)
                )
                for scale, width, blocks in levels
                if scale in structure.scales
            }
        )

    def estimates(self, y: Tensor) -> dict[int, Estimate]:
        """Structure of a picture (B, C, H, W), intensities, padded to the size that F works on."""
        return self.structure(pad_to_multiple(y, self.unet.config.stride))

    def guide(self, estimates: dict[int, Estimate]) -> Guide:
        """The guide of a picture. It depends on y alone: compute it once, not in every step."""
        injected = {
            s: [layer(estimates[int(s)].features) for layer in cast(nn.ModuleList, layers)]
            for s, layers in self.inject.items()
        }
        levels = zip(self.config.levels, self.config.unet.blocks, strict=True)
        return [injected.get(str(s), [None] * blocks) for s, blocks in levels]

    def forward(self, x: Tensor, sigma: Tensor, y: Tensor, guide: Guide | None = None) -> Tensor:
        """E[x0 | x, y]: (B, C, H, W), model units.

        Args:
            x, y: (B, C, H, W), model units in [-1, 1].
            sigma: (B,), model units.
            guide: None for the unguided network.
        """
        s = like(sigma, x)
        total = s**2 + self.sigma_data**2
        c_in, c_skip = total.rsqrt(), self.sigma_data**2 / total
        c_out = s * self.sigma_data * total.rsqrt()
        difference = x - y
        raw = self.unet(torch.cat([difference * c_in, y], 1), sigma.log() / 4, guide)
        return y + difference * c_skip + raw.to(x.dtype) * c_out

    def loss(
        self, x0: Tensor, sigma: Tensor, noise: Tensor, y: Tensor, guide: Guide | None
    ) -> Tensor:
        """Denoising loss, mean over the batch: (). Its weight makes it 1 for F = 0 at every level.

        Args:
            x0, noise, y: (B, C, H, W), model units.
            sigma: (B,), model units.
            guide: see `forward`.
        """
        s = like(sigma, x0)
        weight = (s**2 + self.sigma_data**2) / (s * self.sigma_data) ** 2
        return (weight * (self(x0 + s * noise, sigma, y, guide) - x0).square()).mean()

    def noise_levels(self, count: int, generator: torch.Generator) -> Tensor:
        """Training noise levels (count,), model units: EDM's log-normal law times sigma_data."""
        law = torch.exp(-0.5 + 1.2 * torch.randn(count, generator=generator))
        return self.sigma_data * law.clamp(*SIGMA_SPAN)


class ConditionalPrior(Prior):
    """The denoiser of a `ConditionalNetwork` for one picture, for any number of rows.

    Args:
        network: a network of the picture's channels.
        y: (1, C, H, W), intensities.
        guided: whether structure guides the network.
    """

    def __init__(self, network: ConditionalNetwork, y: Tensor, guided: bool):
        low, high = (bound * network.sigma_data for bound in SIGMA_SPAN)
        super().__init__(tuple(y.shape[1:]), shift=0.5, scale=0.5, sigma_min=low, sigma_max=high)
        self.network = network
        self.register_buffer("y", self.encode(y))
        with torch.no_grad():
            self.guide = network.guide(network.estimates(y)) if guided else None

    y: Tensor

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x))
        guide = self.guide and [
            [g if g is None else g.expand(len(x), -1, -1, -1) for g in level]
            for level in self.guide
        ]
        return self.network(x, sigma, self.y.expand(len(x), -1, -1, -1), guide)


def kept(guide: Guide, keep: Tensor) -> Guide:
    """The guide of the rows where keep (B, 1, 1, 1) is one, and zero where it is zero."""
    return [[g if g is None else g * keep for g in level] for level in guide]


def _zero_convolution(inputs: int, outputs: int) -> nn.Conv2d:
    """A 1x1 convolution with zero weights: the guided network starts as the unguided one."""
    layer = nn.Conv2d(inputs, outputs, 1)
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
