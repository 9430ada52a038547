"""Filtered back-projection for parallel and fan beams.

Source: Kak, Slaney, Principles of Computerized Tomographic Imaging, 1988, chapter 3. For a parallel
beam over 180 degrees it is `skimage.transform.iradon`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from inverse_problems.ct.geometry import Geometry

WINDOWS = ("ramp", "shepp-logan", "cosine", "hamming", "hann")
"""Windows on the ramp filter, as in scikit-image."""

WIDE = 3.0
"""Gaps of this many median gaps belong to no view: the part of a limited arc that was not seen."""


def filtered_backprojection(y: Tensor, geometry: Geometry, window: str = "ramp") -> Tensor:
    """The slice whose line integrals are y: (B, C, views, detectors) -> (B, C, size, size).

    Each view is weighted by the angle that it stands for, so that angles may be unequal. A fan beam
    over less than 360 degrees is not corrected for lines that are seen twice.

    Args:
        window: one of `WINDOWS`.

    Returns: attenuation per pixel, zero outside the circle.
    """
    fan = geometry.source is not None
    shrink = geometry.source / (geometry.source + geometry.screen) if geometry.source else 1.0
    pitch = geometry.pitch * shrink
    u = torch.from_numpy(geometry.positions() * shrink).to(y)
    if geometry.source is not None:
        y = y * (geometry.source / torch.hypot(u, u.new_tensor(geometry.source)))
    # beyond its ends a filtered row is not zero, and a pixel may lie between two detector pixels
    filtered = _filtered(torch.nn.functional.pad(y, (1, 1)), window) / pitch
    weights = torch.from_numpy(angular_weights(geometry.theta, 2 * math.pi if fan else math.pi))
    size = geometry.size
    axis = torch.arange(size, dtype=y.dtype, device=y.device) - size // 2
    answer = y.new_zeros(*y.shape[:2], size, size)
    for view, (theta, weight) in enumerate(zip(geometry.theta, weights.tolist(), strict=True)):
        cos, sin = math.cos(theta), math.sin(theta)
        s = axis * cos - axis[:, None] * sin
        if geometry.source is not None:
            depth = (geometry.source + axis * sin + axis[:, None] * cos) / geometry.source
            s, spread = s / depth, weight / depth.square()
        else:
            spread = y.new_tensor(weight)
        answer += spread * _interpolated(filtered[:, :, view], s / pitch + geometry.center + 1)
    inside = torch.from_numpy(geometry.inside()).to(y.device)
    return torch.where(inside, answer / 2, 0.0)


def filled(y: Tensor, seen: Tensor) -> Tensor:
    """y (..., views, detectors) with what is not seen interpolated along the detector.

    Beyond the ends of the detector there is air.

    Args:
        seen: boolean (views, detectors).

    Source: Kalender, Hebel, Ebersberger, Reduction of CT artifacts caused by metallic implants,
    Radiology 1987.
    """
    detectors = y.shape[-1]
    place = torch.arange(1, detectors + 1, device=y.device).expand(seen.shape)
    left = torch.where(seen, place, 0).cummax(-1).values
    right = torch.where(seen, place, detectors + 1).flip(-1).cummin(-1).values.flip(-1)
    part = torch.where(seen, 0.0, (place - left) / (right - left).clamp_min(1)).to(y)
    padded = torch.nn.functional.pad(y, (1, 1))
    before, after = (padded.gather(-1, i.expand(y.shape)) for i in (left, right))
    return before + part * (after - before)


def angular_weights(theta: np.ndarray, period: float) -> np.ndarray:
    """The angle (radians) that each view stands for: half the gaps to its neighbours.

    Args:
        theta: (views,), radians.
        period: angle after which views repeat: pi, or 2 pi for a fan beam, whose weights are scaled
            to a sum of pi.
    """
    if len(theta) == 1:
        return np.array([math.pi])
    order = np.argsort(np.mod(theta, period), kind="stable")
    angles = np.mod(theta, period)[order]
    gaps = np.append(np.diff(angles), angles[0] + period - angles[-1])
    usual = float(np.median(gaps[gaps > 1e-9])) if (gaps > 1e-9).any() else period
    gaps = np.where(gaps > WIDE * usual, usual, gaps)
    weights = np.empty_like(gaps)
    weights[order] = (gaps + np.roll(gaps, 1)) / 2
    return weights * min(1.0, math.pi / weights.sum()) if period > math.pi else weights


def _filtered(y: Tensor, window: str) -> Tensor:
    """Rows convolved with the ramp filter of a unit pitch: (..., D) -> same."""
    detectors = y.shape[-1]
    length = max(64, 2 ** math.ceil(math.log2(2 * detectors)))
    spectrum = torch.fft.rfft(y, n=length) * _response(length, window).to(y)
    return torch.fft.irfft(spectrum, n=length)[..., :detectors]


def _response(length: int, window: str) -> Tensor:
    """Twice the ramp of the discrete filter (Kak, Slaney, eq. 61), windowed: (length // 2 + 1,)."""
    n = torch.minimum(torch.arange(length), length - torch.arange(length)).double()
    kernel = torch.where(n % 2 == 1, -1 / (math.pi * n.clamp_min(1)) ** 2, 0.0)
    kernel[0] = 0.25
    ramp = 2 * torch.fft.rfft(kernel).real
    omega = math.pi * torch.arange(len(ramp), dtype=torch.float64) / (length // 2)
    shapes = {
        "ramp": torch.ones_like(omega),
        "shepp-logan": torch.sinc(omega / (2 * math.pi)),
        "cosine": torch.cos(omega / 2),
        "hamming": 0.54 + 0.46 * torch.cos(omega),
        "hann": 0.5 + 0.5 * torch.cos(omega),
    }
    return ramp * shapes[window]


def _interpolated(rows: Tensor, position: Tensor) -> Tensor:
    """Rows (B, C, D) at positions (H, W) in detector pixels, linear, 0 beyond: (B, C, H, W)."""
    detectors = rows.shape[-1]
    left = position.floor()
    part = position - left
    index = left.long()
    answer = rows.new_zeros(*rows.shape[:-1], *position.shape)
    for offset, weight in ((0, 1 - part), (1, part)):
        place = index + offset
        seen = (place >= 0) & (place < detectors)
        values = rows[..., place.clamp(0, detectors - 1).flatten()]
        answer += values.reshape(answer.shape) * (weight * seen)
    return answer
