"""Blur kernels from picture and array files, checked for what people store by mistake."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

import inverse
from inverse.errors import InputError
from inverse.io.images import ARRAYS

DARK_ON_WHITE = 0.5
"""Share of pixels near the largest value above which a kernel with darker parts is inverted."""

SHIFT = 1.0
"""Distance (pixels) of the centre of mass from the middle above which a note says so."""


def read_kernel(path: str) -> Tensor:
    """The weights of a kernel file (H, W), as stored.

    Raises: InputError if the file cannot be read, has even sides, or holds no weights of a blur.
    """
    k = inverse.read_image(path, channels=1, role="kernel").pixels[0]
    if k.shape[0] % 2 == 0 or k.shape[1] % 2 == 0:
        raise InputError(
            f"deblur: kernel must have odd sides, {path} has {k.shape[0]}x{k.shape[1]}; "
            "crop or pad it by one pixel"
        )
    if not bool(torch.isfinite(k).all()):
        raise InputError(f"deblur: kernel {path} holds NaN or infinity")
    if abs(float(k.sum())) < 1e-6 * float(k.abs().sum()) or not bool(k.any()):
        raise InputError(
            f"deblur: kernel {path} sums to zero and cannot be normalised; "
            "give a kernel with a non-zero sum"
        )
    if float(k.sum()) < 0:
        raise InputError(
            f"deblur: kernel {path} sums to {float(k.sum()):.3g}; the weights of a blur are not "
            "negative, and a logarithm or a sign must be undone"
        )
    bright = k >= 0.9 * k.max()
    if float(bright.float().mean()) > DARK_ON_WHITE and float(k.min()) < 0.5 * float(k.max()):
        raise InputError(
            f"deblur: kernel {path} is dark on white; a kernel is white where light goes: invert it"
        )
    return k


def kernel_notes(path: str) -> list[str]:
    """What a user should know of a kernel file: conversions, its sum, and where it moves light."""
    notes = list(inverse.read_image(path, channels=1, role="kernel").notes)
    k = read_kernel(path)
    if Path(path).suffix.lower() in ARRAYS:
        total = float(k.sum())
        notes += [f"divided by its sum, {total:.3g}"] if abs(total - 1) > 0.01 else []
    weights = k / k.sum()
    down, right = (
        float((weights.sum(1 - axis) * torch.arange(n)).sum()) - (n - 1) / 2
        for axis, n in enumerate(k.shape)
    )
    if max(abs(down), abs(right)) > SHIFT:
        across = f"{abs(right):.1f} pixels {'right' if right > 0 else 'left'}"
        along = f"{abs(down):.1f} {'below' if down > 0 else 'above'}"
        notes.append(
            f"its centre of mass lies {across} and {along} of its middle; the restored picture "
            "moves by as much against the measurement"
        )
    return notes
