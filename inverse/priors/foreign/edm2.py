"""The network of EDM2, whose layers preserve the magnitude of activations and weights.

Karras et al., Analyzing and Improving the Training Dynamics of Diffusion Models, CVPR 2024,
https://arxiv.org/abs/2312.02696; weights in the layout of https://github.com/NVlabs/edm2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inverse.errors import PriorError
from inverse.priors.card_schema import Blocks, Width
from inverse.priors.foreign.architecture import Architecture, count
from inverse.priors.foreign.edm import check_label, edm_prior, inputs, level_sides, one_hot
from inverse.priors.prior import Prior


@dataclass(frozen=True)
class EDM2(Architecture):
    """The network of EDM2, for images; the networks of codes need their autoencoder.

    Args:
        side: of the images (pixels).
        channels: of an image.
        widths: feature channels of each level, finest first.
        blocks: residual blocks of each level.
        attention: sides at which there is attention (pixels).
        noise: Fourier features of the noise level.
        embedding: width of the embedding.
        classes: number of classes of a conditional network, 0 for none.
        label: the class of a conditional network.
    """

    name = "edm2"
    reference = "Karras et al., CVPR 2024, https://github.com/NVlabs/edm2"

    side: Width = 64
    channels: Width = 3
    widths: tuple[Width, ...] = (192, 384, 576, 768)
    blocks: Blocks = 3
    attention: tuple[Width, ...] = (16, 8)
    noise: Width = 192
    embedding: Width = 768
    classes: int = 1000
    label: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_label(self.name, self.label, self.classes)

    @classmethod
    def read(cls, weights: dict[str, Tensor]) -> dict[str, Any]:
        embedding, noise = weights["emb_noise.weight"].shape
        sides = level_sides(weights)
        first = f"enc.{sides[0]}x{sides[0]}"
        levels = [f"enc.{side}x{side}_block0" for side in sides]
        return {
            "side": sides[0],
            "channels": weights[f"{first}_conv.weight"].shape[1] - 1,
            "widths": tuple(weights[f"{level}.conv_res1.weight"].shape[0] for level in levels),
            "blocks": count(weights, first + "_block{}.conv_res0.weight"),
            "attention": tuple(
                side
                for side, level in zip(sides, levels, strict=True)
                if f"{level}.attn_qkv.weight" in weights
            ),
            "noise": noise,
            "embedding": embedding,
            "classes": inputs(weights, "emb_label.weight"),
        }

    def network(self) -> nn.Module:
        return MagnitudePreservingUNet(self)

    def prior(self, network: nn.Module) -> Prior:
        if self.channels not in (1, 3):
            raise PriorError(
                f"the network denoises codes of {self.channels} channels; a latent prior needs "
                "its autoencoder: use a folder saved by diffusers"
            )
        return edm_prior(network, network, self)


class MagnitudePreservingUNet(nn.Module):
    """The network: c_in x (B, C, H, W) and log(sigma) / 4 (B,) -> (B, C, H, W)."""

    def __init__(self, layout: EDM2):
        super().__init__()
        self.layout, widths = layout, layout.widths
        self.out_gain = nn.Parameter(torch.ones(()))
        self.emb_fourier = FourierFeatures(layout.noise)
        self.emb_noise = Layer(layout.embedding, layout.noise)
        if layout.classes:
            self.emb_label = Layer(layout.embedding, layout.classes)
        self.enc, self.dec, here, skips = nn.ModuleDict(), nn.ModuleDict(), widths[0], []

        def add(part: nn.ModuleDict, name: str, there: int, **kind: Any) -> None:
            nonlocal here
            part[name] = Block(here, there, layout.embedding, part is self.dec, **kind)
            here = there

        for level, width in enumerate(widths):
            side = layout.side >> level
            if level:
                add(self.enc, f"{side}x{side}_down", here, resample=0.5)
            else:
                first = Layer(width, layout.channels + 1, 3, 3)
                self.enc[f"{side}x{side}_conv"] = first
            skips.append(here)
            for i in range(layout.blocks):
                attention = side in layout.attention
                add(self.enc, f"{side}x{side}_block{i}", width, attention=attention)
                skips.append(here)
        for level in reversed(range(len(widths))):
            side = layout.side >> level
            if level == len(widths) - 1:
                add(self.dec, f"{side}x{side}_in0", here, attention=True)
                add(self.dec, f"{side}x{side}_in1", here)
            else:
                add(self.dec, f"{side}x{side}_up", here, resample=2.0)
            for i in range(layout.blocks + 1):
                here += skips.pop()
                attention = side in layout.attention
                add(self.dec, f"{side}x{side}_block{i}", widths[level], attention=attention)
        self.out_conv = Layer(layout.channels, here, 3, 3)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        embedding = self.emb_noise(self.emb_fourier(noise))
        labels = one_hot(self.layout.label, self.layout.classes, x)
        if labels is not None:
            label = self.emb_label(labels * math.sqrt(self.layout.classes))
            embedding = blend(embedding, label, 0.5)
        embedding = silu(embedding)
        x, skips = torch.cat([x, torch.ones_like(x[:, :1])], dim=1), []
        for block in self.enc.values():
            x = block(x) if isinstance(block, Layer) else block(x, embedding)
            skips.append(x)
        for name, block in self.dec.items():
            if "block" in name:
                x = concatenated(x, skips.pop())
            x = block(x, embedding)
        return self.out_conv(x, self.out_gain)


class Block(nn.Module):
    """A residual block with optional resampling before and attention behind (figure 21).

    Args:
        here, there: channels in and out.
        embedding: width of the embedding.
        decoder: whether the input is normalised (encoder) or projected behind (decoder).
        attention: heads have 64 channels.
        resample: factor of the resolution: 1, 0.5 or 2.
    """

    def __init__(
        self,
        here: int,
        there: int,
        embedding: int,
        decoder: bool,
        attention: bool = False,
        resample: float = 1.0,
    ):
        super().__init__()
        self.decoder, self.resample = decoder, resample
        self.heads = there // 64 if attention else 0
        self.emb_gain = nn.Parameter(torch.zeros(()))
        self.conv_res0 = Layer(there, here if decoder else there, 3, 3)
        self.emb_linear = Layer(there, embedding)
        self.conv_res1 = Layer(there, there, 3, 3)
        self.conv_skip = Layer(there, here, 1, 1) if here != there else None
        if self.heads:
            self.attn_qkv, self.attn_proj = Layer(3 * there, there, 1, 1), Layer(there, there, 1, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        if self.resample != 1:
            x = F.avg_pool2d(x, 2) if self.resample < 1 else F.interpolate(x, scale_factor=2.0)
        if not self.decoder:
            x = normalised(x if self.conv_skip is None else self.conv_skip(x), [1])
        gain = self.emb_linear(embedding, self.emb_gain) + 1
        y = self.conv_res1(silu(self.conv_res0(silu(x)) * gain[:, :, None, None]))
        if self.decoder and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = blend(x, y, 0.3)
        if self.heads:
            x = blend(x, self.attn_proj(self._attention(x)), 0.3)
        return x.clamp(-256, 256)

    def _attention(self, x: Tensor) -> Tensor:
        qkv = self.attn_qkv(x).reshape(len(x), self.heads, -1, 3, x[0, 0].numel())
        q, k, v = (part.transpose(2, 3) for part in normalised(qkv, [2]).unbind(3))
        return F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(x.shape)


class Layer(nn.Module):
    """A convolution or matrix without bias whose rows have unit length (eqs. 47 and 66)."""

    def __init__(self, *shape: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        w = normalised(self.weight, list(range(1, self.weight.ndim)))
        w = (w * (gain / math.sqrt(w[0].numel()))).to(x.dtype)
        return x @ w.t() if w.ndim == 2 else F.conv2d(x, w, padding=w.shape[-1] // 2)


class FourierFeatures(nn.Module):
    """sqrt(2) cos(frequency x + phase) (eq. 75): (B,) -> (B, width)."""

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(width))
        self.register_buffer("phases", 2 * math.pi * torch.rand(width))
        self.freqs: Tensor
        self.phases: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return math.sqrt(2) * (x[:, None] * self.freqs + self.phases).cos().to(x.dtype)


def normalised(x: Tensor, dims: list[int], epsilon: float = 1e-4) -> Tensor:
    """x over its root mean square along these dimensions."""
    length = torch.linalg.vector_norm(x, dim=dims, keepdim=True)
    return x / (epsilon + length * math.sqrt(length.numel() / x.numel()))


def silu(x: Tensor) -> Tensor:
    """SiLU that keeps the magnitude of normal inputs (eq. 81)."""
    return F.silu(x) / 0.596


def blend(a: Tensor, b: Tensor, t: float) -> Tensor:
    """(1 - t) a + t b at unit magnitude (eq. 88)."""
    return a.lerp(b, t) / math.hypot(1 - t, t)


def concatenated(a: Tensor, b: Tensor) -> Tensor:
    """a and b along the channels, each with half of the magnitude (eq. 103)."""
    n, m = a.shape[1], b.shape[1]
    scale = math.sqrt((n + m) / 2)
    return torch.cat([a * (scale / math.sqrt(n)), b * (scale / math.sqrt(m))], dim=1)
