"""NetCDF files and Zarr stores through xarray: opening, times, missing values, writing."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from inverse.errors import InputError, InverseError

CALENDARS = ("standard", "gregorian", "proleptic_gregorian")
HOUR = np.timedelta64(1, "h")
FILLS = (-8888.0, -9999.0, -99999.0, -32767.0)
"""Fill values of files that do not declare theirs; numbers beyond 1e10 are fill values too."""


def package(name: str) -> ModuleType:
    """A package of the extra `atmosphere` or `zarr`, imported when first needed.

    Raises: InputError with the install command if the package is missing.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        extra = "zarr" if name == "zarr" else "atmosphere"
        raise InputError(
            f"weather fields need the package {name}: pip install 'inverse-posterior[{extra}]'"
        ) from error


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An xarray dataset of a NetCDF file or a Zarr store (a folder), with times as numbers.

    Raises: InputError if the file is missing, of another kind or damaged. Damage may be found only
        when the caller reads values.
    """
    engine = _engine(path)
    xarray = package("xarray")
    package(engine)
    try:
        # reads a Zarr store with or without consolidated metadata, without a warning
        settings = {"consolidated": False} if engine == "zarr" else {}
        with xarray.open_dataset(path, engine=engine, decode_times=False, **settings) as dataset:
            yield dataset
    except InverseError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, IndexError, EOFError) as error:
        format_name = "Zarr store" if engine == "zarr" else "NetCDF file"
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: not a readable {format_name} ({reason})") from error


def _engine(path: Path) -> str:
    """The xarray engine that reads a file.

    Raises: InputError if the file is missing or of another kind.
    """
    if path.is_dir() and path.suffix == ".zarr":
        return "zarr"
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open("rb") as file:
        engine = {b"\x89HDF": "h5netcdf", b"CDF\x01": "scipy", b"CDF\x02": "scipy"}.get(
            file.read(4)
        )
    if engine is None:
        raise InputError(f"{path}: not a NetCDF file")
    return engine


def is_missing(values: np.ndarray) -> np.ndarray:
    """Where values are missing: NaN, infinity or a usual fill value. Boolean, same shape."""
    with np.errstate(invalid="ignore"):
        return ~np.isfinite(values) | (np.abs(values) > 1e10) | np.isin(values, FILLS)


def moment(time: str) -> np.datetime64:
    """A time in ISO 8601, to the nanosecond.

    Raises: InputError if the text is not a time.
    """
    try:
        return np.datetime64(time, "ns")
    except ValueError as error:
        raise InputError(f"time '{time}': not a date and hour such as 2019-03-25T12") from error


def point_times(data: Any, dim: str, path: Path) -> np.ndarray | None:
    """Times of the points along a dimension, (n,) datetime64[m]; None if the file has none."""
    times = file_times(data, path)
    return None if times is None or data["time"].dims != (dim,) else times.astype("datetime64[m]")


def write(path: Path, dataset: Any) -> None:
    """Write an xarray dataset as NetCDF 4 with compressed floats, atomically."""
    from inverse.io.files import atomic_write

    package("h5netcdf")
    encoding = {
        name: {"zlib": True, "complevel": 4}
        for name, item in dataset.data_vars.items()
        if item.dtype.kind == "f" and item.ndim
    }
    with atomic_write(path) as temporary:
        dataset.to_netcdf(temporary, engine="h5netcdf", encoding=encoding)


def file_times(data: Any, path: Path) -> np.ndarray | None:
    """The times of a file, (n,) datetime64[ns], or None if it has none.

    Raises: InputError if the calendar is not the Gregorian one.
    """
    if "time" not in data.variables or "units" not in data["time"].attrs:
        return None
    calendar = str(data["time"].attrs.get("calendar", "standard")).lower()
    if calendar not in CALENDARS:
        raise InputError(f"{path}: its calendar is '{calendar}'; expected {' or '.join(CALENDARS)}")
    times = data[["time"]].reset_coords(drop=True) if "time" in data.dims else data[["time"]]
    decoded = package("xarray").decode_cf(times)
    return np.atleast_1d(decoded["time"].values).astype("datetime64[ns]")


def stamp(time: np.datetime64) -> str:
    """A time (UTC) as text, to the minute."""
    return str(time.astype("datetime64[m]")) + "Z"
