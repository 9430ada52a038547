"""NetCDF files and Zarr stores through xarray: opening, times, missing values, writing."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from inverse.errors import InputError, InverseError, first_line
from inverse.io.sizes import does_not_fit

CALENDARS = ("standard", "gregorian", "proleptic_gregorian")
HOUR = np.timedelta64(1, "h")
FILLS = (
    *(-99.0, -99.9, -99.99, -999.0, -999.9, -999.99, -8888.0, -9999.0, -9999.9, -99999.0),
    *(-32767.0, -32768.0),
)
"""Fill values of files that do not declare theirs; numbers beyond 1e10 are fill values too.

Codes above 0, such as 9999, are values of some quantities: the range of the quantity tells.
"""
TIMES = (
    *("time", "valid_time", "obs_time", "observation_time", "time_obs", "datetime", "date"),
    *("timestamp", "times", "t", "valid"),
)
"""Names of times, the most usual first."""
SINCE = re.compile(r"\bsince\b")


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
        if engine == "h5netcdf":
            import h5py

            h5py.File(path, "r").close()  # h5netcdf complains once more when it forgets a bad file
        with xarray.open_dataset(path, engine=engine, decode_times=False, **settings) as dataset:
            yield dataset
    except InverseError:
        raise
    except MemoryError as error:
        raise does_not_fit(path, error) from error
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, IndexError, EOFError) as error:
        format_name = "Zarr store" if engine == "zarr" else "NetCDF file"
        raise InputError(f"{path}: not a readable {format_name} ({first_line(error)})") from error


def _engine(path: Path) -> str:
    """The xarray engine that reads a file.

    Raises: InputError if the file is missing or of another kind.
    """
    if path.is_dir() and path.suffix == ".zarr":
        return "zarr"
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    engine = _engine_of_content(path)
    if engine is None:
        raise InputError(f"{path}: not a NetCDF file")
    return engine


def _engine_of_content(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(4)
    return {b"\x89HDF": "h5netcdf", b"CDF\x01": "scipy", b"CDF\x02": "scipy"}.get(head)


def is_netcdf(path: Path) -> bool:
    """Whether a path is a NetCDF file, by its content, or a Zarr store."""
    if path.is_file():
        return _engine_of_content(path) is not None
    return path.is_dir() and path.suffix == ".zarr"


def unit_of(item: Any) -> str | None:
    """The unit that a variable states, in `units` or else as GRIB converters keep it."""
    for name in ("units", "GRIB_units", "unit"):
        text = str(item.attrs.get(name, "")).strip()
        if text and text.lower() not in ("unknown", "none", "undefined"):
            return text
    return None


def within_valid_range(item: Any) -> np.ndarray:
    """Values of a variable, float64, NaN outside its CF attributes valid_range, _min and _max.

    Of a packed variable they are in the packed unit if they have its type.
    """
    values = np.asarray(item.values, dtype=np.float64)
    low, high = item.attrs.get("valid_range", (None, None))
    low, high = item.attrs.get("valid_min", low), item.attrs.get("valid_max", high)
    scale, offset = (item.encoding.get(k, d) for k, d in (("scale_factor", 1), ("add_offset", 0)))

    def unpacked(bound: Any) -> float:
        bound = np.asarray(bound).ravel()[0]
        packed = bound.dtype.kind in "iu" and (scale != 1 or offset != 0)
        return float(bound) * scale + offset if packed else float(bound)

    least = -np.inf if low is None else unpacked(low)
    most = np.inf if high is None else unpacked(high)
    least, most = min(least, most), max(least, most)  # a negative scale swaps them
    with np.errstate(invalid="ignore"):
        return np.where((values < least) | (values > most), np.nan, values)


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


def time_name(data: Any) -> str | None:
    """The variable that holds the times for which values are valid, or None.

    It counts from a date ("hours since ...") or is text. CF's standard name and axis decide before
    the usual names; the start of a forecast is not its time.
    """

    def is_time(name: Any) -> bool:
        item = data[name]
        if str(item.attrs.get("standard_name", "")).startswith("forecast_"):
            return False
        if SINCE.search(str(item.attrs.get("units", ""))):
            return item.dtype.kind in "iuf"
        return item.dtype.kind in "OSU" and str(name).lower() in TIMES

    found = [name for name in data.variables if data[name].ndim <= 1 and is_time(name)]

    def order(name: Any) -> tuple[bool, bool, int]:
        attributes, text = data[name].attrs, str(name).lower()
        named = TIMES.index(text) if text in TIMES else len(TIMES)
        return attributes.get("standard_name") != "time", attributes.get("axis") != "T", named

    return str(min(found, key=order)) if found else None


def point_times(data: Any, dim: str, path: Path) -> np.ndarray | None:
    """Times of the points along a dimension, (n,) datetime64[m]; None if the file has none."""
    name, times = time_name(data), file_times(data, path)
    return None if times is None or data[name].dims != (dim,) else times.astype("datetime64[m]")


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

    Raises: InputError if the calendar is not the Gregorian one, or a text is not a time.
    """
    if (name := time_name(data)) is None:
        return None
    item = data[name]
    if item.dtype.kind in "OSU":
        texts = [t.decode() if isinstance(t, bytes) else str(t) for t in np.atleast_1d(item.values)]
        return np.array([moment(text.strip().removesuffix("Z")) for text in texts])
    calendar = str(item.attrs.get("calendar", "standard")).lower()
    if calendar not in CALENDARS:
        raise InputError(f"{path}: its calendar is '{calendar}'; expected {' or '.join(CALENDARS)}")
    times = data[[name]].reset_coords(drop=True) if name in data.dims else data[[name]]
    decoded = package("xarray").decode_cf(times)
    return np.atleast_1d(decoded[name].values).astype("datetime64[ns]")


def stamp(time: np.datetime64) -> str:
    """A time (UTC) as text, to the minute."""
    return str(time.astype("datetime64[m]")) + "Z"
