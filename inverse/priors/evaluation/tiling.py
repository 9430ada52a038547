"""Denoise an image larger than memory allows, tile by tile, exactly.

A local denoiser's output pixel depends on inputs within `halo` pixels. A tile read with that margin is therefore denoised
as it would be inside the whole image: there are no seams to blend.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def tiled(
    denoise: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigma: Tensor, tile: int, halo: int
) -> Tensor:
    """denoise(x, sigma), one tile at a time: x (B, C, H, W) -> (B, C, H, W).

    Args:
        tile: side of the part of a tile that is kept (pixels), a multiple of the denoiser's stride.
        halo: margin read around it (pixels), a multiple of the stride, at least the reach of the denoiser for an exact result.

    Under autograd every tile is recomputed in the backward pass, so that one tile's activations are the peak.
    """
    run = denoise
    if torch.is_grad_enabled() and x.requires_grad:

        def run(patch: Tensor, level: Tensor) -> Tensor:
            return checkpoint(denoise, patch, level, use_reentrant=False)  # type: ignore[return-value]

    rows = []
    for top, bottom in spans(x.shape[-2], tile):
        row = []
        for left, right in spans(x.shape[-1], tile):
            t, b = max(0, top - halo), min(x.shape[-2], bottom + halo)
            lft, r = max(0, left - halo), min(x.shape[-1], right + halo)
            out = run(x[..., t:b, lft:r], sigma)
            row.append(out[..., top - t : bottom - t, left - lft : right - lft])
        rows.append(torch.cat(row, dim=-1))
    return torch.cat(rows, dim=-2)


def spans(length: int, tile: int) -> list[tuple[int, int]]:
    """Consecutive intervals of `tile` covering range(length); the last may be shorter."""
    return [(start, min(start + tile, length)) for start in range(0, length, tile)]
