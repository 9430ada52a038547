"""Point observations from files: CSV tables, NetCDF points, IGRA and tabulated soundings."""

from __future__ import annotations

import csv
import functools
import re
from pathlib import Path
from typing import Any

import numpy as np

from inverse.errors import InputError
from inverse_problems.atmosphere import shipped_data
from inverse_problems.atmosphere.igra import (
    Sounding,
    is_soundings,
    lines,
    read_soundings,
)
from inverse_problems.atmosphere.netcdf import opened, point_times
from inverse_problems.atmosphere.observations import Observations, observations
from inverse_problems.atmosphere.units import conversion

NETCDF = (".nc", ".nc4", ".cdf")
LATITUDE, LONGITUDE = ("latitude", "lat"), ("longitude", "lon")
RAOB = "station,valid,pres,"
"""Beginning of a table of soundings of the Iowa Environmental Mesonet."""
PLACE = ("station", "latitude", "longitude")
LEVELS = (850.0, 500.0)
"""Pressure levels (hPa) read from soundings by default."""
HEADING = re.compile(r"^\s*(?P<name>[^\[\(]+?)\s*[\[\(]\s*(?P<unit>[^\]\)]+?)\s*[\]\)]\s*$")


def read_observations(path: Path) -> Observations:
    """Observations from a CSV table, NetCDF points, a table of soundings or IGRA soundings.

    Of an IGRA file only the first sounding is read.

    Raises: InputError if the file is missing, of another kind or damaged.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix in NETCDF:
        return read_points(path)
    if next(lines(path), "").startswith(RAOB):
        return read_raob(path, raob_places())
    if path.suffix in (".csv", ".tsv"):
        return read_csv(path)
    if is_soundings(path):
        return from_soundings(read_soundings(path)[:1])
    raise InputError(
        f"{path}: expected stations as .csv, points as .nc, "
        "or soundings in IGRA format or as a table"
    )


def holds_points(path: Path) -> bool:
    """Whether a measurement holds point observations rather than gridded fields.

    It does unless it is a NetCDF file or a Zarr store whose latitude and longitude have different
    dimensions.
    """
    if path.suffix not in (*NETCDF, ".zarr"):
        return True
    with opened(path) as data:
        return _point_dimension(data) is not None


def read_csv(path: Path) -> Observations:
    """A table with columns station, latitude, longitude and one column for each variable.

    A variable's heading states its unit: "t2m [K]", "t_850 [degC]". An empty cell, NaN or a usual
    fill value is a missing value. "t2m_sigma [K]" is the standard deviation of the instrument;
    "time" is the time (ISO 8601, UTC). Columns "elevation" and "name" are ignored.

    Raises: InputError for a missing column or unit, an unreadable cell or an empty table.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            names, records = [str(name).strip() for name in table.fieldnames or ()], list(table)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable table ({error})") from error
    columns = _variable_columns(names, path)
    rows, times = [], []
    for number, line in enumerate(records, 2):
        line, where = {str(key).strip(): value for key, value in line.items()}, f"line {number}"
        numbers = {
            name: _number(line[name], f"{path}, {where}, column '{name}'")
            for name in (*PLACE[1:], *(column for column, _ in columns.values()))
        }
        for variable, (column, unit) in columns.items():
            if variable.endswith("_sigma") and variable.removesuffix("_sigma") in columns:
                continue
            sigma = float("nan")
            if f"{variable}_sigma" in columns:
                spread, spread_unit = columns[f"{variable}_sigma"]
                gain, _ = conversion(spread_unit, unit, f"{path}: column '{spread}'")
                sigma = numbers[spread] * gain
            place = str(line["station"]).strip(), numbers["latitude"], numbers["longitude"]
            rows.append((*place, variable, unit, numbers[column], sigma))
            times.append(_time(line.get("time"), f"{path}, {where}, column 'time'"))
    if not rows:
        raise InputError(
            f"{path}: holds no observation; "
            "expected at least one line and one variable such as 't2m [K]'"
        )
    return observations(rows, times)


def _variable_columns(names: list[str], path: Path) -> dict[str, tuple[str, str]]:
    """Variable -> its column and unit, from the headings of a table."""
    if missing := [name for name in PLACE if name not in names]:
        raise InputError(
            f"{path}: has no column {', '.join(missing)}; "
            "expected station, latitude, longitude and variables such as 't2m [K]'"
        )
    columns = {}
    for name in names:
        if name in (*PLACE, "elevation", "name", "time"):
            continue
        match = HEADING.match(name)
        if match is None:
            raise InputError(f"{path}: column '{name}' has no units; write e.g. '{name} [K]'")
        columns[match["name"]] = (name, match["unit"])
    return columns


