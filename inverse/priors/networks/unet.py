"""The U-Net of a trained prior: local, fully convolutional, conditioned on the noise level.

Every layer is translation-equivariant on the grid of the stride; normalisation is over the channels
of each pixel. A denoised tile therefore equals the same region of the denoised image if its margin
covers the receptive field.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Annotated, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inverse.errors import OptionError
from inverse.priors.card_schema import Blocks, Width
from inverse.registry.types import Range

MAX_LEVELS = 10
"""Levels of a `UNet`, whose stride is then 1024 pixels."""


@dataclass(frozen=True)
class UNetConfig:
    """Architecture of a `UNet`; stored beside the weights.

    Args:
        channels: image channels in and out.
        widths: feature channels of each level, finest first; the finest has half the resolution.
        blocks: residual blocks of each level in the encoder; the decoder mirrors them, without the
            last level.
        embedding: width of the noise-level embedding.
        extra: further input channels, e.g. maps of static quantities.
        circular: whether the last column adjoins the first, as on a globe; the image width must
            then be a multiple of the stride.

    Raises: OptionError if widths and blocks are not equally many positive numbers.
    """

    channels: Width = 3
    widths: tuple[Width, ...] = (64, 128, 256)
    blocks: tuple[Blocks, ...] = (2, 3, 4)
    embedding: Width = 256
    extra: Annotated[int, Range(0, 8192)] = 0
    circular: bool = False

    def __post_init__(self):
        if (
            not self.widths
            or len(self.widths) != len(self.blocks)
            or min(*self.widths, *self.blocks) < 1
            or len(self.widths) > MAX_LEVELS
        ):
            raise OptionError(
                "network: widths and blocks must be equally many positive numbers, at most "
                f"{MAX_LEVELS}, "
                f"got {self.widths} and {self.blocks}"
            )

    @property
    def stride(self) -> int:
        """Sides must be a multiple of it (pixels); `UNet` pads by reflection."""
        return 2 ** len(self.widths)

    @property
    def halo(self) -> int:
        """Reach of an output pixel (pixels): half the receptive field, rounded up to the stride."""
        deepest = len(self.widths) - 1
        passes = [n if level == deepest else 2 * n for level, n in enumerate(self.blocks)]
        reach = sum(n * 2 * 2 ** (level + 1) for level, n in enumerate(passes))
        head_and_tail, alignment = 4, 2 * self.stride
        return math.ceil((reach + head_and_tail + alignment) / self.stride) * self.stride

    def to_dict(self) -> dict:
        """The fields, for a card."""
        return asdict(self)


class NoiseEmbedding(nn.Module):
    """Sinusoidal features of scaled log sigma and a two-layer perceptron: (B,) -> (B, width)."""

    def __init__(self, width: int, features: int = 64):
        super().__init__()
        frequencies = torch.exp(torch.linspace(math.log(0.25), math.log(16.0), features // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.frequencies: Tensor
        self.mlp = nn.Sequential(
            nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )

    def forward(self, log_sigma: Tensor) -> Tensor:
        angles = log_sigma[:, None] * self.frequencies
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=1))


def pixel_norm(x: Tensor) -> Tensor:
    """Divide each pixel by the root mean square of its channels: (B, C, H, W) -> same."""
    return F.rms_norm(x.permute(0, 2, 3, 1), (x.shape[1],), eps=1e-4).permute(0, 3, 1, 2)


def in_full_precision(layer: nn.Module, x: Tensor) -> Tensor:
    """layer(x) outside of autocast.

    It serves layers whose rounding error would be shared by all pixels, and whose time is
    negligible.
    """
    if not torch.is_autocast_enabled(x.device.type):
        return layer(x)
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.to(next((weight.dtype for weight in layer.parameters()), torch.float32)))


class Block(nn.Module):
    """Pre-normalised residual block x + conv(silu(a(e) conv(silu(norm(x))) + b(e))).

    e is the noise embedding. forward: x (B, width, H, W), e (B, embedding) -> like x.
    """

    full_precision = ("modulation",)

    def __init__(self, width: int, embedding: int, circular: bool = False):
        super().__init__()
        self.first = _conv(width, width, circular)
        self.modulation = nn.Linear(embedding, 2 * width)
        self.second = _conv(width, width, circular)
        _zero(self.modulation)
        _zero(self.second)

    def forward(self, x: Tensor, embedding: Tensor, guidance: Tensor | None = None) -> Tensor:
        """The block's output; `guidance` (B, width, H, W) is added before the modulation."""
        scale, shift = in_full_precision(self.modulation, embedding)[:, :, None, None].chunk(
            2, dim=1
        )
        h = self.first(F.silu(pixel_norm(x)))
        if guidance is not None:
            h = h + guidance
        return x + self.second(F.silu(h * (1 + scale) + shift))


