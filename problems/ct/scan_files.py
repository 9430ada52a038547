"""Files of projections: HDF5 Data Exchange, .npy, .npz, HDF5 and TIFF, with their angles.

Source of Data Exchange: De Carlo et al., Scientific data exchange: a schema for HDF5-based storage
of raw and analyzed data, Journal of Synchrotron Radiation 2014.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inverse.errors import InputError
from inverse.io.arrays import is_array, read_named, read_numbers, shape_of, units_of
from inverse.io.stacks import is_tiff, read_tiff

PROJECTIONS = ("exchange/data", "data", "sinogram", "projections", "y")
FLATS = ("exchange/data_white", "data_white", "flats")
DARKS = ("exchange/data_dark", "data_dark", "darks")
ANGLES = ("exchange/theta", "theta", "angles")

FULL_TURN = 2 * math.pi
MANY = 8
"""Angles within one radian turn are doubted as degrees if there are more than this many."""


@dataclass(frozen=True)
class Projections:
    """The numbers of a file of projections.

    Args:
        data: (views, slices, detectors), or (a, b) of unknown order.
        theta: radians, (views,); None if the file has no angles.
        flats, darks: (frames, slices, detectors) or (frames, detectors); None if there are none.
        exchange: whether the file is a Data Exchange file, whose numbers are counts.
    """

    data: np.ndarray
    theta: np.ndarray | None
    flats: np.ndarray | None
    darks: np.ndarray | None
    exchange: bool


def read_projections(path: Path, theta_unit: str | None, slice_: int | None = None) -> Projections:
    """Read a file of projections.

    Args:
        theta_unit: degree or radian; None takes that of the file, or degree.
        slice_: the only slice to keep, of HDF5 to read, of arrays of three axes; None keeps all.

    Raises: InputError if the file cannot be read, its numbers are not real or its angles are in
        another unit.
    """
    names = (*PROJECTIONS, *FLATS, *DARKS, *ANGLES)
    if not path.is_file():
        raise InputError(f"{path}: no such file")

    def part(name: str, shape: tuple[int, ...]) -> Any:
        if slice_ is None or len(shape) != 3:
            return ()
        kept = min(slice_, shape[1] - 1)
        return (slice(None), slice(kept, kept + 1))

    named = read_named(path, names, part)

    def first(candidates: tuple[str, ...]) -> tuple[str, np.ndarray] | tuple[None, None]:
        return next(((n, named[n]) for n in candidates if n in named), (None, None))

    (name, data), (_, flats), (_, darks), (angles, theta) = map(
        first, (PROJECTIONS, FLATS, DARKS, ANGLES)
    )
    if data is None:
        data = read_array(path)
        data = data[part("", data.shape)]
    numbers = checked(path, data)
    radians = None
    if theta is not None:
        unit = theta_unit or ("radian" if units_of(path, str(angles)).startswith("rad") else None)
        radians = as_radians(f"{path}: theta", np.ravel(theta), unit)
    return Projections(
        numbers,
        radians,
        None if flats is None else checked(path, flats),
        None if darks is None else checked(path, darks),
        str(name).startswith("exchange"),
    )


def slice_count(path: Path) -> int:
    """Number of slices of a file of projections; 1 without an axis of slices.

    Raises: InputError if it cannot be read.
    """
    shapes = (shape_of(path, name) for name in PROJECTIONS)
    shape = next((found for found in shapes if found is not None), None)
    shape = read_array(path).shape if shape is None else shape
    return shape[1] if len(shape) == 3 else 1


def read_array(path: Path) -> np.ndarray:
    """The numbers of a .npy, .npz, HDF5 or TIFF file.

    Raises: InputError if the file is missing, or of another kind.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open("rb") as file:
        head = file.read(64)
    if is_tiff(head):
        return read_tiff(path)[0]
    if not is_array(head):
        raise InputError(
            f"{path}: expected projections in HDF5, .npy, .npz or TIFF, found another kind of file"
        )
    return read_numbers(path, head)


def checked(path: Path, numbers: np.ndarray) -> np.ndarray:
    """Finite real numbers in float64.

    Raises: InputError for anything else.
    """
    if numbers.dtype.kind not in "buif":
        raise InputError(f"{path}: expected real numbers, found {numbers.dtype}")
    if numbers.size == 0:
        raise InputError(f"{path}: holds no numbers, its shape is {numbers.shape}")
    invalid = int((~np.isfinite(numbers)).sum())
    if invalid:
        raise InputError(f"{path}: {invalid} of {numbers.size} values are NaN or infinite")
    return numbers.astype(np.float64)


def read_theta(path: Path, unit: str | None) -> np.ndarray:
    """Angles of a text or array file, (views,), radians.

    Raises: InputError if the file cannot be read, or the range is that of another unit.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix.lower() in (".txt", ".csv", ".dat"):
        try:
            theta = np.loadtxt(path, delimiter="," if path.suffix.lower() == ".csv" else None)
        except ValueError as error:
            raise InputError(f"{path}: not a list of angles ({error})") from error
    else:
        theta = checked(path, read_array(path))
    return as_radians(f"{path}: theta", np.ravel(theta), unit)


def as_radians(what: str, theta: np.ndarray, unit: str | None) -> np.ndarray:
    """Angles in radians.

    Args:
        unit: degree or radian; None is degree, if the range does not say otherwise.

    Raises: InputError if the range of the angles is that of another unit.
    """
    theta = np.ravel(theta)
    if theta.dtype.kind not in "fiu" or not theta.size or not np.isfinite(theta).all():
        raise InputError(f"{what}: expected finite real numbers, found {theta.dtype}")
    theta = theta.astype(np.float64)
    span = float(np.ptp(theta))
    if unit == "radian":
        if np.abs(theta).max() > 2 * FULL_TURN:
            raise InputError(
                f"{what} runs from {theta.min():.4g} to {theta.max():.4g}, a range in degrees, "
                "not in radians; state theta_unit=degree"
            )
        return theta
    if unit == "degree":
        return np.deg2rad(theta)
    if len(theta) > MANY and 1 < span <= FULL_TURN + 0.1 and np.abs(theta).max() <= FULL_TURN + 0.1:
        raise InputError(
            f"{what} runs from {theta.min():.4g} to {theta.max():.4g}, a range in radians, "
            "not in degrees; state theta_unit=radian"
        )
    return np.deg2rad(theta)
