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
from inverse_problems.atmosphere.igra import Sounding, is_soundings, lines, read_soundings
from inverse_problems.atmosphere.netcdf import (
    SINCE,
    is_netcdf,
    opened,
    point_times,
    unit_of,
    within_valid_range,
)
from inverse_problems.atmosphere.observations import Observations, observations
from inverse_problems.atmosphere.tables import Table, number_of, read_table, time_of
from inverse_problems.atmosphere.units import conversion

LATITUDE, LONGITUDE = ("latitude", "lat"), ("longitude", "lon", "long", "lng")
STATION = (
    *("station", "station_id", "stationid", "id", "wmo_id", "wmo", "stid", "station_name"),
    *("platform_id", "site", "site_id"),
)
TIME = ("time", "valid", "valid_time", "obs_time", "datetime", "date_time", "timestamp", "date")
ELEVATION = ("elevation", "elev", "altitude", "alt", "height", "name", "index", "")
"""Columns that are not used, the nameless index column of exported tables among them."""
RAOB = "station,valid,pres,"
"""Beginning of a table of soundings of the Iowa Environmental Mesonet."""
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
    if is_netcdf(path):
        return read_points(path)
    if next(lines(path), "").startswith(RAOB):
        return read_raob(path, raob_places())
    if is_soundings(path):
        return from_soundings(read_soundings(path)[:1])
    return read_csv(path)


def holds_points(path: Path) -> bool:
    """Whether a measurement holds point observations rather than gridded fields.

    It does unless it is a NetCDF file or a Zarr store whose latitude and longitude have different
    dimensions. The content decides, not the name.
    """
    if not is_netcdf(path) and path.suffix.lower() not in (".nc", ".nc4", ".cdf", ".zarr"):
        return True
    with opened(path) as data:
        return _point_dimension(data) is not None


def read_csv(path: Path) -> Observations:
    """A table with columns station, latitude, longitude and one column for each variable.

    A variable's heading states its unit: "t2m [K]", "t_850 [degC]". An empty cell, NaN or a usual
    fill value is a missing value. "t2m_sigma [K]" is the standard deviation of the instrument;
    "time" is the time (UTC unless it states an offset). Usual synonyms of these headings are
    understood; columns "elevation" and "name" and a nameless index are ignored. `read_table` says
    which encodings, separators and decimal signs are.

    Raises: InputError for a missing column or unit, an unreadable cell or an empty table.
    """
    table = read_table(path)
    columns = _variable_columns(table, path)
    place = {role: table.column(names) for role, names in PLACE.items()}
    time = table.column(TIME)
    rows, times = [], []
    for number, line in enumerate(table.rows, 2):
        where = f"line {number}"
        numbers = {
            name: table.number(line[name], f"{path}, {where}, column '{name}'")
            for name in (
                place["latitude"],
                place["longitude"],
                *(column for column, _ in columns.values()),
            )
        }
        for variable, (column, unit) in columns.items():
            if variable.endswith("_sigma") and variable.removesuffix("_sigma") in columns:
                continue
            sigma = float("nan")
            if f"{variable}_sigma" in columns:
                spread, spread_unit = columns[f"{variable}_sigma"]
                gain, _ = conversion(spread_unit, unit, f"{path}: column '{spread}'")
                sigma = numbers[spread] * gain
            at = numbers[place["latitude"]], numbers[place["longitude"]]
            station = line[place["station"]].strip()
            rows.append((station, *at, variable, unit, numbers[column], sigma))
            times.append(time_of(line[time] if time else "", f"{path}, {where}, column 'time'"))
    if not rows:
        raise InputError(
            f"{path}: holds no observation; "
            "expected at least one line and one variable such as 't2m [K]'"
        )
    return observations(rows, times)


PLACE = {"station": STATION, "latitude": LATITUDE, "longitude": LONGITUDE}


def _variable_columns(table: Table, path: Path) -> dict[str, tuple[str, str]]:
    """Variable -> its column and unit, from the headings of a table."""
    if missing := [role for role, names in PLACE.items() if table.column(names) is None]:
        raise InputError(
            f"{path}: has no column {', '.join(missing)}; found {', '.join(table.names)[:200]} "
            f"(separated by {table.separator_name}); expected station, latitude, longitude and "
            "variables such as 't2m [K]'"
        )
    known = {table.column(names) for names in (*PLACE.values(), TIME)}
    columns = {}
    for name in table.names:
        if name in known or name.lower() in (*ELEVATION, *STATION, *TIME):
            continue
        match = HEADING.match(name)
        if match is None:
            raise InputError(f"{path}: column '{name}' has no units; write e.g. '{name} [K]'")
        if match["name"].lower() not in ELEVATION:
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
            and not _is_about(item, str(name))
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
            unit, values = unit_of(item), within_valid_range(item)
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
        stations.setdefault(station, time_of(line["valid"], f"{where}, column 'valid'"))
        level = f"{number_of(line['pres'], where):g}"
        if level in wanted:
            for short, column in (("t", "tmpc"), ("z", "hght")):
                value = number_of(line[column], where)
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


def _is_about(item: Any, name: str) -> bool:
    """Whether a variable of points is a time, an identifier or a flag, not a measurement."""
    attributes = item.attrs
    return (
        "time" in name
        or SINCE.search(str(attributes.get("units", ""))) is not None
        or "cf_role" in attributes
        or "flag_values" in attributes
        or "flag_masks" in attributes
        or name.lower() in STATION
        or name.lower() in ELEVATION
    )


def _station_names(data: Any, dim: str) -> list[str]:
    """Names of the points: CF's identifier, a usual name of one, or a text that names one place.

    Without any of them, their numbers.
    """
    along = [name for name in (*data.data_vars, *data.coords) if data[name].dims == (dim,)]
    roles = [name for name in along if "cf_role" in data[name].attrs]
    usual = sorted(
        (name for name in along if str(name).lower() in STATION),
        key=lambda name: STATION.index(str(name).lower()),
    )
    texts = [name for name in along if data[name].dtype.kind in "OSU"]
    lat, lon = _coordinate(data, LATITUDE), _coordinate(data, LONGITUDE)
    places = list(zip(data[lat].values.tolist(), data[lon].values.tolist(), strict=True))
    for name in (*roles, *usual, *texts):
        names = [t.decode() if isinstance(t, bytes) else str(t) for t in data[name].values]
        names = [text.strip() for text in names]
        if len(set(zip(names, places, strict=True))) == len(set(names)):
            return names
    return [str(i) for i in range(data.sizes[dim])]
