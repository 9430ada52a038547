"""Trajectories off a Cartesian grid: simulated, read from files, and their units."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inverse.errors import InputError
from inverse.io.arrays import array_names, read_named
from inverse_problems.mri.kspace_files import read_complex_numbers
from inverse_problems.mri.nufft import NUFFT

GOLDEN = math.pi * (math.sqrt(5) - 1) / 2
"""Angle between successive spokes (radians), 111.25 degrees.

Source: Winkelmann, Schaeffter, Koehler, Eggers, Doessel, An optimal radial profile order based on
the golden ratio for time-resolved MRI, IEEE Transactions on Medical Imaging 2007.
"""

UNITS = ("fov", "pixel", "radian")
"""Cycles per field of view, cycles per pixel, radians per pixel."""

TRAJECTORY, DENSITY = ("trajectory", "coord"), ("density", "dcf")
"""Names of arrays; coord and dcf are those of sigpy."""

SLACK = 1.05
"""Largest frequency of a trajectory in units of the highest one of the slice."""


@dataclass(frozen=True, eq=False, repr=False)
class Shots:
    """Measured k-space off a grid.

    Args:
        data: (coils, shots, samples) complex.
        frequencies: (shots, samples, 2), cycles per field of view along rows and columns.
        density: area of k-space of each frequency, (shots, samples).
        sides: height and width of the slice.
        maps: (coils, H, W) times the phase of the slice.
        sigma: noise of the real and imaginary parts, from a noise scan; None without one.
    """

    data: np.ndarray
    frequencies: np.ndarray
    density: np.ndarray
    sides: tuple[int, int]
    maps: np.ndarray
    sigma: float | None = None

    @functools.cached_property
    def nufft(self) -> NUFFT:
        """The transform at its frequencies."""
        return NUFFT(self.frequencies.reshape(-1, 2), self.sides)

    def __repr__(self) -> str:
        coils, shots, samples = self.data.shape
        return f"{coils} coils, {shots} shots of {samples} samples, slice {self.sides}"


def radial(spokes: int, sides: tuple[int, int]) -> np.ndarray:
    """Spokes through the centre at golden angles, two samples a pixel: (spokes, samples, 2)."""
    samples = 2 * max(sides)
    radius = (np.arange(samples) - samples // 2) / samples
    angle = GOLDEN * np.arange(spokes)
    directions = np.stack([np.sin(angle), np.cos(angle)], -1)
    return radius[:, None] * directions[:, None, :] * np.array(sides)


def spiral(arms: int, sides: tuple[int, int], full: int) -> np.ndarray:
    """Archimedean spirals from the centre, turned against each other: (arms, samples, 2).

    Samples lie half a cycle per field of view apart along an arm.

    Args:
        full: arms that sample the slice fully; an arm has then max(sides) / (2 full) turns.
    """
    turns, largest = max(sides) / 2 / full, max(sides) / 2
    fine = np.linspace(0, 1, 20_000)
    length = np.cumsum(largest * np.hypot(1, 2 * math.pi * turns * fine)) * fine[1]
    part = np.interp(np.arange(0, length[-1], 0.5), length - length[0], fine)
    angle = 2 * math.pi * (turns * part + np.arange(arms)[:, None] / arms)
    return 0.5 * part[:, None] * np.stack([np.sin(angle), np.cos(angle)], -1) * np.array(sides)


def has_trajectory(path: Path) -> bool:
    """Whether a file of k-space holds its trajectory."""
    return any(name in array_names(path) for name in TRAJECTORY)


def read_trajectory(
    path: Path, data: np.ndarray, stated: Path | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """k-space (coils, shots, samples), its trajectory and the density, as a file has them.

    Args:
        path: the file of k-space, which may hold `trajectory` and `density`.
        data: its numbers: (shots, samples), (coils, shots, samples) or (coils, samples).
        stated: another file of the trajectory.

    Raises: InputError if shapes do not agree, or the trajectory is not finite and real.
    """
    named = read_named(path, (*TRAJECTORY, *DENSITY))
    k = next((named[name] for name in TRAJECTORY if name in named), None)
    source = path if stated is None else stated
    if stated is not None:
        own = read_named(stated, TRAJECTORY)
        k = next(iter(own.values())) if own else read_complex_numbers(stated)
    if k is None:
        raise InputError(f"{path}: holds no 'trajectory'; state trajectory=FILE")
    if k.dtype.kind not in "fiu" or not np.isfinite(k).all():
        raise InputError(f"{source}: a trajectory is real and finite, found {k.dtype}")
    k = np.squeeze(k.astype(np.float64))
    k = k[None] if k.ndim == 2 else k
    if k.ndim != 3 or k.shape[-1] != 2:
        raise InputError(
            f"{source}: trajectory of shape {k.shape}; expected (shots, samples, 2), frequencies "
            "along rows and columns"
        )
    shape = k.shape[:2]
    if data.shape[-2:] != shape and data.size % math.prod(shape) == 0 and data.shape[-1] in shape:
        data = data.reshape(-1, *shape)
    if data.ndim not in (2, 3) or data.shape[-2:] != shape:
        raise InputError(
            f"{path}: k-space of shape {data.shape} and a trajectory of {shape[0]} shots of "
            f"{shape[1]} samples; give one frequency for each sample"
        )
    density = next((named[name] for name in DENSITY if name in named), None)
    if density is not None:
        density = np.squeeze(density).astype(np.float64).reshape(-1)
        if density.size != math.prod(shape) or not (density >= 0).all() or not density.any():
            raise InputError(
                f"{path}: density holds one area of k-space, at least 0, for each of the "
                f"{math.prod(shape)} samples"
            )
        density = density.reshape(shape)
    return (data[None] if data.ndim == 2 else data), k, density


def in_cycles(
    path: Path,
    k: np.ndarray,
    sides: tuple[int, int] | None,
    unit: str | None,
    notes: list[str],
) -> tuple[np.ndarray, tuple[int, int]]:
    """A trajectory in cycles per field of view, and height and width of the slice.

    Args:
        k: (shots, samples, 2).
        sides: of the slice; None takes twice the largest frequency in cycles per field of view.
        unit: one of `UNITS`; None finds it from the range.

    Raises: InputError if the frequencies exceed those of the slice, or its size is not known.
    """
    largest = np.abs(k).max((0, 1))
    if not largest.min() > 0:
        raise InputError(f"{path}: its trajectory is a line or a point; a slice needs two axes")
    if unit is None:
        top = float(largest.max())
        unit = "pixel" if top <= 0.5 * SLACK else "radian" if top <= math.pi * SLACK else "fov"
        notes.append(f"trajectory up to {top:.4g}, taken as {_WORDS[unit]}; trajectory_unit states")
        notes[-1] += " it"
    if sides is None and unit != "fov":
        raise InputError(
            f"{path}: a trajectory in {_WORDS[unit]} does not tell the size of the slice; state "
            "size=HEIGHT,WIDTH"
        )
    if sides is None:
        found = 2 * math.ceil(float(largest.max()) - 1e-6)
        sides = (found, found)
        notes.append(f"slice of {found}x{found} pixels from the trajectory; size=... states it")
    factor = {"fov": 1.0, "pixel": np.array(sides), "radian": np.array(sides) / (2 * math.pi)}
    cycles = k * factor[unit]
    share = float((np.abs(cycles) / (np.array(sides) / 2)).max())
    if share > SLACK:
        raise InputError(
            f"{path}: its trajectory reaches {share:.3g} times the highest frequency of a slice of "
            f"{sides[0]}x{sides[1]} pixels in {_WORDS[unit]}; check size and trajectory_unit"
        )
    return cycles, sides


_WORDS = {
    "fov": "cycles per field of view",
    "pixel": "cycles per pixel",
    "radian": "radians per pixel",
}
