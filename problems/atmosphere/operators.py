"""Linear operators on fields (B, channels, latitude, longitude): coarsening, sampling at places, combining channels."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from inverse.errors import InputError, OptionError
from inverse.measurement.deepinv_import import deepinv
from inverse_problems.atmosphere.grid import Grid, block_matrix


def coarsen(grid: Grid, factor: int, seen: Tensor | None = None) -> Any:
    """Area-weighted means over blocks of factor x factor cells, on every channel: x (B, C, H, W) -> y (B, C, h, w).

    Args:
        factor: at least 1; blocks at the far edges are smaller where it does not divide the grid.
        seen: boolean (C, h, w); y is then the blocks that were seen alone, (B, 1, 1, m).

    Returns: a deepinv `LinearPhysics`.
    """
    if not 1 <= factor <= min(grid.shape):
        raise OptionError(f"coarsening: factor must be from 1 to {min(grid.shape)}, got {factor}")
    return _classes()["Coarsen"](
        block_matrix(grid.row_areas(), factor),
        block_matrix(torch.ones(grid.shape[1]), factor),
        seen,
    )


def sample(
    grid: Grid,
    latitude: Tensor,
    longitude: Tensor,
    channels: int = 1,
    channel: Tensor | None = None,
) -> Any:
    """Bilinear interpolation to places, across the meridian where a periodic grid begins: x (B, C, H, W) -> y (B, 1, 1, n).

    Args:
        latitude, longitude: (n,), degrees.
        channels: C.
        channel: which one each observation sees, (n,); by default the first.

    Raises: InputError for a place outside the grid.
    """
    index, weight, inside = grid.locate(latitude, longitude)
    if not bool(inside.all()):
        raise InputError(
            f"sampling: {int((~inside).sum())} of {len(inside)} places are outside the grid ({grid}); drop them first"
        )
    first = torch.zeros(len(index), dtype=torch.long) if channel is None else channel.long()
    return _classes()["Sample"](
        first[:, None] * grid.shape[0] * grid.shape[1] + index, weight, (channels, *grid.shape)
    )


def combine(matrix: Tensor) -> Any:
    """Weighted sums of channels: x (B, C, H, W) -> y (B, k, H, W). Rows of the identity select variables and levels, means of hours a time window.

    Args:
        matrix: (k, C).
    """
    return _classes()["Combine"](matrix)


def select(channels: tuple[int, ...], count: int) -> Any:
    """Some of `count` channels, in this order: x (B, count, H, W) -> y (B, len(channels), H, W)."""
    return combine(torch.eye(count, dtype=torch.float64)[list(channels)])


@functools.cache
def _classes() -> dict[str, Any]:
    physics = deepinv("physics")

    class Coarsen(physics.LinearPhysics):  # type: ignore[name-defined, misc]
        def __init__(self, rows: Tensor, columns: Tensor, seen: Tensor | None):
            super().__init__()
            self.register_buffer("rows", rows)
            self.register_buffer("columns", columns)
            self.register_buffer("where", None if seen is None else seen.flatten().nonzero()[:, 0])
            self.block_shape: tuple[int, ...] = () if seen is None else tuple(seen.shape)

        def A(self, x: Tensor, **_: Any) -> Tensor:
            y = self.rows.to(x) @ x @ self.columns.to(x).T
            return y if self.where is None else y.flatten(1)[:, None, None, self.where]

        def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:
            if self.where is not None:
                whole = y.new_zeros(len(y), torch.Size(self.block_shape).numel())
                whole[:, self.where] = y.flatten(1)
                y = whole.unflatten(1, self.block_shape)
            return self.rows.to(y).T @ y @ self.columns.to(y)

    class Sample(physics.LinearPhysics):  # type: ignore[name-defined, misc]
        def __init__(self, index: Tensor, weight: Tensor, shape: tuple[int, ...]):
            super().__init__(img_size=shape)
            self.register_buffer("index", index)
            self.register_buffer("weight", weight)
            self.shape = shape

        def A(self, x: Tensor, **_: Any) -> Tensor:
            return (x.flatten(1)[:, self.index] * self.weight.to(x)).sum(-1)[:, None, None]

        def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:
            spread = y.flatten(1)[:, :, None] * self.weight.to(y)
            x = y.new_zeros(len(y), torch.Size(self.shape).numel())
            return x.index_add(1, self.index.flatten(), spread.flatten(1)).unflatten(1, self.shape)

    class Combine(physics.LinearPhysics):  # type: ignore[name-defined, misc]
        def __init__(self, matrix: Tensor):
            super().__init__()
            self.register_buffer("matrix", matrix)

        def A(self, x: Tensor, **_: Any) -> Tensor:
            return torch.einsum("kc,bchw->bkhw", self.matrix.to(x), x)

        def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:
            return torch.einsum("kc,bkhw->bchw", self.matrix.to(y), y)

    return {"Coarsen": Coarsen, "Sample": Sample, "Combine": Combine}