class LongitudeConv2d(nn.Conv2d):
    """A 3x3 convolution with circular padding of the columns and zero padding of the rows."""

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(F.pad(x, (1, 1, 0, 0), mode="circular"), (0, 0, 1, 1))
        return self._conv_forward(padded, self.weight, self.bias)


def _conv(inputs: int, outputs: int, circular: bool) -> nn.Conv2d:
    if circular:
        return LongitudeConv2d(inputs, outputs, 3)
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class UNet(nn.Module):
    """Residual U-Net with additive skip connections.

    forward: x (B, C + extra, H, W) of any size, log_sigma (B,) -> (B, C, H, W). The optional
    `guidance` has a tensor (B, width, h, w) or None for each encoder block of each level, which the
    block adds; h and w are the padded size (a multiple of `stride`) divided by 2, 4, ...

    Raises: OptionError if a circular network gets a width that is no multiple of the stride.
    """

    full_precision = ("head", "tail", "embedding")
    """Layers that keep the precision of their weights under autocast."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        widths, blocks, e = config.widths, config.blocks, config.embedding
        self.embedding = NoiseEmbedding(e)
        self.head = _conv(4 * (config.channels + config.extra), widths[0], config.circular)
        self.down = nn.ModuleList(
            nn.ModuleList(Block(w, e, config.circular) for _ in range(n))
            for w, n in zip(widths, blocks, strict=True)
        )
        self.up = nn.ModuleList(
            nn.ModuleList(Block(w, e, config.circular) for _ in range(n))
            for w, n in zip(widths[:-1], blocks[:-1], strict=True)
        )
        pairs = list(pairwise(widths))
        self.shrink = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.grow = nn.ModuleList(
            nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairs
        )
        self.tail = _conv(widths[0], 4 * config.channels, config.circular)
        _zero(self.tail)

    def forward(
        self,
        x: Tensor,
        log_sigma: Tensor,
        guidance: Sequence[Sequence[Tensor | None]] | None = None,
    ) -> Tensor:
        height, width = x.shape[-2:]
        if self.config.circular and width % self.config.stride:
            raise OptionError(
                f"network: a circular network needs a multiple of {self.config.stride} columns, "
                f"got {width}"
            )
        x = pad_to_multiple(x, self.config.stride)
        embedding = in_full_precision(self.embedding, log_sigma)
        h = in_full_precision(self.head, F.pixel_unshuffle(x, 2))
        skips = []
        for level, group in enumerate(self.down):
            for i, block in enumerate(cast(nn.ModuleList, group)):
                h = block(h, embedding, guidance[level][i] if guidance else None)
            if level < len(self.shrink):
                skips.append(h)
                h = self.shrink[level](h).to(x.dtype)  # block sums keep full precision in autocast
        for level in reversed(range(len(self.grow))):
            h = self.grow[level](h) + skips[level]
            for block in cast(nn.ModuleList, self.up[level]):
                h = block(h, embedding)
        h = F.pixel_shuffle(in_full_precision(self.tail, F.silu(pixel_norm(h))), 2)
        return h[..., :height, :width]


def _zero(layer: nn.Module) -> None:
    """Initialise a layer with zeros, so that its block is initially the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad x (B, C, H, W) on the right and at the bottom to multiples of a number of pixels.

    It reflects the image, or repeats its edge if the image is smaller than the padding.
    """
    bottom, right = -x.shape[-2] % multiple, -x.shape[-1] % multiple
    if not (bottom or right):
        return x
    mode = "reflect" if bottom < x.shape[-2] and right < x.shape[-1] else "replicate"
    return F.pad(x, (0, right, 0, bottom), mode=mode)
