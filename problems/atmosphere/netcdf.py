"""NetCDF in and out, Zarr in, through xarray: gridded fields, point observations, analyses; CF conventions."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from inverse.errors import InputError, InverseError
from inverse_problems.atmosphere.domain import Domain
from inverse_problems.atmosphere.grid import Grid
from inverse_problems.atmosphere.units import conversion, plausible

LATITUDES: dict[str, tuple[str, ...]] = {
    "units": ("degrees_north", "degree_north", "degreen", "degreesn"),
    "names": ("latitude", "lat", "y"),
}
LONGITUDES: dict[str, tuple[str, ...]] = {
    "units": ("degrees_east", "degree_east", "degreee", "degreese"),
    "names": ("longitude", "lon", "long", "x"),
}
LEVELS = ("level", "pressure_level", "plev", "isobaricInhPa", "pressure", "lev")
CALENDARS = ("standard", "gregorian", "proleptic_gregorian")
HOUR = np.timedelta64(1, "h")
FILLS = (-8888.0, -9999.0, -99999.0, -32767.0)
"""Numbers that mean nothing was measured, in files that do not say so; as does all beyond 1e10."""


@dataclass(frozen=True)
class Fields:
    """Gridded fields.

    Args:
        domain: variables and units as in the file, its grid.
        values: (times, channels, H, W), float64, NaN where missing.
        times: (times,) datetime64, or None if the file has no time.
        attributes: of the file.
    """

    domain: Domain
    values: np.ndarray
    times: np.ndarray | None
    attributes: dict[str, Any]


def package(name: str) -> ModuleType:
    """A package of the extra `atmosphere`, imported when first needed.

    Raises: InputError that says how to install it.
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
    """An xarray dataset of a NetCDF file or a Zarr store (a folder), its times left as numbers.

    Raises: InputError if the file is missing, of another kind or damaged, also where that shows while it is read.
    """
    engine = _engine(path)
    xarray = package("xarray")
    package(engine)
    try:
        settings = (
            {"consolidated": False} if engine == "zarr" else {}
        )  # which a store may or may not be: no warning either way
        with xarray.open_dataset(path, engine=engine, decode_times=False, **settings) as dataset:
            yield dataset
    except InverseError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, IndexError, EOFError) as error:
        kind = "Zarr store" if engine == "zarr" else "NetCDF file"
        raise InputError(
            f"{path}: not a readable {kind} ({(str(error).splitlines() or [type(error).__name__])[0]})"
        ) from error


