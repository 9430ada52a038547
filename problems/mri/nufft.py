"""The Fourier transform of a slice at any frequencies, by gridding, with its exact adjoint.

The slice is padded to twice its sides, divided by the transform of a Kaiser-Bessel kernel,
transformed by an FFT and interpolated with that kernel. Padding, FFT and a real sparse matrix of
kernel values have exact adjoints, so that the adjoint of the whole is exact as well.

Source: Jackson, Meyer, Nishimura, Macovski, Selection of a convolution function for Fourier
inversion using gridding, IEEE Transactions on Medical Imaging 1991; shape of the kernel from
Beatty, Nishimura, Pauly, Rapid gridding reconstruction with a minimal oversampling ratio, 2005.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inverse.errors import MemoryLimitError
from inverse.measurement.sparse import SparseMatrix
from inverse.memory import free_memory
from inverse_problems.mri.operators import inverse_transform, transform

OVERSAMPLING, WIDTH = 2, 8
"""Sides of the grid over sides of the slice; width of the kernel (grid points)."""

BETA = math.pi * math.sqrt((WIDTH / OVERSAMPLING * (OVERSAMPLING - 0.5)) ** 2 - 0.8)
"""Shape of the kernel."""

BYTES = 32
"""Bytes of a weight of the matrix and of its transpose, with their indices."""


class NUFFT:
    """sum_r x(r) exp(-2 pi i k (r - c) / N) / sqrt(H W), c = N // 2 on each axis.

    Args:
        frequencies: (count, 2), cycles per field of view along rows and along columns.
        sides: height and width of the slice.

    Raises: MemoryLimitError if the kernel's values do not fit into the free memory.
    """

    def __init__(self, frequencies: np.ndarray, sides: tuple[int, int]):
        self.sides = sides
        self.grid = (OVERSAMPLING * sides[0], OVERSAMPLING * sides[1])
        needed, free = len(frequencies) * WIDTH**2 * BYTES, free_memory(torch.device("cpu"))
        if free is not None and needed > free:
            raise MemoryLimitError(
                f"mri: {len(frequencies)} frequencies off a grid need {needed / 2**30:.1f} GiB, "
                f"{free / 2**30:.1f} GiB are free; use fewer shots"
            )
        self.matrix = SparseMatrix(_interpolation(frequencies, self.grid))
        shape = np.outer(*(_kernel_transform(n) for n in sides))
        scale = OVERSAMPLING / WIDTH**2  # of the orthonormal transform of the larger grid
        self._correction = torch.from_numpy(scale / shape)

    def __deepcopy__(self, memo: Any) -> NUFFT:
        return self  # it never changes

    def forward(self, images: Tensor) -> Tensor:
        """Complex images (..., H, W) -> complex values (..., count)."""
        padded = torch.nn.functional.pad(images * self._correction.to(images.real), self._padding)
        grid = torch.view_as_real(transform(padded).flatten(-2)).movedim(-1, -2)
        return torch.view_as_complex(self.matrix.forward(grid).movedim(-2, -1).contiguous())

    def adjoint(self, values: Tensor) -> Tensor:
        """The adjoint: complex values (..., count) -> complex images (..., H, W)."""
        parts = self.matrix.adjoint(torch.view_as_real(values).movedim(-1, -2))
        grid = torch.view_as_complex(parts.movedim(-2, -1).contiguous())
        images = inverse_transform(grid.unflatten(-1, self.grid))
        left, right, top, bottom = self._padding
        inner = images[..., top : self.grid[0] - bottom, left : self.grid[1] - right]
        return inner * self._correction.to(inner.real)

    @property
    def _padding(self) -> tuple[int, int, int, int]:
        """Zeros left, right, above and below, such that centres agree."""
        (top, bottom), (left, right) = (
            (g // 2 - n // 2, g - n - (g // 2 - n // 2))
            for g, n in zip(self.grid, self.sides, strict=True)
        )
        return left, right, top, bottom


def density_compensation(frequencies: np.ndarray) -> np.ndarray:
    """The area of k-space (cycles per field of view, squared) of each frequency, (count,).

    It is that of its Voronoi cell, shared by frequencies that are equal. A cell that reaches beyond
    the highest frequencies has the area of the nearest one that does not.

    Args:
        frequencies: (count, 2), cycles per field of view, not all on a line.

    Source: Rasche, Proksa, Sinkus, Boernert, Eggers, Resampling of data between arbitrary grids
    using convolution interpolation, IEEE Transactions on Medical Imaging 1999.
    """
    from scipy.spatial import Voronoi, cKDTree

    points, place, count = np.unique(
        np.round(frequencies, 6), axis=0, return_inverse=True, return_counts=True
    )
    top = np.abs(points).max(0)
    largest = np.hypot(*(points / top).T).max()
    diagram = Voronoi(points)
    area = np.zeros(len(points))
    for index, region in enumerate(diagram.point_region):
        cell = diagram.regions[region]
        corners = diagram.vertices[cell]
        if cell and -1 not in cell and np.hypot(*(corners / top).T).max() <= largest:
            x, y = corners.T
            area[index] = abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
    inner = area > 0
    if not inner.any():
        return np.ones(len(frequencies))
    _, nearest = cKDTree(points[inner]).query(points[~inner])
    area[~inner] = area[inner][nearest]
    return (area / count)[place.ravel()]


def _interpolation(frequencies: np.ndarray, grid: tuple[int, int]) -> Any:
    """The values of the kernel around each frequency: sparse (count, grid points)."""
    from scipy import sparse

    places, values = [], []
    for axis, size in enumerate(grid):
        position = OVERSAMPLING * frequencies[:, axis] + size // 2
        first = np.floor(position - WIDTH / 2).astype(np.int64) + 1
        points = first[:, None] + np.arange(WIDTH)
        values.append(_kernel(points - position[:, None]))
        places.append(points % size)
    columns = places[0][:, :, None] * grid[1] + places[1][:, None, :]
    weights = values[0][:, :, None] * values[1][:, None, :]
    count = len(frequencies)
    pointers = np.arange(count + 1) * WIDTH**2
    return sparse.csr_matrix(
        (weights.ravel(), columns.ravel(), pointers), shape=(count, grid[0] * grid[1])
    )


def _kernel(distance: np.ndarray) -> np.ndarray:
    """The Kaiser-Bessel kernel at distances in grid points."""
    inside = np.clip(1 - (2 * distance / WIDTH) ** 2, 0, None)
    return np.where(np.abs(distance) <= WIDTH / 2, np.i0(BETA * np.sqrt(inside)), 0.0)


def _kernel_transform(size: int) -> np.ndarray:
    """The transform of the kernel at the pixels of one axis, divided by its width."""
    r = (np.arange(size) - size // 2) / (OVERSAMPLING * size)
    root = np.sqrt(BETA**2 - (math.pi * WIDTH * r) ** 2 + 0j)
    return np.real(np.sinh(root) / root)
