"""Whether a picture is blurred as its kernel says, from its spectrum alone.

    E |Y(f)|^2 = |K(f)|^2 exp(-4 pi^2 v |f|^2) a |f|^(-2 e) + sigma_y^2

Natural pictures have spectra that fall like powers of the frequency (Field, Relations between the
statistics of natural images and the response properties of cortical cells, JOSA A 1987). The
amplitude a and the exponent e are those of the picture; v is the variance (pixels squared) by which
its blur is wider than the kernel's. All are fitted by Whittle's likelihood to the periodogram of
windowed tiles. A residual y - A x cannot show a kernel that is too narrow, since a picture x that
is blurred itself explains y; the spectrum of natural pictures can.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

TILE = 128
"""Side of the tiles whose periodograms are averaged (pixels)."""
LOWEST, HIGHEST = 0.03, 0.5
"""Frequencies that count (cycles per pixel)."""
VARIANCES = (-4.0, -2.5, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.5, 7.0)
"""Values of v to choose from (pixels squared)."""


class Mismatch(NamedTuple):
    """How a picture's blur differs from its kernel.

    variance: v, by which it is wider (pixels squared); negative if the kernel is too wide.
    gain: log-likelihood ratio of that v over v = 0 (nats).
    """

    variance: float
    gain: float


def kernel_mismatch(y: Tensor, kernel: Tensor, sigma_y: float) -> Mismatch | None:
    """The mismatch between a blurred picture and its kernel.

    Args:
        y: the picture (C, H, W).
        kernel: (h, w), sum 1, smaller than a tile.
        sigma_y: standard deviation of the noise, in the units of y.

    Returns: None for pictures of less than 48 pixels, and without noise.
    """
    side = min(TILE, *y.shape[-2:])
    if side < 48 or max(kernel.shape) > side or not sigma_y > 0:
        return None
    power, tiles = _periodogram(y.double().mean(0), side)
    f = torch.fft.fftfreq(side, dtype=torch.float64)
    f2 = f[:, None] ** 2 + f**2
    # half of the plane: the other half is its mirror
    keep = (f2 > LOWEST**2) & (f2 < HIGHEST**2) & (f[:, None] >= 0)
    gain = torch.fft.fft2(kernel.double(), s=(side, side)).abs().square()[keep]
    power, f2 = power[keep], f2[keep]
    noise = sigma_y**2 / len(y)
    fits = [
        tiles * _likelihood(power, gain * torch.exp(-4 * math.pi**2 * v * f2), f2, noise)
        for v in VARIANCES
    ]
    best = max(range(len(fits)), key=fits.__getitem__)
    return Mismatch(VARIANCES[best], fits[best] - fits[VARIANCES.index(0.0)])


def _periodogram(grey: Tensor, side: int) -> tuple[Tensor, float]:
    """Mean periodogram of windowed tiles (side, side), and their number less their overlap."""
    step = side // 2
    tiles = grey.unfold(0, side, step).unfold(1, side, step).reshape(-1, side, side)
    window = torch.hann_window(side, periodic=False, dtype=grey.dtype)
    window = window[:, None] * window
    mean = (tiles * window).sum((1, 2), keepdim=True) / window.sum()
    power = torch.fft.fft2((tiles - mean) * window).abs().square() / window.square().sum()
    return power.mean(0), max(1.0, grey.numel() / side**2)


def _likelihood(power: Tensor, gain: Tensor, f2: Tensor, noise: float) -> float:
    """Largest Whittle log-likelihood over the amplitude and the exponent of the picture."""
    exponents = torch.arange(0.7, 2.3, 0.2, dtype=f2.dtype)
    shapes = gain * f2.pow(-exponents[:, None])  # (E, N)
    strength = ((power - noise).clamp_min(0) * shapes).sum(1) / shapes.square().sum(1)
    best = -math.inf
    for factor in torch.logspace(-2, 1, 19, dtype=f2.dtype):
        model = (factor * strength.clamp_min(1e-20))[:, None] * shapes + noise
        best = max(best, float(-(model.log() + power / model).sum(1).min()))
    return best
