"""A circuit over the pixels of images: exact moments given noisy pixels, and the prior it makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inverse.priors.prior import Prior
from inverse.rows import like
from inverse_plugins.circuits.circuit import Circuit


class CircuitPrior(Prior):
    """A circuit over pixels as a prior, with its exact denoiser at every noise level.

    Blocks of the circuit's size are independent, as are channels. Image sides must be multiples of
    the block sides.

    Args:
        circuit: its levels are physical units.
        channels: channels of the images.
        units: shift, scale, sigma_min and sigma_max of `Prior`.
    """

    exact = True

    def __init__(self, circuit: Circuit, channels: int = 1, **units: float):
        super().__init__((channels, None, None), **units)
        self.circuit = circuit

    def fits(self, shape: tuple[int, ...]) -> bool:
        return super().fits(shape) and unsupported_shape(self.circuit, shape) is None

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        noise = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x))
        variance = like(noise, x).expand_as(x).square() * self.scale**2
        infinity = variance.new_full((), torch.inf)
        return self.encode(pixel_moments(self.circuit, self.decode(x), variance, x, infinity).mean)


def unsupported_shape(circuit: Circuit, shape: tuple[int, ...]) -> str | None:
    """Why blocks of a circuit do not tile an image of this shape, or None if they do."""
    height, width = circuit.shape
    if len(shape) == 3 and shape[1] % height == 0 and shape[2] % width == 0:
        return None
    return (
        f"its {circuit.graph.size} variables are {height} x {width} pixels of one channel, but the "
        f"image is {' x '.join(map(str, shape))}: its sides must be multiples of the block's"
    )


@dataclass(frozen=True)
class PixelMoments:
    """Moments of images (B, C, H, W) under a circuit, given noisy observations of their pixels.

    Args:
        mean: of every pixel (B, C, H, W), in the units of the levels.
        variance: of every pixel (B, C, H, W), in squared units of the levels.
        log_likelihood: of the observations (B,), nats, up to a constant of their variances.
    """

    mean: Tensor
    variance: Tensor
    log_likelihood: Tensor


def pixel_moments(
    circuit: Circuit, x: Tensor, variance: Tensor, y: Tensor, noise: Tensor
) -> PixelMoments:
    """Moments given two noisy observations of every pixel, x ~ N(x0, variance), y ~ N(x0, noise).

    A variance is infinite where there is no observation. All arguments are images (B, C, H, W) or
    broadcast to x, in the units of the levels. `unsupported_shape` tells which sizes are possible.
    """
    observations = [
        (
            blocks(circuit, value.expand_as(x)),
            blocks(circuit, v.expand_as(x)).clamp_min(circuit.floor),
        )
        for value, v in ((x, variance), (y, noise))
    ]
    precision = sum((1 / v for _, v in observations), torch.zeros(()))
    observed = precision > 0
    total = torch.where(observed, 1 / torch.where(observed, precision, 1), torch.inf)
    weighted = sum((value / v for value, v in observations), torch.zeros(()))
    value = weighted * torch.where(observed, total, 0)  # both observations as one
    beliefs = circuit.beliefs(circuit.gaussian(value, total))
    levels = circuit.levels.to(x)[None, None]
    within = torch.zeros((), dtype=x.dtype, device=x.device)
    if circuit.spread > 0:  # given its level, a value is Gaussian
        gain = circuit.spread**2 / (circuit.spread**2 + total[..., None])
        levels = levels + gain * (value[..., None] - levels)
        within = circuit.spread**2 * (1 - gain)
    mean = (beliefs.posterior * levels).sum(-1)
    square = (levels - mean[..., None]).square() + within
    (first, first_variance), (second, second_variance) = observations
    disagreement = 0.5 * (first - second).square() / (first_variance + second_variance)
    log_likelihood = beliefs.log_likelihood - disagreement.sum(1)
    return PixelMoments(
        unblocks(circuit, mean, x.shape),
        unblocks(circuit, (beliefs.posterior * square).sum(-1), x.shape),
        log_likelihood.reshape(len(x), -1).sum(1),
    )


def blocks(circuit: Circuit, image: Tensor) -> Tensor:
    """Images (B, C, H, W) -> rows of variables (B C H/h W/w, h w), one for each block."""
    h, w = circuit.shape
    B, C, H, W = image.shape
    return image.reshape(B, C, H // h, h, W // w, w).transpose(3, 4).reshape(-1, h * w)


def unblocks(circuit: Circuit, rows: Tensor, shape: Sequence[int]) -> Tensor:
    """The inverse of `blocks` for images of this shape (B, C, H, W)."""
    h, w = circuit.shape
    B, C, H, W = shape
    return rows.reshape(B, C, H // h, W // w, h, w).transpose(3, 4).reshape(B, C, H, W)
