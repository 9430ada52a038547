"""Latitude-longitude grids: areas, interpolation, coarser grids. Angles are in degrees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from inverse.errors import InputError

EARTH_RADIUS = 6371.0
"""Mean radius in km."""


@dataclass(frozen=True)
class Grid:
    """Points of a rectangular grid; each represents the cell around it.

    Args:
        latitudes: strictly monotonic, in either direction, within -90 to 90.
        longitudes: strictly increasing, spanning less than 360 degrees, from any origin: 0 to 360,
            -180 to 180, or 350 to 370.

    Raises: InputError for other coordinates, or fewer than 2 x 2 points.
    """

    latitudes: tuple[float, ...]
    longitudes: tuple[float, ...]

    def __post_init__(self) -> None:
        lat, lon = np.diff(self.latitudes), np.diff(self.longitudes)
        if len(lat) == 0 or len(lon) == 0:
            raise InputError(
                f"grid: {len(self.latitudes)} x {len(self.longitudes)} points; "
                "at least 2 x 2 are needed"
            )
        if not (np.all(lat > 0) or np.all(lat < 0)) or max(map(abs, self.latitudes)) > 90 + 1e-6:
            raise InputError("grid: latitudes must increase or decrease strictly within -90 to 90")
        if not np.all(lon > 0) or self.longitudes[-1] - self.longitudes[0] >= 360:
            raise InputError(
                "grid: longitudes must increase strictly and span less than 360 degrees"
            )

    @classmethod
    def of(
        cls, latitudes: Sequence[float] | np.ndarray, longitudes: Sequence[float] | np.ndarray
    ) -> Grid:
        """The grid of a file's coordinates, with a jump from 360 to 0 or 180 to -180 removed.

        Raises: InputError if a coordinate is NaN, or as the class.
        """
        lat, lon = (np.asarray(c, dtype=np.float64) for c in (latitudes, longitudes))
        if not (np.isfinite(lat).all() and np.isfinite(lon).all()):
            raise InputError(
                "grid: a coordinate is missing (NaN); give all latitudes and longitudes"
            )
        jump = np.flatnonzero(np.diff(lon) < -180)
        if len(jump) == 1:
            lon = np.where(np.arange(len(lon)) > jump[0], lon + 360, lon)
        return cls(tuple(map(float, latitudes)), tuple(map(float, lon)))

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return len(self.latitudes), len(self.longitudes)

    @cached_property
    def periodic(self) -> bool:
        """Whether the first column is the eastern neighbour of the last."""
        step = (self.longitudes[-1] - self.longitudes[0]) / (len(self.longitudes) - 1)
        return abs(self.longitudes[0] + 360 - self.longitudes[-1] - step) < 0.01 * step

    def row_areas(self) -> Tensor:
        """Area of a cell of each row, up to a common factor: (H,), float64.

        It is sin(north edge) - sin(south edge), which is proportional to cos(latitude) for evenly
        spaced rows. The poles cut off the cells that would extend beyond them.
        """
        lat = torch.tensor(self.latitudes, dtype=torch.float64)
        middle = (lat[1:] + lat[:-1]) / 2
        first, last = 2 * lat[0] - middle[0], 2 * lat[-1] - middle[-1]
        edges = torch.cat([first[None], middle, last[None]]).clamp(-90, 90).deg2rad().sin()
        return (edges[1:] - edges[:-1]).abs()

    def locate(self, latitude: Tensor, longitude: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The four grid points around each place, their bilinear weights, and whether it is inside.

        On a periodic grid the last and the first column are neighbours.

        Args:
            latitude: (n,).
            longitude: (n,), modulo 360.

        Returns: indices (n, 4) into the flattened grid, weights (n, 4) float64, and inside (n,)
        boolean; the weights of a place outside are undefined.
        """
        lat = torch.tensor(self.latitudes, dtype=torch.float64)
        i, u, in_lat = _between(lat, latitude.double())
        wrapped = [self.longitudes[0] + 360] if self.periodic else []
        lon = torch.tensor([*self.longitudes, *wrapped], dtype=torch.float64)
        turned = lon[0] + (longitude.double() - lon[0]).remainder(360)
        # a place that rounding puts just west of the first column is on it
        turned = torch.where(360 - (turned - lon[0]) < 1e-9, lon[0], turned)
        j, v, in_lon = _between(lon, turned)
        width = self.shape[1]
        corners = [(i + di) * width + (j + dj) % width for di in (0, 1) for dj in (0, 1)]
        weights = [(u if di else 1 - u) * (v if dj else 1 - v) for di in (0, 1) for dj in (0, 1)]
        return (
            torch.stack(corners, 1),
            torch.stack(weights, 1),
            in_lat & in_lon & latitude.isfinite() & longitude.isfinite(),
        )

    def coarsened(self, factor: int) -> Grid:
        """The grid of blocks of factor x factor cells, each at the mean position of its cells.

        If the factor does not divide the grid, the last blocks are smaller.
        """

        def block_means(coordinates: tuple[float, ...]) -> tuple[float, ...]:
            c = np.asarray(coordinates)
            return tuple(float(c[k : k + factor].mean()) for k in range(0, len(c), factor))

        return Grid(block_means(self.latitudes), block_means(self.longitudes))

    def matches(self, other: Grid) -> bool:
        """Whether another grid has the same points in the same order, longitudes modulo 360."""
        if self.shape != other.shape:
            return False
        turn = 360 * round((other.longitudes[0] - self.longitudes[0]) / 360)
        same = zip(
            self.latitudes + self.longitudes,
            other.latitudes + tuple(lon - turn for lon in other.longitudes),
            strict=True,
        )
        return all(abs(a - b) < 1e-3 for a, b in same)

    def holds(self, grid: Grid) -> bool:
        """Whether another grid has the same points, in any row order and from any longitude."""
        try:
            self.conform(np.zeros(grid.shape), grid)
        except InputError:
            return False
        return True

    def conform(self, values: np.ndarray, grid: Grid) -> np.ndarray:
        """Values (..., H, W) on another grid of the same points, in the order of this grid.

        Rows are reversed and columns rolled as needed.

        Raises: InputError if the points are not the same.
        """
        rows, columns = np.asarray(grid.latitudes), np.asarray(grid.longitudes)
        opposite = (rows[1] > rows[0]) != (self.latitudes[1] > self.latitudes[0])
        if len(rows) == len(self.latitudes) and opposite:
            values, rows = values[..., ::-1, :], rows[::-1]
        if len(columns) == len(self.longitudes) and grid.periodic:
            start = int(np.abs((columns - self.longitudes[0] + 180) % 360 - 180).argmin())
            values, columns = np.roll(values, -start, axis=-1), np.roll(columns, -start)
        if not self.matches(Grid.of(rows, columns)):
            raise InputError(f"its grid is {grid}, expected {self}")
        return values

    def __str__(self) -> str:
        lat, lon = self.latitudes, self.longitudes
        ranges = f"latitude {lat[0]:g} to {lat[-1]:g}, longitude {lon[0]:g} to {lon[-1]:g}"
        return f"{len(lat)} x {len(lon)} points, {ranges}"


