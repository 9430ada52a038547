"""The U-Net of guided diffusion (ADM), also used by DPS (FFHQ) and by flow-matching libraries.

Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis, NeurIPS 2021,
https://arxiv.org/abs/2105.05233; layout of https://github.com/openai/guided-diffusion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inverse.errors import OptionError, PriorError
from inverse.priors.card_schema import Blocks, Width
from inverse.priors.foreign.architecture import Architecture, padded
from inverse.priors.networks.parametrisations import FlowPrior, VPPrior
from inverse.priors.prior import Prior
from inverse.registry.types import Positive

GROUPS = 32


@dataclass(frozen=True)
class GuidedDiffusion(Architecture):
    """A guided-diffusion U-Net. The first group of fields is read off the weights.

    Args:
        channels: of an image.
        width: base width, which sets that of the time embedding.
        widths: feature channels of each level, finest first.
        blocks: residual blocks of each level.
        attention: downsampling factors at which there is attention.
        resampling: a residual block or a convolution between two levels.
        film: whether the time scales and shifts the normalised features, or is added to them.
        learned_variance: whether the network has outputs for the variance, which are dropped.
        classes: number of classes of a conditional network, 0 for none.
        label: the class of a conditional network.
        prediction: what the network predicts; epsilon for a network with a learned variance.
        schedule: noise schedule of the training, 1000 times.
        noise_at: time of pure noise of a velocity network, whose times lie in [0, 1].
        time_scale: factor on the time of a velocity network.
        head_channels: channels of an attention head.
        heads: number of heads in place of `head_channels`.
        split: whether heads (the original order) or q, k, v are split first.
    """

    name = "guided-diffusion"
    reference = "Dhariwal and Nichol, NeurIPS 2021, https://github.com/openai/guided-diffusion"

    channels: Width = 3
    width: Width = 128
    widths: tuple[Width, ...] = (128, 128, 256, 256, 512, 512)
    blocks: Blocks = 1
    attention: tuple[Width, ...] = (16,)
    resampling: Literal["block", "convolution"] = "block"
    film: bool = True
    learned_variance: bool = True
    classes: int = 0

    label: int | None = None
    prediction: Literal["unknown", "epsilon", "v_prediction", "sample", "velocity"] = "unknown"
    schedule: Literal["linear", "cosine"] = "linear"
    noise_at: Literal[0, 1] = 0
    time_scale: Positive = 1.0
    head_channels: Width = 64
    heads: Width | None = None
    split: Literal["heads", "qkv"] = "heads"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.widths or any(width % GROUPS for width in self.widths):
            raise OptionError(f"{self.name}: widths must be multiples of {GROUPS}")
        if self.label is not None and not 0 <= self.label < self.classes:
            raise OptionError(
                f"{self.name}: label must be below the {self.classes} classes, got {self.label}"
            )

    @classmethod
    def read(cls, weights: dict[str, Tensor]) -> dict[str, Any]:
        ups = [k for k in weights if k.startswith("output_blocks.") and _is_up(k)]
        levels = 1 + len(ups)
        entries = 1 + max(int(k.split(".")[1]) for k in weights if k.startswith("input_blocks."))
        period = entries // levels  # the blocks of a level and the step to the next one
        firsts = [f"input_blocks.{1 + level * period}" for level in range(levels)]
        head, tail = weights["input_blocks.0.0.weight"], weights["out.2.weight"]
        widths = tuple(weights[f"{first}.0.out_layers.3.weight"].shape[0] for first in firsts)
        return {
            "channels": head.shape[1],
            "width": weights["time_embed.0.weight"].shape[1],
            "widths": widths,
            "blocks": period - 1,
            "attention": tuple(
                2**level for level, first in enumerate(firsts) if f"{first}.1.qkv.weight" in weights
            ),
            "resampling": "convolution"
            if any(k.endswith(".conv.weight") for k in ups)
            else "block",
            "film": weights[f"{firsts[0]}.0.emb_layers.1.weight"].shape[0] == 2 * widths[0],
            "learned_variance": tail.shape[0] == 2 * head.shape[1],
            "classes": len(weights["label_emb.weight"]) if "label_emb.weight" in weights else 0,
        }

    def network(self) -> nn.Module:
        return GuidedUNet(self)

    def prior(self, network: nn.Module) -> Prior:
        prediction = self.prediction
        if prediction == "unknown":
            if not self.learned_variance:
                raise PriorError(
                    f"a {self.name} network without learned variance may predict noise or a "
                    "velocity; say which in --network of `inverse prior convert`, e.g. "
                    f'{{"architecture": "{self.name}", "prediction": "epsilon"}}'
                )
            prediction = "epsilon"
        if self.classes and self.label is None:
            raise PriorError(
                f"the network is conditional on {self.classes} classes; state one in --network of "
                f'`inverse prior convert`: {{"architecture": "{self.name}", "label": 0}}'
            )
        shape = (self.channels, None, None)
        prior: Prior
        if prediction == "velocity":
            prior = FlowPrior(network, shape, self.noise_at)
        else:
            prior = VPPrior(network, alphas_cumprod(self.schedule), prediction, shape)
        prior.network = network
        prior.crop = 4 * 2 ** len(self.widths)  # the project's networks reach 8 or 4 pixels
        return prior


def _is_up(name: str) -> bool:
    """Whether a weight names the step to a finer level at the end of an output block."""
    _, _, place, *rest = name.split(".")
    return place != "0" and rest in (["in_layers", "2", "weight"], ["conv", "weight"])


def alphas_cumprod(schedule: str, times: int = 1000) -> Tensor:
    """abar_t (times,): betas linear from 1e-4 to 0.02, or the cosine law with betas below 0.999."""
    if schedule == "linear":
        return (1 - torch.linspace(1e-4, 0.02, times, dtype=torch.float64)).cumprod(0)
    t = torch.linspace(0, 1, times + 1, dtype=torch.float64)
    abar = ((t + 0.008) / 1.008 * math.pi / 2).cos() ** 2
    return (1 - (1 - abar[1:] / abar[:-1]).clamp(max=0.999)).cumprod(0)


class GuidedUNet(nn.Module):
    """The network: x (B, C, H, W) and times (B,) -> (B, C or 2 C, H, W).

    The names of its parts are those of the original, so that its state dict loads as it is.
    """

    def __init__(self, layout: GuidedDiffusion):
        super().__init__()
        self.layout, embedding = layout, 4 * layout.width
        self.time_embed = nn.Sequential(
            nn.Linear(layout.width, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        if layout.classes:
            self.label_emb = nn.Embedding(layout.classes, embedding)

        def block(here: int, there: int, resample: float = 1.0) -> nn.Module:
            return ResidualBlock(here, there, embedding, layout.film, resample)

        def attention(level: int, here: int) -> list[nn.Module]:
            return [Attention(here, layout)] if 2**level in layout.attention else []

        here, last = layout.widths[0], len(layout.widths) - 1
        self.input_blocks = nn.ModuleList([Stage(nn.Conv2d(layout.channels, here, 3, padding=1))])
        skips = [here]
        for level, width in enumerate(layout.widths):
            for _ in range(layout.blocks):
                self.input_blocks.append(Stage(block(here, width), *attention(level, width)))
                here = width
                skips.append(here)
            if level < last:
                down = layout.resampling == "block"
                self.input_blocks.append(Stage(block(here, here, 0.5) if down else Down(here)))
                skips.append(here)
        self.middle_block = Stage(block(here, here), Attention(here, layout), block(here, here))
        self.output_blocks = nn.ModuleList()
        for level in range(last, -1, -1):
            width = layout.widths[level]
            for i in range(layout.blocks + 1):
                parts = [block(here + skips.pop(), width), *attention(level, width)]
                here = width
                if level and i == layout.blocks:
                    parts.append(
                        block(here, here, 2.0) if layout.resampling == "block" else Up(here)
                    )
                self.output_blocks.append(Stage(*parts))
        outputs = layout.channels * (2 if layout.learned_variance else 1)
        self.out = nn.Sequential(
            nn.GroupNorm(GROUPS, here), nn.SiLU(), nn.Conv2d(here, outputs, 3, padding=1)
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return padded(self._forward, x, 2 ** (len(self.layout.widths) - 1), t)

    def _forward(self, x: Tensor, t: Tensor) -> Tensor:
        if self.layout.prediction == "velocity":
            t = t * self.layout.time_scale
        embedding = self.time_embed(time_features(t, self.layout.width).to(x.dtype))
        if self.layout.label is not None:
            embedding = embedding + self.label_emb.weight[self.layout.label]
        skips = []
        for stage in self.input_blocks:
            x = stage(x, embedding)
            skips.append(x)
        x = self.middle_block(x, embedding)
        for stage in self.output_blocks:
            x = stage(torch.cat([x, skips.pop()], dim=1), embedding)
        return self.out(x)


def time_features(t: Tensor, width: int) -> Tensor:
    """Cosines and sines of t / 10000^(i / half): times (B,) -> (B, width)."""
    half = width // 2
    frequencies = torch.exp(
        -math.log(10000) * torch.arange(half, device=t.device, dtype=torch.float32) / half
    )
    angles = t[:, None].float() * frequencies
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, width % 2))


class Stage(nn.Sequential):
    """Layers in a row; residual blocks receive the embedding of the time."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, ResidualBlock) else layer(x)
        return x


