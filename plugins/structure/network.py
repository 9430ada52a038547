"""Coarse structure: what a blurry picture says of the sharp one's greys at 1/2, 1/4 and 1/8 of its size, and how surely.

    z_s = B_s x + tau_s n,    B_s = (average over squares of s x s pixels) of grey,    (z_s, tau_s) = g_s(y)

Ren, Delbracio, Talebi, Gerig, Milanfar, Multiscale Structure Guided Diffusion for Image Deblurring, ICCV 2023,
https://arxiv.org/abs/2212.01789. Theirs is the network that predicts the sharp grey picture at each scale from the blurry one there; the
standard deviation tau is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inverse.errors import OptionError
from inverse.measurement.deepinv_import import deepinv
from inverse.priors.networks.unet import pad_to_multiple, pixel_norm

LUMINANCE = (0.299, 0.587, 0.114)
"""Of a picture's three channels in its grey, as `images.read_image` has it; no gamma is undone."""


class Estimate(NamedTuple):
    """Of the sharp grey picture at one scale.

    mean: (B, 1, h, w), intensities.
    log_tau: (B, 1, h, w), of its standard deviation.
    features: (B, C, h, w), of the network's last residual block.
    """

    mean: Tensor
    log_tau: Tensor
    features: Tensor


@dataclass(frozen=True)
class StructureConfig:
    """Architecture; stored beside the weights.

    Args:
        scales: pixels of a side that are averaged to one, powers of 2, ascending.
        widths, blocks: of each scale's network: feature channels and residual blocks of each of its levels, finest first, at
            the scale itself, half and quarter of it; mirrored on the way up.
    """

    scales: tuple[int, ...] = (2, 4, 8)
    widths: tuple[int, ...] = (24, 32, 48)
    blocks: tuple[int, ...] = (1, 1, 2)

    def __post_init__(self):
        if not self.scales or list(self.scales) != sorted(
            {s for s in self.scales if s >= 2 and s & (s - 1) == 0}
        ):
            raise OptionError(
                f"structure: scales must be different powers of 2 from 2 on, ascending, got {self.scales}"
            )
        if (
            not self.widths
            or len(self.widths) != len(self.blocks)
            or min(*self.widths, *self.blocks) < 1
        ):
            raise OptionError(
                f"structure: widths and blocks must be as many positive numbers, got {self.widths} and {self.blocks}"
            )


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(silu(norm(x))))), normalised pixel by pixel."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(pixel_norm(x)))))


class Regressor(nn.Module):
    """g_s: a blurry grey picture at one scale -> the sharp one there, as what is to be added to it. forward: (B, 1, h, w) -> Estimate."""

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
        self.tail.bias = nn.Parameter(torch.tensor([0.0, -3.0]))  # nothing to add, known to 0.05

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
        added, log_tau = self.tail(F.silu(pixel_norm(h))).float().to(grey.dtype).chunk(2, dim=1)
        return Estimate(grey + added, log_tau.clamp_min(-7), h)


class Structure(nn.Module):
    """The networks of all scales. forward: a picture (B, 1 or 3, H, W), intensities -> an Estimate by scale, each of ceil(H / s) x ceil(W / s)."""

    def __init__(self, config: StructureConfig):
        super().__init__()
        self.config = config
        self.nets = nn.ModuleDict(
            {str(s): Regressor(config.widths, config.blocks) for s in config.scales}
        )

    def forward(self, y: Tensor) -> dict[int, Estimate]:
        grey = grey_of(pad_to_multiple(y, max(self.config.scales)))
        found = {}
        for s in self.config.scales:
            size = tuple(-(-n // s) for n in y.shape[-2:])
            found[s] = Estimate(
                *(part[..., : size[0], : size[1]] for part in self.nets[str(s)](averaged(grey, s)))
            )
        return found


def structure_loss(estimates: dict[int, Estimate], sharp: Tensor) -> Tensor:
    """Half the log of the mean square error, and the likelihood that tau gives these errors, added up over the scales: ().

    The mean learns from the square error, as the paper's does, and tau alone from -log N(B_s x; mean, tau^2): that of both at once would have
    the mean neglect the edges, whose errors are large, for as long as they are. The log makes the scales weigh the same.
    """
    grey, losses = grey_of(sharp), []
    for s, (mean, log_tau, _) in estimates.items():
        square = (averaged(grey, s) - mean).square()
        losses.append(
            0.5 * square.mean().log()
            + (0.5 * square.detach() * (-2 * log_tau).exp() + log_tau).mean()
        )
    return torch.stack(losses).sum()


def grey_of(x: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 1, H, W) by luminance; one channel stays."""
    return (
        x if x.shape[1] == 1 else (x * x.new_tensor(LUMINANCE)[:, None, None]).sum(1, keepdim=True)
    )


def colour_of(x: Tensor) -> Tensor:
    """Red and blue less grey: (B, 3, H, W) -> (B, 2, H, W)."""
    return x[:, ::2] - grey_of(x)


def averaged(x: Tensor, side: int) -> Tensor:
    """Mean over squares, at the right and lower edge over what there is of one: (B, C, H, W) -> (B, C, ceil(H / side), ceil(W / side))."""
    return F.avg_pool2d(x, side, ceil_mode=True)


def coarse_grey(scale: int, shape: tuple[int, ...]) -> Any:
    """B_s: x (B, 1 or 3, H, W) -> (B, 1, ceil(H / s), ceil(W / s)), a deepinv `LinearPhysics`."""
    return _coarse(scale, shape, [LUMINANCE if shape[0] == 3 else (1.0,)])


def coarse_colour(scale: int, shape: tuple[int, ...]) -> Any:
    """The averages of `colour_of`: x (B, 3, H, W) -> (B, 2, ceil(H / s), ceil(W / s)), a deepinv `LinearPhysics`."""
    r, g, b = LUMINANCE
    return _coarse(scale, shape, [(1 - r, -g, -b), (-r, -g, 1 - b)])


def _coarse(scale: int, shape: tuple[int, ...], colours: list[tuple[float, ...]]) -> Any:
    """Averages over squares of the channels that a matrix (out, in) mixes."""
    height, width = shape[-2:]
    there = F.pad(
        torch.ones(1, 1, height, width, dtype=torch.float64),
        (0, -width % scale, 0, -height % scale),
    )
    pixels = F.avg_pool2d(there, scale, divisor_override=1)

    class Coarse(deepinv("physics").LinearPhysics):  # type: ignore[misc]
        def __init__(self):
            super().__init__(img_size=shape)
            self.register_buffer("mix", torch.tensor(colours, dtype=torch.float64))
            self.register_buffer("share", 1 / pixels)

        def A(self, x: Tensor, **_: Any) -> Tensor:
            return torch.einsum("oc,bchw->bohw", self.mix.to(x), averaged(x, scale))

        def A_adjoint(self, v: Tensor, **_: Any) -> Tensor:
            spread = (
                (v * self.share.to(v))
                .repeat_interleave(scale, -2)
                .repeat_interleave(scale, -1)[..., :height, :width]
            )
            return torch.einsum("oc,bohw->bchw", self.mix.to(v), spread)

    return Coarse()
