"""Gridded fields read from NetCDF files and Zarr stores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inverse.errors import InputError
from inverse_problems.atmosphere.domain import Domain
from inverse_problems.atmosphere.grid import Grid, west_to_east
from inverse_problems.atmosphere.netcdf import (
    HOUR,
    file_times,
    is_missing,
    moment,
    opened,
    stamp,
    time_name,
    unit_of,
    within_valid_range,
)
from inverse_problems.atmosphere.units import check_plausible, conversion, is_impossible

LATITUDES: dict[str, tuple[str, ...]] = {
    "units": ("degrees_north", "degree_north", "degreen", "degreesn"),
    "names": ("latitude", "lat", "y"),
}
LONGITUDES: dict[str, tuple[str, ...]] = {
    "units": ("degrees_east", "degree_east", "degreee", "degreese"),
    "names": ("longitude", "lon", "long", "x"),
}
LEVELS = ("level", "pressure_level", "plev", "isobaricInhPa", "pressure", "lev")


@dataclass(frozen=True)
class GriddedFields:
    """Fields of a file.

    Args:
        domain: variables, units and grid, as in the file.
        values: (times, channels, H, W), float64, NaN where missing.
        times: (times,) datetime64, or None if the file has no times.
        attributes: attributes of the file.
    """

    domain: Domain
    values: np.ndarray
    times: np.ndarray | None
    attributes: dict[str, Any]


def read_fields(path: Path, variables: tuple[str, ...] = ()) -> GriddedFields:
    """Every gridded variable of a file, or the named ones, in the units and row order of the file.

    Args:
        variables: names of variables; "t_850" is the level 850 hPa of t. Empty for all.

    Raises: InputError if a named variable or every gridded variable is missing, a variable has no
        units, or the calendar is not the Gregorian one.
    """
    with opened(path) as data:
        lat, lon = _axis(data, LATITUDES, path), _axis(data, LONGITUDES, path)
        gridded = {
            name: item for name, item in data.data_vars.items() if {lat, lon} <= set(item.dims)
        }
        if not gridded:
            present = ", ".join(map(str, data.data_vars)) or "nothing"
            raise InputError(f"{path}: no variable on a latitude-longitude grid; found {present}")
        columns, longitudes = west_to_east(data[lon].values)
        grid, layers, units = Grid.of(data[lat].values, longitudes), {}, {}
        named = time_name(data)
        time = data[named].dims[0] if named and data[named].dims else "time"
        for name, item in gridded.items():
            for label, layer in _layers(str(name), item, lat, lon, time, path):
                if not variables or label in variables:
                    layers[label], units[label] = layer[..., columns], unit_of(item)
        if missing := [name for name in variables if name not in layers]:
            raise InputError(
                f"{path}: has no variable {', '.join(missing)}; "
                f"the prior has {', '.join(variables)}, the file {', '.join(map(str, gridded))}"
            )
        names = variables or tuple(layers)
        if len({layers[name].shape for name in names}) > 1:
            raise InputError(
                f"{path}: its variables have different numbers of times; "
                "give a file in which they agree"
            )
        for name in names:
            if units[name] is None:
                raise InputError(f"{path}: variable {name}: has no units attribute")
        domain = Domain(names, tuple(units[name] for name in names), grid)
        values = np.stack([layers[name] for name in names], 1)
        return GriddedFields(domain, values, file_times(data, path), dict(data.attrs))


def conformed(fields: GriddedFields, domain: Domain, path: Path) -> tuple[GriddedFields, int]:
    """Fields in the units of a domain, and the number of missing values.

    If the grid of the fields has the same points as the domain's, rows and columns are reordered to
    match it.

    Args:
        path: name of the file, which begins error messages.

    Raises: InputError for units of another quantity, and for implausible values.
    """
    channels, missing = [], 0
    for name, unit, target, values in zip(
        domain.variables,
        fields.domain.units,
        domain.units,
        fields.values.swapaxes(0, 1),
        strict=True,
    ):
        source = f"{path}: variable {name}"
        a, b = conversion(unit, target, source)
        values = np.where(is_missing(values), np.nan, values) * a + b
        check_plausible(values, target, source, unit)
        values = np.where(is_impossible(values, target), np.nan, values)
        missing += int(np.isnan(values).sum())
        channels.append(values)
    grid, values = fields.domain.grid, np.stack(channels, 1)
    if grid.shape == domain.grid.shape:
        try:
            grid, values = domain.grid, domain.grid.conform(values, grid)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    converted = Domain(domain.variables, domain.units, grid)
    values = np.ascontiguousarray(values)
    return GriddedFields(converted, values, fields.times, fields.attributes), missing


def window_of(
    fields: GriddedFields, time: str | None, path: Path, hours: int = 1
) -> tuple[np.ndarray, np.datetime64 | None]:
    """The fields (hours * channels, H, W) of consecutive hours, and the time of the first.

    An hour that the file lacks is NaN.

    Args:
        time: first hour, ISO 8601, e.g. 2019-03-25T12; required if the file holds more hours.
        path: name of the file, which begins error messages.
        hours: number of hours.

    Raises: InputError if the hours are not in the file or `time` is required.
    """
    if fields.times is None:
        if hours > 1:
            raise InputError(
                f"{path}: has no times; a window of {hours} hours needs a dimension 'time'"
            )
        return fields.values[0], None if time is None else moment(time).astype("datetime64[m]")
    first, last = fields.times[0], fields.times[-1]
    span = f"{len(fields.times)} times from {stamp(first)} to {stamp(last)}"
    if time is None and (len(fields.times) > hours or last - first >= hours * HOUR):
        raise InputError(
            f"{path}: holds {span}; choose one with --problem-option time=2019-03-25T12"
        )
    start = first if time is None else moment(time)
    rows = [np.flatnonzero(fields.times == start + hour * HOUR) for hour in range(hours)]
    if not any(map(len, rows)):
        raise InputError(f"{path}: does not hold {time}; it holds {span}")
    missing = np.full_like(fields.values[0], np.nan)
    values = [fields.values[row[0]] if len(row) else missing for row in rows]
    return np.concatenate(values), start.astype("datetime64[m]")


def _axis(data: Any, axis: dict[str, tuple[str, ...]], path: Path) -> str:
    """The dimension with the units, or else the name, of an axis."""
    coordinates = [name for name in data.dims if name in data.variables]
    for name in coordinates:
        if str(data[name].attrs.get("units", "")).lower() in axis["units"]:
            return str(name)
    for name in coordinates:
        if str(name).lower() in axis["names"]:
            return str(name)
    raise InputError(
        f"{path}: no coordinate is {axis['names'][0]} ({axis['units'][0]}); "
        f"dimensions are {', '.join(map(str, data.dims)) or 'none'}"
    )


def _layers(
    name: str, item: Any, lat: str, lon: str, time: str, path: Path
) -> Iterator[tuple[str, np.ndarray]]:
    """(label, values (times, H, W)) of each pressure level of a variable, or of the variable.

    Args:
        time: the dimension of the times, or the name of the one that a file without them gets.
    """
    item = item.copy(data=within_valid_range(item))
    level = next((dim for dim in item.dims if dim in LEVELS), None)
    rest = [dim for dim in item.dims if dim not in (lat, lon, level, time)]
    if long := [dim for dim in rest if item.sizes[dim] > 1]:
        raise InputError(
            f"{path}: variable {name} has a dimension '{long[0]}' of {item.sizes[long[0]]}; "
            "select one entry of it first"
        )
    item = item.squeeze(rest, drop=True)
    item = item if time in item.dims else item.expand_dims(time)
    if level is None:
        yield name, np.asarray(item.transpose(time, lat, lon).values, dtype=np.float64)
        return
    a, b, unit = 1.0, 0.0, item[level].attrs.get("units")
    if unit is not None:
        a, b = conversion(unit, "hPa", f"{path}: {level}")
    layers = np.asarray(item.transpose(level, time, lat, lon).values, dtype=np.float64)
    for pressure, values in zip(item[level].values, layers, strict=True):
        yield f"{name}_{a * float(pressure) + b:g}", values