def west_to_east(longitudes: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order of columns from west to east, and their increasing longitudes, in degrees.

    Longitudes may fall, lie within 0 to 360 or -180 to 180 in two pieces, or repeat the first
    column at the end, which is then left out. A regional grid begins after its widest gap, a global
    one with its first column.
    """
    lon = np.asarray(longitudes, dtype=np.float64)
    if not np.isfinite(lon).all() or len(lon) < 2:
        return np.arange(len(lon)), lon
    columns = np.unique(np.round(lon % 360, 6), return_index=True)[1]
    ring = lon[columns] % 360
    gaps = np.diff(ring, append=ring[0] + 360)
    regional = gaps.max() > 1.01 * np.median(gaps)
    first = (int(gaps.argmax()) + 1) % len(ring) if regional else int(columns.argmin())
    columns, ring = np.roll(columns, -first), np.roll(ring, -first)
    east = ring[0] + (ring - ring[0]) % 360
    if columns[0] == 0:
        return columns, east - ring[0] + lon[0]  # the file's own origin
    return columns, east - 360 if east[0] > 180 else east


def distance(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
    """Great-circle distances in km: (n, m).

    Args:
        a: latitudes (n,) and longitudes (n,).
        b: latitudes (m,) and longitudes (m,).
    """

    def unit_vectors(latitude: Tensor, longitude: Tensor) -> Tensor:
        t, p = latitude.double().deg2rad(), longitude.double().deg2rad()
        return torch.stack([t.cos() * p.cos(), t.cos() * p.sin(), t.sin()], 1)

    exact = "donot_use_mm_for_euclid_dist"
    chord = torch.cdist(unit_vectors(*a), unit_vectors(*b), compute_mode=exact)
    return 2 * EARTH_RADIUS * torch.asin((chord / 2).clamp(max=1))


def block_matrix(areas: Tensor, factor: int) -> Tensor:
    """Matrix of area-weighted means over blocks of cells: (ceil(n / factor), n), float64.

    Args:
        areas: (n,), up to a common factor.
        factor: cells of a block; the last block may have fewer.
    """
    n = len(areas)
    block = torch.arange(n) // factor
    matrix = torch.zeros(math.ceil(n / factor), n, dtype=torch.float64)
    matrix[block, torch.arange(n)] = areas.double()
    return matrix / matrix.sum(1, keepdim=True)


def _between(points: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The interval of monotonic points that holds each value (n,).

    Returns: its index (n,), the position in it from 0 to 1 (n,), and whether it exists (n,).
    """
    descending = bool(points[0] > points[-1])
    line, x = (-points, -values) if descending else (points, values)
    inside = (x >= line[0] - 1e-9) & (x <= line[-1] + 1e-9)
    k = (torch.searchsorted(line, x.contiguous(), right=True) - 1).clamp(0, len(line) - 2)
    return k, ((x - line[k]) / (line[k + 1] - line[k])).clamp(0, 1), inside
