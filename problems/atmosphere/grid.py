"""A latitude-longitude grid: areas, places between its points, and the coarser grids over it. Angles in degrees."""

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
    """Points of a regular grid, which stand for the cells around them.

    Args:
        latitudes: strictly monotonic, in either direction, within -90 to 90.
        longitudes: strictly increasing over less than 360 degrees, from any origin: 0 to 360, -180 to 180, or 350 to 370.

    Raises: InputError if they are not.
    """

    latitudes: tuple[float, ...]
    longitudes: tuple[float, ...]

    def __post_init__(self) -> None:
        lat, lon = np.diff(self.latitudes), np.diff(self.longitudes)
        if len(lat) == 0 or len(lon) == 0:
            raise InputError(
                f"grid: {len(self.latitudes)} x {len(self.longitudes)} points; at least 2 x 2 are needed"
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
        """From coordinates as a file has them: the jump from 360 to 0, or from 180 to -180, is taken out."""
        lon = np.asarray(longitudes, dtype=np.float64)
        if not (
            np.isfinite(lon).all() and np.isfinite(np.asarray(latitudes, dtype=np.float64)).all()
        ):
            raise InputError(
                "grid: a coordinate is missing (NaN); latitudes and longitudes must all be there"
            )
        jump = np.flatnonzero(np.diff(lon) < -180)
        if len(jump) == 1:
            lon = np.where(np.arange(len(lon)) > jump[0], lon + 360, lon)
        return cls(tuple(map(float, latitudes)), tuple(map(float, lon)))

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.latitudes), len(self.longitudes)

    @cached_property
    def periodic(self) -> bool:
        """Whether the last longitude's neighbour is the first."""
        step = (self.longitudes[-1] - self.longitudes[0]) / (len(self.longitudes) - 1)
        return abs(self.longitudes[0] + 360 - self.longitudes[-1] - step) < 0.01 * step

    def row_areas(self) -> Tensor:
        """Area of one cell in each row, (H,), float64: sin(north edge) - sin(south edge), which is cos(latitude) to a factor where
        rows are evenly spaced, and what is left of a cell cut off by a pole."""
        lat = torch.tensor(self.latitudes, dtype=torch.float64)
        middle = (lat[1:] + lat[:-1]) / 2
        first, last = 2 * lat[0] - middle[0], 2 * lat[-1] - middle[-1]
        edges = torch.cat([first[None], middle, last[None]]).clamp(-90, 90).deg2rad().sin()
        return (edges[1:] - edges[:-1]).abs()

    def locate(self, latitude: Tensor, longitude: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The four points around each place, what bilinear interpolation gives them, and which places are on the grid.

        Args:
            latitude, longitude: (n,), any longitude modulo 360; on a periodic grid the last and the first column are neighbours.

        Returns: indices (n, 4) into the flattened grid, weights (n, 4) float64, inside (n,) boolean; outside, the weights mean nothing.
        """
        i, u, in_lat = _between(
            torch.tensor(self.latitudes, dtype=torch.float64), latitude.double()
        )
        lon = torch.tensor(
            [*self.longitudes, *([self.longitudes[0] + 360] if self.periodic else [])],
            dtype=torch.float64,
        )
        turned = lon[0] + (longitude.double() - lon[0]).remainder(360)
        turned = torch.where(
            360 - (turned - lon[0]) < 1e-9, lon[0], turned
        )  # a rounding error west of the first column
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
        """The grid of blocks of factor x factor cells, each at the mean latitude and longitude of its cells; the last blocks may be smaller."""
        lat, lon = (np.asarray(c) for c in (self.latitudes, self.longitudes))
        return Grid(
            *(
                tuple(float(c[k : k + factor].mean()) for k in range(0, len(c), factor))
                for c in (lat, lon)
            )
        )

    def matches(self, other: Grid) -> bool:
        """Whether the points are the same, in the same order, longitudes modulo 360."""
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
        """Whether another grid has the same points, in whatever order of rows and origin of longitude."""
        try:
            self.conform(np.zeros(grid.shape), grid)
        except InputError:
            return False
        return True

    def conform(self, values: np.ndarray, grid: Grid) -> np.ndarray:
        """Values (..., H, W) on another grid of the same points, in the order of this one: rows reversed, columns rolled.

        Raises: InputError if the points are not the same.
        """
        rows, columns = np.asarray(grid.latitudes), np.asarray(grid.longitudes)
        if rows.shape == np.shape(self.latitudes) and np.sign(rows[1] - rows[0]) != np.sign(
            self.latitudes[1] - self.latitudes[0]
        ):
            values, rows = values[..., ::-1, :], rows[::-1]
        if columns.shape == np.shape(self.longitudes) and grid.periodic:
            start = int(np.abs((columns - self.longitudes[0] + 180) % 360 - 180).argmin())
            values, columns = np.roll(values, -start, axis=-1), np.roll(columns, -start)
        if not self.matches(Grid.of(rows, columns)):
            raise InputError(f"its grid is {grid}, expected {self}")
        return values

    def __str__(self) -> str:
        a, b, c, d = self.latitudes[0], self.latitudes[-1], self.longitudes[0], self.longitudes[-1]
        return f"{len(self.latitudes)} x {len(self.longitudes)} points, latitude {a:g} to {b:g}, longitude {c:g} to {d:g}"


def distance(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
    """Great-circle distance in km between places (latitude (n,), longitude (n,)) and (latitude (m,), longitude (m,)): (n, m)."""
    unit = [
        torch.stack([t.cos() * p.cos(), t.cos() * p.sin(), t.sin()], 1)
        for t, p in ((x[0].double().deg2rad(), x[1].double().deg2rad()) for x in (a, b))
    ]
    return (
        2
        * EARTH_RADIUS
        * torch.asin(
            (torch.cdist(unit[0], unit[1], compute_mode="donot_use_mm_for_euclid_dist") / 2).clamp(
                max=1
            )
        )
    )


def block_matrix(areas: Tensor, factor: int) -> Tensor:
    """Area-weighted means over consecutive blocks of `factor` cells, the last one of what is left: (ceil(n / factor), n), float64."""
    n = len(areas)
    block = torch.arange(n) // factor
    matrix = torch.zeros(math.ceil(n / factor), n, dtype=torch.float64)
    matrix[block, torch.arange(n)] = areas.double()
    return matrix / matrix.sum(1, keepdim=True)


def _between(points: Tensor, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Index of the interval of monotonic points that holds each value, the place within it from 0 to 1, and whether there is one."""
    descending = bool(points[0] > points[-1])
    line, x = (-points, -at) if descending else (points, at)
    inside = (x >= line[0] - 1e-9) & (x <= line[-1] + 1e-9)
    k = (torch.searchsorted(line, x.contiguous(), right=True) - 1).clamp(0, len(line) - 2)
    return k, ((x - line[k]) / (line[k + 1] - line[k])).clamp(0, 1), inside
