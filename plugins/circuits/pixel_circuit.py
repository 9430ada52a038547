"""A circuit over the pixels of an image: what it says of noisy looks at them, and the prior that this makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inverse.priors.prior import Prior
from inverse.rows import like
from inverse_plugins.circuits.circuit import Circuit


class CircuitPrior(Prior):
    """A circuit over the pixels of an image as a prior: its exact denoiser at every noise level, by soft evidence.

    Each block of the circuit's size, in every channel, is a draw of its own; so it takes images whose sides are multiples of that.

    Args:
        circuit: its levels are physical units.
        channels: of the images.
    """

    exact = True

    def __init__(self, circuit: Circuit, channels: int = 1, **units: float):
        super().__init__((channels, None, None), **units)
        self.circuit = circuit

    def fits(self, shape: tuple[int, ...]) -> bool:
        return super().fits(shape) and unfit(self.circuit, shape) is None

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        noise = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x))
        variance = like(noise, x).expand_as(x).square() * self.scale**2
        return self.encode(
            looks(self.circuit, self.decode(x), variance, x, variance.new_full((), torch.inf)).mean
        )


def unfit(circuit: Circuit, shape: tuple[int, ...]) -> str | None:
    """Why a circuit does not cover images of this shape, or None if its blocks do."""
    height, width = circuit.shape
    if len(shape) == 3 and shape[1] % height == 0 and shape[2] % width == 0:
        return None
    found = " x ".join(map(str, shape))
    return f"its {circuit.graph.size} variables are {height} x {width} pixels of one channel, and the unknown is {found}: its sides must be multiples of those"


@dataclass(frozen=True)
class Looked:
    """What a circuit says of images (B, C, H, W), of which it has noisy looks.

    Args:
        mean, variance: of every pixel: images, in the units of the levels.
        log_likelihood: of both looks, up to a constant of their variances: (B,), nats.
    """

    mean: Tensor
    variance: Tensor
    log_likelihood: Tensor


def looks(circuit: Circuit, x: Tensor, variance: Tensor, y: Tensor, noise: Tensor) -> Looked:
    """Two noisy looks at every pixel, N(x0, variance) and N(x0, noise), either variance infinite for none.

    All are images (B, C, H, W) or broadcast to one, in the units of the levels; see `unfit` for which sizes there are.
    """
    rows = [
        (
            blocks(circuit, value.expand_as(x)),
            blocks(circuit, v.expand_as(x)).clamp_min(circuit.floor),
        )
        for value, v in ((x, variance), (y, noise))
    ]
    precision = sum((1 / v for _, v in rows), torch.zeros(()))
    seen = precision > 0
    total = torch.where(seen, 1 / torch.where(seen, precision, 1), torch.inf)
    value = sum((value / v for value, v in rows), torch.zeros(())) * torch.where(
        seen, total, 0
    )  # both looks as one
    beliefs = circuit.beliefs(circuit.gaussian(value, total))
    levels, within = (
        circuit.levels.to(x)[None, None],
        torch.zeros((), dtype=x.dtype, device=x.device),
    )
    if circuit.spread > 0:  # the value around its level is Gaussian given the level
        gain = circuit.spread**2 / (circuit.spread**2 + total[..., None])
        levels, within = levels + gain * (value[..., None] - levels), circuit.spread**2 * (1 - gain)
    mean = (beliefs.posterior * levels).sum(-1)
    spread = (beliefs.posterior * ((levels - mean[..., None]).square() + within)).sum(-1)
    apart = (
        0.5 * (rows[0][0] - rows[1][0]).square() / (rows[0][1] + rows[1][1])
    )  # of one look from the other
    log_likelihood = (beliefs.log_likelihood - apart.sum(1)).reshape(len(x), -1).sum(1)
    return Looked(
        unblocks(circuit, mean, x.shape), unblocks(circuit, spread, x.shape), log_likelihood
    )


def blocks(circuit: Circuit, image: Tensor) -> Tensor:
    """Image (B, C, H, W) -> rows of variables (B C H/h W/w, h w)."""
    h, w = circuit.shape
    B, C, H, W = image.shape
    return image.reshape(B, C, H // h, h, W // w, w).transpose(3, 4).reshape(-1, h * w)


def unblocks(circuit: Circuit, rows: Tensor, shape: Sequence[int]) -> Tensor:
    """The inverse of `blocks` for images of this shape."""
    h, w = circuit.shape
    B, C, H, W = shape
    return rows.reshape(B, C, H // h, W // w, h, w).transpose(3, 4).reshape(B, C, H, W)
