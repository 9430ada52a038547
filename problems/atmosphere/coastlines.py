"""Coastlines for maps: Natural Earth's land at 1:50 million (public domain)."""

from __future__ import annotations

import functools
import importlib.resources
import io

import numpy as np


def coastlines(west: float, east: float, south: float, north: float) -> np.ndarray:
    """The coasts within a box as a single line, broken by NaN: (n, 2), longitude and latitude.

    Args:
        west, east: any turns of longitude (degrees), west < east.
    """
    points, lengths = _lines()
    found = [np.empty((0, 2))]
    for turn in range(int((west - 180) // 360), int((east + 180) // 360) + 1):
        moved = points + np.array([360 * turn, 0])
        inside = (
            (moved[:, 0] > west - 1)
            & (moved[:, 0] < east + 1)
            & (moved[:, 1] > south - 1)
            & (moved[:, 1] < north + 1)
        )
        drawn = np.where(inside[:, None], moved, np.nan)
        found.append(np.insert(drawn, np.cumsum(lengths)[:-1], np.nan, axis=0))
        found.append(np.full((1, 2), np.nan))
    line = np.concatenate(found)
    gap = np.isnan(line[:, 0])
    return line[~(gap & np.append(True, gap[:-1]))]


@functools.cache
def _lines() -> tuple[np.ndarray, np.ndarray]:
    """Points of all lines (degrees), and the number of points of each line."""
    file = importlib.resources.files("inverse_data") / "atmosphere" / "coastlines.npz"
    with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as stored:
        return stored["points"] / 100, stored["lengths"]
