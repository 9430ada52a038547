"""How evaluations of a prior are carried out (precision, tiles, micro-batches), and the count of all evaluations."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor

from inverse.linalg import CG
from inverse.prior import Prior
from inverse.tiling import tiled


@dataclass
class Cost:
    """What a solve evaluated, counted in rows of its batch; the properties divide by the rows, giving evaluations per sample."""

    rows: int = 1
    prior_rows: int = 0
    vjp_rows: int = 0
    A_rows: int = 0
    A_adjoint_rows: int = 0

    @property
    def nfe(self) -> float:
        """Prior (network) evaluations per sample."""
        return self.prior_rows / self.rows

    @property
    def vjp(self) -> float:
        """Vector-Jacobian products of the prior per sample."""
        return self.vjp_rows / self.rows

    @property
    def A(self) -> float:
        """Operator evaluations per sample."""
        return self.A_rows / self.rows

    @property
    def A_adjoint(self) -> float:
        """Adjoint (or operator-VJP) evaluations per sample."""
        return self.A_adjoint_rows / self.rows


@dataclass(frozen=True)
class Execution:
    """How evaluations are carried out; no method's code depends on it.

    Args:
        autocast: "bf16" or "fp16" to run the prior in that precision with float32 state; None for the prior's own.
        tile: side of the tiles (pixels, rounded down to the prior's stride) in which a local prior denoises images larger than `tile_above`.
        tile_above: pixels of an image above which it is tiled.
        max_pixels: rows x pixels in one prior call; larger batches go through in parts.
        solver: conjugate-gradient settings of `solve_normal`.
    """

    autocast: str | None = None
    tile: int = 1024
    tile_above: int = 1024 * 1536
    max_pixels: int = 1 << 22
    solver: CG = field(default_factory=CG)


def evaluate(prior: Prior, x: Tensor, sigma: Tensor | float, execution: Execution) -> Tensor:
    """The prior's x0_hat, carried out as asked: x (B, *shape), sigma () or (B,) -> (B, *shape) in the dtype of x."""
    dtype = _dtype(prior, x.dtype)
    level = torch.as_tensor(sigma, dtype=dtype, device=x.device).reshape(-1).expand(len(x))
    pixels = x[0].numel() // x.shape[1] if x.ndim == 4 else x[0].numel()
    tile = prior.halo is not None and x.ndim == 4 and pixels > execution.tile_above
    step = max(1, execution.max_pixels // pixels)
    if not tile and step >= len(x) and execution.autocast is None:
        return prior(x.to(dtype), level).to(x.dtype)
    parts = [_call(prior, part, s, tile, execution) for part, s in zip(x.to(dtype).split(step), level.split(step), strict=True)]
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).to(x.dtype)


def _call(prior: Prior, x: Tensor, level: Tensor, tile: bool, execution: Execution) -> Tensor:
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(execution.autocast or "")
    with torch.autocast(x.device.type, half or torch.bfloat16, enabled=half is not None):
        if tile:
            assert prior.halo is not None
            side = max(execution.tile // prior.stride, 1) * prior.stride
            return tiled(prior, x, level, side, prior.halo)
        return prior(x, level)


def _dtype(prior: Prior, default: torch.dtype) -> torch.dtype:
    """That of the prior's parameters and buffers."""
    floating = (t.dtype for t in chain(prior.parameters(), prior.buffers()) if t.is_floating_point())
    return next(floating, default)
