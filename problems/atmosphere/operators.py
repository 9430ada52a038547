"""Linear operators on fields (B, C, H, W): coarsening, sampling at places, combining channels."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from inverse.errors import InputError, OptionError
from inverse.measurement.deepinv_import import deepinv
from inverse_problems.atmosphere.grid import Grid, block_matrix


def coarsen(grid: Grid, factor: int, seen: Tensor | None = None) -> Any:
    """Area-weighted means over blocks of cells of each channel: x (B, C, H, W) -> y (B, C, h, w).

    Args:
        grid: grid of x.
        factor: side of a block in cells, at least 1; the last blocks are smaller if it does not
            divide the grid.
        seen: boolean (C, h, w); y then holds only the blocks for which it is true, (B, 1, 1, m).

    Returns: a deepinv `LinearPhysics`.

    Raises: OptionError if the factor is out of range.
    """
    if not 1 <= factor <= min(grid.shape):
        raise OptionError(f"coarsening: factor must be from 1 to {min(grid.shape)}, got {factor}")
    rows = block_matrix(grid.row_areas(), factor)
    columns = block_matrix(torch.ones(grid.shape[1]), factor)
    return _classes()["Coarsen"](rows, columns, seen)


def sample(
    grid: Grid,
    latitude: Tensor,
    longitude: Tensor,
    channels: int = 1,
    channel: Tensor | None = None,
) -> Any:
    """Bilinear interpolation to places: x (B, C, H, W) -> y (B, 1, 1, n).

    A periodic grid is interpolated across its first meridian.

    Args:
        grid: grid of x.
        latitude, longitude: (n,), degrees.
        channels: C.
        channel: index of the channel of each observation, (n,); by default the first channel.

    Returns: a deepinv `LinearPhysics`.

    Raises: InputError for a place outside the grid.
    """
    index, weight, inside = grid.locate(latitude, longitude)
    if not bool(inside.all()):
        raise InputError(
            f"sampling: {int((~inside).sum())} of {len(inside)} places are outside the grid "
            f"({grid}); drop them first"
        )
    channel = torch.zeros(len(index), dtype=torch.long) if channel is None else channel.long()
    index = channel[:, None] * grid.shape[0] * grid.shape[1] + index
    return _classes()["Sample"](index, weight, (channels, *grid.shape))


def combine(matrix: Tensor) -> Any:
    """Weighted sums of channels: x (B, C, H, W) -> y (B, k, H, W).

    Rows of the identity select variables and levels; rows of equal weights average hours.

    Args:
        matrix: (k, C).

    Returns: a deepinv `LinearPhysics`.
    """
    return _classes()["Combine"](matrix)


def select(channels: tuple[int, ...], count: int) -> Any:
    """Selected channels in the given order: x (B, count, H, W) -> y (B, len(channels), H, W).

    Args:
        channels: indices of the channels.
        count: number of channels of x.

    Returns: a deepinv `LinearPhysics`.
    """
    return combine(torch.eye(count, dtype=torch.float64)[list(channels)])


@functools.cache
def _classes() -> dict[str, Any]:
    physics = deepinv("physics")

    class Coarsen(physics.LinearPhysics):  # type: ignore[name-defined, misc]
        def __init__(self, rows: Tensor, columns: Tensor, seen: Tensor | None):
            super().__init__()
            self.register_buffer("rows", rows)
            self.register_buffer("columns", columns)
            observed = None if seen is None else seen.flatten().nonzero()[:, 0]
            self.register_buffer("observed", observed)
            self.block_shape: tuple[int, ...] = () if seen is None else tuple(seen.shape)

        def A(self, x: Tensor, **_: Any) -> Tensor:
            y = self.rows.to(x) @ x @ self.columns.to(x).T
            return y if self.observed is None else y.flatten(1)[:, None, None, self.observed]

        def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:
            if self.observed is not None:
                blocks = y.new_zeros(len(y), torch.Size(self.block_shape).numel())
                blocks[:, self.observed] = y.flatten(1)
                y = blocks.unflatten(1, self.block_shape)
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
