"""Exact denoising in tiles, for images larger than memory allows.

An output pixel of a local denoiser depends on inputs within `halo` pixels. A tile with that margin
is therefore denoised as inside the whole image, and there are no seams to blend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def tiled(
    denoise: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigma: Tensor, tile: int, halo: int
) -> Tensor:
    """denoise(x, sigma), tile by tile: x (B, C, H, W), sigma (B,) -> (B, C, H, W).

    Under autograd, every tile is recomputed in the backward pass, so that the activations of a
    single tile are the peak of the memory.

    Args:
        tile: side of a tile without its margin (pixels), a multiple of the denoiser's stride.
        halo: margin around a tile (pixels), a multiple of the stride; exact if at least the reach
            of the denoiser.
    """
    run = denoise
    if torch.is_grad_enabled() and x.requires_grad:

        def run(patch: Tensor, level: Tensor) -> Tensor:
            out: Any = checkpoint(denoise, patch, level, use_reentrant=False)
            return out

    rows: list[Tensor] = []
    across, done = spans(x.shape[-1], tile), 0
    count = len(across) * len(spans(x.shape[-2], tile))
    for top, bottom in spans(x.shape[-2], tile):
        row = []
        for left, right in across:
            t, b = max(0, top - halo), min(x.shape[-2], bottom + halo)
            lft, r = max(0, left - halo), min(x.shape[-1], right + halo)
            out = run(x[..., t:b, lft:r], sigma)
            row.append(out[..., top - t : bottom - t, left - lft : right - lft])
            done += 1
            for watch in _watchers:
                watch(done, count)
        rows.append(torch.cat(row, dim=-1))
    return torch.cat(rows, dim=-2)


_watchers: list[Callable[[int, int], None]] = []


@contextmanager
def tiles_watched(watch: Callable[[int, int], None]) -> Iterator[None]:
    """Context manager under which `watch(done, count)` is called after every tile."""
    _watchers.append(watch)
    try:
        yield
    finally:
        _watchers.remove(watch)


def spans(length: int, tile: int) -> list[tuple[int, int]]:
    """Consecutive intervals of length `tile` that cover range(length); the last may be shorter."""
    return [(start, min(start + tile, length)) for start in range(0, length, tile)]