def _engine(path: Path) -> str:
    """What reads a file.

    Raises: InputError if it is missing or of another kind.
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


def read_fields(path: Path, variables: tuple[str, ...] = ()) -> Fields:
    """Every gridded variable of a file, or those named ("t_850" is the level 850 of t), in the file's units and order of rows.

    Raises: InputError if there is none, a named one is missing, one has no units, or a calendar is not the real one.
    """
    with opened(path) as data:
        lat, lon = _axis(data, LATITUDES, path), _axis(data, LONGITUDES, path)
        gridded = {
            name: item for name, item in data.data_vars.items() if {lat, lon} <= set(item.dims)
        }
        if not gridded:
            raise InputError(
                f"{path}: no variable on a latitude-longitude grid; found {', '.join(map(str, data.data_vars)) or 'nothing'}"
            )
        grid, found, units = Grid.of(data[lat].values, data[lon].values), {}, {}
        for name, item in gridded.items():
            for label, layer in _layers(str(name), item, lat, lon, path):
                if not variables or label in variables:
                    found[label], units[label] = layer, item.attrs.get("units")
        if missing := [name for name in variables if name not in found]:
            raise InputError(
                f"{path}: has no variable {', '.join(missing)}; the prior has {', '.join(variables)}, the file {', '.join(map(str, gridded))}"
            )
        names = variables or tuple(found)
        if len({found[name].shape for name in names}) > 1:
            raise InputError(
                f"{path}: its variables have different numbers of times; give a file in which they agree"
            )
        for name in names:
            if units[name] is None:
                raise InputError(f"{path}: variable {name}: has no units attribute")
        values = np.stack([found[name] for name in names], 1)
        return Fields(
            Domain(names, tuple(units[name] for name in names), grid),
            values,
            _times(data, path),
            dict(data.attrs),
        )


def conformed(fields: Fields, domain: Domain, path: Path) -> tuple[Fields, int]:
    """Fields in the units of a domain and, where their grid has the same points, in its order; and how many values are missing.

    Raises: InputError for units of another quantity, and for values that no such quantity has.
    """
    channels, missing = [], 0
    for name, found, wanted, values in zip(
        domain.variables,
        fields.domain.units,
        domain.units,
        fields.values.swapaxes(0, 1),
        strict=True,
    ):
        a, b = conversion(found, wanted, f"{path}: variable {name}")
        values = np.where(fill(values), np.nan, values) * a + b
        believable(values, wanted, f"{path}: variable {name}", found)
        missing += int(np.isnan(values).sum())
        channels.append(values)
    grid, values = fields.domain.grid, np.stack(channels, 1)
    if grid.shape == domain.grid.shape:
        try:
            grid, values = domain.grid, domain.grid.conform(values, grid)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    return Fields(
        Domain(domain.variables, domain.units, grid),
        np.ascontiguousarray(values),
        fields.times,
        fields.attributes,
    ), missing


def fill(values: np.ndarray) -> np.ndarray:
    """Where nothing was measured: NaN, infinity, the usual fill values."""
    with np.errstate(invalid="ignore"):
        return ~np.isfinite(values) | (np.abs(values) > 1e10) | np.isin(values, FILLS)


def believable(values: np.ndarray, unit: str, what: str, stated: str) -> None:
    """Raise an InputError if most values are out of what a quantity in this unit can be."""
    low, high = plausible(unit)
    there = values[~np.isnan(values)]
    if len(there) and np.mean((there < low) | (there > high)) > 0.5:
        span = f"{there.min():.4g} to {there.max():.4g} {unit}"
        raise InputError(
            f"{what}: units are said to be '{stated}', but its values are then {span}; correct the units attribute"
        )


def chosen(
    fields: Fields, time: str | None, path: Path, hours: int = 1
) -> tuple[np.ndarray, np.datetime64 | None]:
    """The fields (hours * channels, H, W) of one time and the hours after it, NaN for an hour that is not there, and that time.

    Args:
        time: ISO 8601, e.g. 2019-03-25T12; needed where there are more than are asked for.
    """
    if fields.times is None:
        if hours > 1:
            raise InputError(
                f"{path}: has no times; a window of {hours} hours needs a dimension 'time'"
            )
        return fields.values[0], None
    first, last = fields.times[0], fields.times[-1]
    span = f"{len(fields.times)} times from {stamp(first)} to {stamp(last)}"
    if time is None and (len(fields.times) > hours or last - first >= hours * HOUR):
        raise InputError(
            f"{path}: holds {span}; choose one with --problem-option time=2019-03-25T12"
        )
    start = first if time is None else moment(time)
    at = [np.flatnonzero(fields.times == start + hour * HOUR) for hour in range(hours)]
    if not any(map(len, at)):
        raise InputError(f"{path}: does not hold {time}; it holds {span}")
    nothing = np.full_like(fields.values[0], np.nan)
    return np.concatenate(
        [fields.values[rows[0]] if len(rows) else nothing for rows in at]
    ), start.astype("datetime64[m]")


def moment(time: str) -> np.datetime64:
    """A time in ISO 8601, to the nanosecond."""
    try:
        return np.datetime64(time, "ns")
    except ValueError as error:
        raise InputError(f"time '{time}': not a date and hour such as 2019-03-25T12") from error


def point_times(data: Any, dim: str, path: Path) -> np.ndarray | None:
    """When each point was measured, (n,) datetime64[m]; None where the file does not say."""
    found = _times(data, path)
    return None if found is None or data["time"].dims != (dim,) else found.astype("datetime64[m]")


def write(path: Path, dataset: Any) -> None:
    """Write an xarray dataset as NetCDF 4, floats compressed, under a temporary name that is renamed."""
    from inverse.io.files import atomic_write

    package("h5netcdf")
    encoding = {
        name: {"zlib": True, "complevel": 4}
        for name, item in dataset.data_vars.items()
        if item.dtype.kind == "f" and item.ndim
    }
    with atomic_write(path) as temporary:
        dataset.to_netcdf(temporary, engine="h5netcdf", encoding=encoding)


def _axis(data: Any, kind: dict[str, tuple[str, ...]], path: Path) -> str:
    """Name of the coordinate dimension whose units, or else whose name, say what it is."""
    for name in data.dims:
        if (
            name in data.variables
            and str(data[name].attrs.get("units", "")).lower() in kind["units"]
        ):
            return str(name)
    for name in data.dims:
        if str(name).lower() in kind["names"] and name in data.variables:
            return str(name)
    raise InputError(
        f"{path}: no coordinate is {kind['names'][0]} ({kind['units'][0]}); dimensions are {', '.join(map(str, data.dims)) or 'none'}"
    )


def _layers(
    name: str, item: Any, lat: str, lon: str, path: Path
) -> Iterator[tuple[str, np.ndarray]]:
    """(label, values (times, H, W)) of each pressure level of a variable, or of its only one."""
    level = next((dim for dim in item.dims if dim in LEVELS), None)
    rest = [dim for dim in item.dims if dim not in (lat, lon, level, "time")]
    if wide := [dim for dim in rest if item.sizes[dim] > 1]:
        raise InputError(
            f"{path}: variable {name} has a dimension '{wide[0]}' of {item.sizes[wide[0]]}; select one of them first"
        )
    item = item.squeeze(rest, drop=True)
    item = item if "time" in item.dims else item.expand_dims("time")
    if level is None:
        yield name, np.asarray(item.transpose("time", lat, lon).values, dtype=np.float64)
        return
    item = item.transpose(level, "time", lat, lon)
    a, b = (
        (1.0, 0.0)
        if "units" not in item[level].attrs
        else conversion(item[level].attrs["units"], "hPa", f"{path}: {level}")
    )
    for pressure, values in zip(
        item[level].values, np.asarray(item.values, dtype=np.float64), strict=True
    ):
        yield f"{name}_{a * float(pressure) + b:g}", values


def _times(data: Any, path: Path) -> np.ndarray | None:
    if "time" not in data.variables or "units" not in data["time"].attrs:
        return None
    calendar = str(data["time"].attrs.get("calendar", "standard")).lower()
    if calendar not in CALENDARS:
        raise InputError(f"{path}: its calendar is '{calendar}'; expected {' or '.join(CALENDARS)}")
    decoded = package("xarray").decode_cf(
        data[["time"]].reset_coords(drop=True) if "time" in data.dims else data[["time"]]
    )
    return np.atleast_1d(decoded["time"].values).astype("datetime64[ns]")


def stamp(time: np.datetime64) -> str:
    """As text, to the minute."""
    return str(time.astype("datetime64[m]")) + "Z"
