"""Coarse grey and colour pictures: averages over squares, as functions and as linear operators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from inverse.measurement.deepinv_import import deepinv

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey, as in `io.images.read_image`; no gamma correction."""


def grey_of(x: Tensor) -> Tensor:
    """Luminance: (B, 3, H, W) -> (B, 1, H, W); a picture of one channel is returned as it is."""
    if x.shape[1] == 1:
        return x
    return (x * x.new_tensor(LUMINANCE)[:, None, None]).sum(1, keepdim=True)


def colour_of(x: Tensor) -> Tensor:
    """Red and blue minus grey: (B, 3, H, W) -> (B, 2, H, W)."""
    return x[:, ::2] - grey_of(x)


def averaged(x: Tensor, side: int) -> Tensor:
    """Means over squares: (B, C, H, W) -> (B, C, ceil(H / side), ceil(W / side)).

    A square that crosses the right or lower edge is averaged over its pixels inside the picture.
    """
    return F.avg_pool2d(x, side, ceil_mode=True)


def coarse_grey(scale: int, shape: tuple[int, ...]) -> Any:
    """B_s: x (B, 1 or 3, H, W) -> (B, 1, ceil(H / s), ceil(W / s)), a deepinv `LinearPhysics`."""
    return _coarse(scale, shape, [LUMINANCE if shape[0] == 3 else (1.0,)])


def coarse_colour(scale: int, shape: tuple[int, ...]) -> Any:
    """The averages of `colour_of`: x (B, 3, H, W) -> (B, 2, ceil(H / s), ceil(W / s)).

    Returns a deepinv `LinearPhysics`.
    """
    r, g, b = LUMINANCE
    return _coarse(scale, shape, [(1 - r, -g, -b), (-r, -g, 1 - b)])


def _coarse(scale: int, shape: tuple[int, ...], mixing: list[tuple[float, ...]]) -> Any:
    """Averages over squares of channels that a matrix (out, in) mixes."""
    height, width = shape[-2:]
    inside = F.pad(
        torch.ones(1, 1, height, width, dtype=torch.float64),
        (0, -width % scale, 0, -height % scale),
    )
    pixels = F.avg_pool2d(inside, scale, divisor_override=1)  # of each square

    class Coarse(deepinv("physics").LinearPhysics):  # type: ignore[misc]
        def __init__(self):
            super().__init__(img_size=shape)
            self.register_buffer("mix", torch.tensor(mixing, dtype=torch.float64))
            self.register_buffer("share", 1 / pixels)

        def A(self, x: Tensor, **_: Any) -> Tensor:
            return torch.einsum("oc,bchw->bohw", self.mix.to(x), averaged(x, scale))

        def A_adjoint(self, v: Tensor, **_: Any) -> Tensor:
            shared = v * self.share.to(v)
            spread = shared.repeat_interleave(scale, -2).repeat_interleave(scale, -1)
            return torch.einsum("oc,bohw->bchw", self.mix.to(v), spread[..., :height, :width])

    return Coarse()