class ResidualBlock(nn.Module):
    """Two convolutions beside a skip connection, modulated by the embedding of the time.

    Args:
        here, there: channels in and out.
        embedding: width of the embedding.
        film: see `GuidedDiffusion`.
        resample: factor of the resolution: 1, 0.5 (mean of four pixels) or 2 (nearest).
    """

    def __init__(self, here: int, there: int, embedding: int, film: bool, resample: float):
        super().__init__()
        self.film, self.resample = film, resample
        self.in_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, here), nn.SiLU(), nn.Conv2d(here, there, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, there * (2 if film else 1)))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, there),
            nn.SiLU(),
            nn.Identity(),  # dropout, in training
            nn.Conv2d(there, there, 3, padding=1),
        )
        self.skip_connection = nn.Identity() if here == there else nn.Conv2d(here, there, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.in_layers[1](self.in_layers[0](x))
        if self.resample != 1:
            h, x = resampled(h, self.resample), resampled(x, self.resample)
        h = self.in_layers[2](h)
        e = self.emb_layers(embedding)[:, :, None, None]
        if self.film:
            scale, shift = e.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + e)
        return self.skip_connection(x) + h


def resampled(x: Tensor, factor: float) -> Tensor:
    """x at half the resolution (means of four pixels) or twice (nearest neighbour)."""
    return F.avg_pool2d(x, 2) if factor < 1 else F.interpolate(x, scale_factor=2.0)


class Down(nn.Module):
    """A strided convolution to half the resolution."""

    def __init__(self, width: int):
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Up(nn.Module):
    """Nearest neighbours at twice the resolution, and a convolution."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(resampled(x, 2.0))


class Attention(nn.Module):
    """Self-attention over all pixels, added to its input."""

    def __init__(self, width: int, layout: GuidedDiffusion):
        super().__init__()
        self.heads = layout.heads or width // layout.head_channels
        self.split = layout.split
        self.norm = nn.GroupNorm(GROUPS, width)
        self.qkv, self.proj_out = nn.Conv1d(width, 3 * width, 1), nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, width, *sides = x.shape
        flat = x.reshape(batch, width, -1)
        qkv, n = self.qkv(self.norm(flat)), self.heads
        if self.split == "heads":
            parts = qkv.reshape(batch, n, 3, width // n, -1).unbind(2)
        else:
            parts = qkv.reshape(batch, 3, n, width // n, -1).unbind(1)
        q, k, v = (part.transpose(-2, -1) for part in parts)
        h = F.scaled_dot_product_attention(q, k, v).transpose(-2, -1).reshape(flat.shape)
        return (flat + self.proj_out(h)).reshape(batch, width, *sides)
