"""A diffusion network that is given a blurry picture, guided by coarse structure: D(x, sigma | y, h).

    D(x, sigma | y, h) = y + c_skip (x - y) + c_out F([c_in (x - y), y], log(sigma) / 4, h)

with the coefficients of Karras et al. (NeurIPS 2022, table 1) for data that lie around y with a standard deviation sigma_data. h_s, the last
features of the structure network of scale s, enter the residual blocks of the encoder's level at that scale.

Ren, Delbracio, Talebi, Gerig, Milanfar, Multiscale Structure Guided Diffusion for Image Deblurring, ICCV 2023,
https://arxiv.org/abs/2212.01789. The diffusion of the paper is that of x; so is this one, written around y.
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
from inverse_plugins.structure.network import Estimate, Structure, StructureConfig

Guide = Sequence[Sequence[Tensor | None]]
"""What is added inside each block of each level of the encoder; None where there is no structure network of that scale."""

SIGMA_SPAN = (0.01, 20.0)
"""Noise levels that are trained, over sigma_data."""


@dataclass(frozen=True)
class ConditionalConfig:
    """Architecture of a `Conditional`.

    Args:
        structure: of the structure networks; their scales must be among those of the network's levels, 2, 4, ...
        unet: of F, without the channels that y takes.
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
        """The scale of each level of F."""
        return [2 ** (level + 1) for level in range(len(self.unet.widths))]


class Conditional(nn.Module):
    """F and the structure networks that guide it.

    Args:
        sigma_data: root mean square of x - y, model units.
    """

    def __init__(self, config: ConditionalConfig, sigma_data: float):
        super().__init__()
        structure, network = config.structure, config.unet
        self.config, self.sigma_data = config, float(sigma_data)
        self.structure, self.unet = (
            Structure(structure),
            UNet(replace(network, extra=network.channels)),
        )
        self.inject = nn.ModuleDict(
            {
                str(scale): nn.ModuleList(_zeros(structure.widths[0], width) for _ in range(blocks))
                for scale, width, blocks in zip(
                    config.levels, network.widths, network.blocks, strict=True
                )
                if scale in structure.scales
            }
        )

    def estimates(self, y: Tensor) -> dict[int, Estimate]:
        """What the structure networks say of a picture (B, C, H, W) in intensities, padded as F pads it."""
        return self.structure(pad_to_multiple(y, self.unet.config.stride))

    def guide(self, estimates: dict[int, Estimate]) -> Guide:
        """It depends on y alone: computed once for a picture, not once a step."""
        injected = {
            s: [layer(estimates[int(s)].features) for layer in cast(nn.ModuleList, layers)]
            for s, layers in self.inject.items()
        }
        return [
            injected.get(str(s), [None] * blocks)
            for s, blocks in zip(self.config.levels, self.config.unet.blocks, strict=True)
        ]

    def forward(self, x: Tensor, sigma: Tensor, y: Tensor, guide: Guide | None = None) -> Tensor:
        """E[x0 | x, y]: x, y (B, C, H, W), model units in [-1, 1], sigma (B,) -> (B, C, H, W); without a guide it is the unguided network."""
        s = like(sigma, x)
        total = s**2 + self.sigma_data**2
        away = x - y
        raw = self.unet(torch.cat([away * total.rsqrt(), y], 1), sigma.log() / 4, guide)
        return (
            y
            + away * (self.sigma_data**2 / total)
            + raw.to(x.dtype) * (s * self.sigma_data * total.rsqrt())
        )

    def loss(
        self, x0: Tensor, sigma: Tensor, noise: Tensor, y: Tensor, guide: Guide | None
    ) -> Tensor:
        """Denoising loss weighted to unit size at every noise level, mean over the batch: ()."""
        s = like(sigma, x0)
        weight = (s**2 + self.sigma_data**2) / (s * self.sigma_data) ** 2
        return (weight * (self(x0 + s * noise, sigma, y, guide) - x0).square()).mean()

    def noise_levels(self, count: int, generator: torch.Generator) -> Tensor:
        """Training noise levels (count,): EDM's log-normal law, over sigma_data."""
        law = torch.exp(-0.5 + 1.2 * torch.randn(count, generator=generator))
        return self.sigma_data * law.clamp(*SIGMA_SPAN)


class ConditionalPrior(Prior):
    """The denoiser that `Conditional` is, given one picture; any number of rows.

    Args:
        network: of the same channels as the picture.
        y: (1, C, H, W), intensities.
        guided: whether structure guides it.
    """

    def __init__(self, network: Conditional, y: Tensor, guided: bool):
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
    """The guide of the rows that are kept, zero for the others: keep (B, 1, 1, 1) of zeros and ones."""
    return [[g if g is None else g * keep for g in level] for level in guide]


def _zeros(inputs: int, outputs: int) -> nn.Conv2d:
    """A 1x1 convolution that starts at zero, so that the guided network starts as the unguided one."""
    layer = nn.Conv2d(inputs, outputs, 1)
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
