"""Structure networks: the sharp grey picture at 1/2, 1/4 and 1/8 of its size from a blurry one.

    z_s = B_s x + tau_s n,    B_s = (average over squares of s x s pixels) of grey,
    (z_s, tau_s) = g_s(y)

Ren, Delbracio, Talebi, Gerig, Milanfar, Multiscale Structure Guided Diffusion for Image Deblurring,
ICCV 2023, https://arxiv.org/abs/2212.01789. The paper's networks predict z_s from B_s y; the
standard deviation tau_s is our addition.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inverse.errors import OptionError
from inverse.priors.card_schema import Blocks, Width
from inverse.priors.networks.unet import pad_to_multiple, pixel_norm
from inverse.registry.types import Range
from inverse_plugins.structure.coarse_pictures import averaged, grey_of


class Estimate(NamedTuple):
    """Prediction of the sharp grey picture at one scale.

    mean: (B, 1, h, w), intensities.
    log_tau: log of its standard deviation (B, 1, h, w).
    features: of the last residual block (B, C, h, w).
    """

    mean: Tensor
    log_tau: Tensor
    features: Tensor


@dataclass(frozen=True)
class StructureConfig:
    """Architecture of `StructureNetworks`; stored beside the weights.

    Args:
        scales: sides of the averaged squares (pixels), ascending powers of 2.
        widths: feature channels of each level of each network, finest first: the scale itself, its
            half, its quarter.
        blocks: residual blocks of each of these levels, mirrored on the way up.

    Raises: OptionError for invalid scales, or widths and blocks of different lengths.
    """

    scales: tuple[Annotated[int, Range(2, 64)], ...] = (2, 4, 8)
    widths: tuple[Width, ...] = (24, 32, 48)
    blocks: tuple[Blocks, ...] = (1, 1, 2)

    def __post_init__(self):
        powers_of_2 = {s for s in self.scales if s >= 2 and s & (s - 1) == 0}
        if not self.scales or list(self.scales) != sorted(powers_of_2):
            raise OptionError(
                "structure: scales must be different powers of 2, at least 2 and ascending, "
                f"got {self.scales}"
            )
        lengths_differ = len(self.widths) != len(self.blocks)
        if not self.widths or lengths_differ or min(*self.widths, *self.blocks) < 1:
            raise OptionError(
                "structure: widths and blocks must be equally many positive numbers, "
                f"got {self.widths} and {self.blocks}"
            )


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(silu(norm(x))))), normalised over the channels of each pixel."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(pixel_norm(x)))))


class Regressor(nn.Module):
    """g_s: predicts the sharp grey picture at one scale as a correction to the blurry one.

    forward: (B, 1, h, w), intensities -> Estimate.
    """

    def __init__(self, widths: tuple[int, ...], blocks: tuple[int, ...]):
        super().__init__()
        self.head = nn.Conv2d(1, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(w) for _ in range(n)))
            for w, n in zip(widths, blocks, strict=True)
        )
        self.up = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(w) for _ in range(n)))
            for w, n in zip(widths[:-1], blocks[:-1], strict=True)
        )
        self.shrink = nn.ModuleList(
            nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(widths)
        )
        self.grow = nn.ModuleList(
            nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairwise(widths)
        )
        self.tail = nn.Conv2d(widths[0], 2, 3, padding=1)
        nn.init.zeros_(self.tail.weight)
        self.tail.bias = nn.Parameter(torch.tensor([0.0, -3.0]))  # no correction, tau = 0.05

    def forward(self, grey: Tensor) -> Estimate:
        height, width = grey.shape[-2:]
        h = self.head(pad_to_multiple(grey, 2 ** len(self.grow)) - 0.5)
        skips = []
        for level, blocks in enumerate(self.down):
            h = blocks(h)
            if level < len(self.shrink):
                skips.append(h)
                h = self.shrink[level](h)
        for level in reversed(range(len(self.grow))):
            h = self.up[level](self.grow[level](h) + skips[level])
        h = h[..., :height, :width]
        correction, log_tau = (
            self.tail(F.silu(pixel_norm(h))).float().to(grey.dtype).chunk(2, dim=1)
        )
        return Estimate(grey + correction, log_tau.clamp_min(-7), h)


class StructureNetworks(nn.Module):
    """One `Regressor` for each scale.

    forward: a picture (B, 1 or 3, H, W), intensities -> an `Estimate` for each scale s, of
    ceil(H / s) x ceil(W / s) pixels.
    """

    def __init__(self, config: StructureConfig):
        super().__init__()
        self.config = config
        self.nets = nn.ModuleDict(
            {str(s): Regressor(config.widths, config.blocks) for s in config.scales}
        )

    def forward(self, y: Tensor) -> dict[int, Estimate]:
        grey = grey_of(pad_to_multiple(y, max(self.config.scales)))
        estimates = {}
        for s in self.config.scales:
            height, width = (-(-n // s) for n in y.shape[-2:])
            parts = self.nets[str(s)](averaged(grey, s))
            estimates[s] = Estimate(*(part[..., :height, :width] for part in parts))
        return estimates


def structure_loss(estimates: dict[int, Estimate], sharp: Tensor) -> Tensor:
    """Half the log mean square error plus the negative log-likelihood of tau, over all scales: ().

    The mean learns from the square error, as in the paper; tau alone learns from
    -log N(B_s x; mean, tau^2). A mean trained by the likelihood would neglect edges, where errors
    and therefore tau are large. The log gives all scales the same weight.

    Args:
        estimates: by scale.
        sharp: (B, 1 or 3, H, W), intensities.
    """
    grey, losses = grey_of(sharp), []
    for s, (mean, log_tau, _) in estimates.items():
        square = (averaged(grey, s) - mean).square()
        likelihood = (0.5 * square.detach() * (-2 * log_tau).exp() + log_tau).mean()
        losses.append(0.5 * square.mean().log() + likelihood)
    return torch.stack(losses).sum()