def read_points(path: Path) -> Observations:
    """A NetCDF file in which latitude, longitude and the variables share one dimension.

    It follows the discrete sampling geometries of the CF conventions: points or stations.

    Raises: InputError if the file has no such dimension or no variable on it.
    """
    with opened(path) as data:
        dim = _point_dimension(data)
        if dim is None:
            raise InputError(
                f"{path}: no points; latitude and longitude must be variables of one dimension"
            )
        lat, lon = _coordinate(data, LATITUDE), _coordinate(data, LONGITUDE)
        measured = {
            name: item
            for name, item in data.data_vars.items()
            if name not in (lat, lon)
            and item.dims == (dim,)
            and item.dtype.kind in "fiu"
            and "time" not in str(name)
        }
        stations, times = _station_names(data, dim), point_times(data, dim, path)
        places = list(zip(stations, data[lat].values, data[lon].values, strict=True))
        rows: list[Any] = []
        for name, item in measured.items():
            if str(name).endswith("_sigma"):
                continue
            sigma = np.full(len(stations), np.nan)
            if f"{name}_sigma" in measured:
                sigma = data[f"{name}_sigma"].values.astype(float)
            unit, values = item.attrs.get("units"), item.values.astype(float)
            for place, value, spread in zip(places, values, sigma, strict=True):
                rows.append((*place, str(name), unit, value, spread))
    if not rows:
        raise InputError(f"{path}: no variable is measured at its points")
    return observations(rows, None if times is None else list(times) * (len(rows) // len(times)))


def read_raob(
    path: Path, places: dict[str, tuple[float, float]], levels: tuple[float, ...] = LEVELS
) -> Observations:
    """Temperature ("t_850") and geopotential ("z_850") from a table of soundings.

    The columns are those of the Iowa Environmental Mesonet's archive: station, valid, pres (hPa),
    hght (m), tmpc (degC), ... A level that was not reported is NaN.

    Args:
        places: latitude and longitude of each station; without a place an observation is not used.
        levels: pressure levels, hPa.

    Raises: InputError if a cell is not a number or a time.
    """
    reported: dict[tuple[str, str], float] = {}
    stations: dict[str, np.datetime64] = {}
    wanted = {f"{level:g}" for level in levels}
    for number, line in enumerate(csv.DictReader(lines(path)), 2):
        where, station = f"{path}, line {number}", line["station"]
        stations.setdefault(station, _time(line["valid"], f"{where}, column 'valid'"))
        level = f"{_number(line['pres'], where):g}"
        if level in wanted:
            for short, column in (("t", "tmpc"), ("z", "hght")):
                value = _number(line[column], where)
                if not np.isnan(value):
                    reported.setdefault((station, f"{short}_{level}"), value)
    nan, rows = float("nan"), []
    for station in stations:
        for level in (f"{level:g}" for level in levels):
            for short, unit in (("t", "degC"), ("z", "m")):
                variable = f"{short}_{level}"
                value = reported.get((station, variable), nan)
                rows.append((station, *places.get(station, (nan, nan)), variable, unit, value, nan))
    return observations(rows, [time for time in stations.values() for _ in range(2 * len(levels))])


@functools.cache
def raob_places() -> dict[str, tuple[float, float]]:
    """Latitude and longitude of North American stations, by their names in tables of soundings."""
    places = {
        station.id: (station.latitude, station.longitude) for station in shipped_data.stations()
    }
    table = csv.DictReader(lines(shipped_data.folder() / "raob-stations.csv"))
    return {line["raob"]: places[line["igra"]] for line in table}


def from_soundings(
    soundings: list[Sounding], levels: tuple[float, ...] = LEVELS, checked: bool = False
) -> Observations:
    """Temperature ("t_850") and geopotential ("z_850") of soundings, NaN if not reported.

    Args:
        levels: pressure levels, hPa.
        checked: use only values that passed both climatological checks.
    """
    nan, rows, times = float("nan"), [], []
    for sounding in soundings:
        place = sounding.station, sounding.latitude, sounding.longitude
        for level in levels:
            for short, name, unit in (("t", "temperature", "degC"), ("z", "height", "m")):
                value = sounding.at(name, level, checked)
                rows.append((*place, f"{short}_{level:g}", unit, value, nan))
                times.append(sounding.time.astype("datetime64[m]"))
    return observations(rows, times)


def _number(text: str | None, where: str) -> float:
    if text is None or text.strip().lower() in ("", "nan", "na", "null", "-"):
        return float("nan")
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"{where}: expected a number, found '{text}'") from error


def _time(text: str | None, where: str) -> np.datetime64:
    """A time in ISO 8601, UTC; not-a-time for an empty cell."""
    text = (text or "").strip().removesuffix("Z").removesuffix("+00:00")
    try:
        return np.datetime64(text or "NaT", "m")
    except ValueError as error:
        raise InputError(
            f"{where}: expected a time such as 2019-03-25T12:00, found '{text}'"
        ) from error


def _point_dimension(data: Any) -> str | None:
    """The dimension that latitude and longitude share, or None."""
    lat, lon = _coordinate(data, LATITUDE), _coordinate(data, LONGITUDE)
    if lat is None or lon is None or data[lat].dims != data[lon].dims:
        return None
    return data[lat].dims[0]


def _coordinate(data: Any, names: tuple[str, ...]) -> str | None:
    """The one-dimensional variable with one of these names, or None."""
    for name in (*data.data_vars, *data.coords):
        if str(name).lower() in names and data[name].ndim == 1:
            return str(name)
    return None


def _station_names(data: Any, dim: str) -> list[str]:
    """The first text variable of the points, or else their numbers."""
    for name in (*data.data_vars, *data.coords):
        if data[name].dims == (dim,) and data[name].dtype.kind in "OSU":
            texts = data[name].values
            return [text.decode() if isinstance(text, bytes) else str(text) for text in texts]
    return [str(i) for i in range(data.sizes[dim])]
