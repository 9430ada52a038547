"""Readers of point observations: CSV tables, NetCDF points, IGRA soundings, tables of soundings."""

from __future__ import annotations

import csv
import functools
import importlib.resources
import re
from pathlib import Path
from typing import Any

import numpy as np

from inverse.errors import InputError
from inverse_problems.atmosphere.igra import (
    Sounding,
    is_soundings,
    lines,
    read_soundings,
    read_station_list,
)
from inverse_problems.atmosphere.netcdf import opened, point_times
from inverse_problems.atmosphere.observations import Observations, observations
from inverse_problems.atmosphere.units import conversion

NETCDF = (".nc", ".nc4", ".cdf")
RAOB = "station,valid,pres,"
HEADING = re.compile(r"^\s*(?P<name>[^\[\(]+?)\s*[\[\(]\s*(?P<unit>[^\]\)]+?)\s*[\]\)]\s*$")


def read(path: Path) -> Observations:
    """Observations from a CSV table, a NetCDF file of points, an IGRA file, of which the first sounding, or a table of soundings (`read_raob`)."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix in NETCDF:
        return read_points(path)
    if next(lines(path), "").startswith(RAOB):
        return read_raob(path, raob_places())
    if path.suffix in (".csv", ".tsv"):
        return read_csv(path)
    if is_soundings(path):
        return of_soundings(read_soundings(path)[:1])
    raise InputError(
        f"{path}: expected stations as .csv, points as .nc, or soundings in IGRA format or as a table"
    )


def is_points(path: Path) -> bool:
    """Whether a measurement is of points: every file that is neither NetCDF nor Zarr, and those in which latitude and longitude share a dimension."""
    if path.suffix not in (*NETCDF, ".zarr"):
        return True
    with opened(path) as data:
        lat, lon = _points_axis(data, ("latitude", "lat")), _points_axis(data, ("longitude", "lon"))
        return lat is not None and lon is not None and data[lat].dims == data[lon].dims


def read_csv(path: Path) -> Observations:
    """A table with columns station, latitude, longitude and one for each variable, its unit in the heading: "t2m [K]", "t_850 [degC]".

    An empty cell, NaN or a usual fill value is nothing measured. "t2m_sigma [K]" is the standard deviation of the instrument; a column
    "time" (ISO 8601, UTC) says when.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            names, records = [str(name).strip() for name in table.fieldnames or ()], list(table)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable table ({error})") from error
    if missing := [name for name in ("station", "latitude", "longitude") if name not in names]:
        raise InputError(
            f"{path}: has no column {', '.join(missing)}; expected station, latitude, longitude and variables such as 't2m [K]'"
        )
    headings = {
        name: HEADING.match(name)
        for name in names
        if name not in ("station", "latitude", "longitude", "elevation", "name", "time")
    }
    if bare := [name for name, match in headings.items() if match is None]:
        raise InputError(
            f"{path}: column '{bare[0]}' has no units; write '{bare[0]} [K]' or what it is in"
        )
    variables = {
        match["name"]: (name, match["unit"])
        for name, match in headings.items()
        if match is not None
    }
    rows, times = [], []
    for number, line in enumerate(records, 2):
        line = {str(key).strip(): value for key, value in line.items()}
        number_in = {
            name: _number(line[name], f"{path}, line {number}, column '{name}'")
            for name in ("latitude", "longitude", *headings)
        }
        for variable, (column, unit) in variables.items():
            if variable.endswith("_sigma") and variable.removesuffix("_sigma") in variables:
                continue
            sigma = float("nan")
            if f"{variable}_sigma" in variables:
                spread, its_unit = variables[f"{variable}_sigma"]
                sigma = (
                    number_in[spread] * conversion(its_unit, unit, f"{path}: column '{spread}'")[0]
                )
            rows.append(
                (
                    str(line["station"]).strip(),
                    number_in["latitude"],
                    number_in["longitude"],
                    variable,
                    unit,
                    number_in[column],
                    sigma,
                )
            )
            times.append(_time(line.get("time"), f"{path}, line {number}, column 'time'"))
    if not rows:
        raise InputError(
            f"{path}: holds no observation; expected at least one line and one variable such as 't2m [K]'"
        )
    return observations(rows, times)


def read_points(path: Path) -> Observations:
    """A NetCDF file in which latitude, longitude and the variables share one dimension (CF discrete sampling geometry, points or stations)."""
    with opened(path) as data:
        lat, lon = _points_axis(data, ("latitude", "lat")), _points_axis(data, ("longitude", "lon"))
        if lat is None or lon is None or data[lat].dims != data[lon].dims:
            raise InputError(
                f"{path}: no points; latitude and longitude must be variables of one dimension"
            )
        (dim,) = data[lat].dims
        known = {lat, lon}
        measured = {
            n: v
            for n, v in data.data_vars.items()
            if n not in known
            and v.dims == (dim,)
            and v.dtype.kind in "fiu"
            and "time" not in str(n)
        }
        spreads = {n for n in measured if str(n).endswith("_sigma")}
        names = next(
            (
                data[n].values
                for n in (*data.data_vars, *data.coords)
                if data[n].dims == (dim,) and data[n].dtype.kind in "OSU"
            ),
            None,
        )
        station = (
            [f"{i}" for i in range(data.sizes[dim])]
            if names is None
            else [_text(name) for name in names]
        )
        rows, each = [], point_times(data, dim, path)
        for name, item in measured.items():
            if name in spreads:
                continue
            spread = f"{name}_sigma"
            sigma = (
                data[spread].values.astype(float)
                if spread in spreads
                else np.full(len(station), np.nan)
            )
            unit, places = item.attrs.get("units"), (data[lat].values, data[lon].values)
            rows += [
                (*row[:3], str(name), unit, *row[3:])
                for row in zip(station, *places, item.values.astype(float), sigma, strict=True)
            ]
    if not rows:
        raise InputError(f"{path}: no variable is measured at its points")
    return observations(rows, None if each is None else list(each) * (len(rows) // len(each)))


def read_raob(
    path: Path, places: dict[str, tuple[float, float]], levels: tuple[float, ...] = (850.0, 500.0)
) -> Observations:
    """Temperature ("t_850") and geopotential ("z_850") at pressure levels (hPa) of a table of soundings, NaN where a level was not reported.

    The columns are those of the Iowa Environmental Mesonet's archive: station, valid, pres (hPa), hght (m), tmpc (degC), ...

    Args:
        places: latitude and longitude of each station; one that has none stays without a place, and so without use.
    """
    found: dict[tuple[str, str], tuple[str, float]] = {}
    stations: dict[str, np.datetime64] = {}
    wanted = {f"{level:g}" for level in levels}
    for number, line in enumerate(csv.DictReader(lines(path)), 2):
        stations.setdefault(
            line["station"], _time(line["valid"], f"{path}, line {number}, column 'valid'")
        )
        level = f"{_number(line['pres'], f'{path}, line {number}'):g}"
        if level in wanted:
            for short, column, unit in (("t", "tmpc", "degC"), ("z", "hght", "m")):
                value = _number(line[column], f"{path}, line {number}")
                if not np.isnan(value):
                    found.setdefault((line["station"], f"{short}_{level}"), (unit, value))
    nan = float("nan")
    rows: list[Any] = []
    for station in stations:
        for name in (f"{short}_{level:g}" for level in levels for short in ("t", "z")):
            unit, value = found.get((station, name), ({"t": "degC", "z": "m"}[name[0]], nan))
            rows.append((station, *places.get(station, (nan, nan)), name, unit, value, nan))
    return observations(rows, [time for time in stations.values() for _ in range(2 * len(levels))])


@functools.cache
def raob_places() -> dict[str, tuple[float, float]]:
    """Places of North American sounding stations by the four letters of such tables, from the IGRA list."""
    folder = Path(str(importlib.resources.files("inverse_data"))) / "atmosphere"
    known = {
        s.id: (s.latitude, s.longitude)
        for s in read_station_list(folder / "igra2-station-list.txt.gz")
    }
    return {
        line["raob"]: known[line["igra"]]
        for line in csv.DictReader(lines(folder / "raob-stations.csv"))
    }


def of_soundings(
    soundings: list[Sounding], levels: tuple[float, ...] = (850.0, 500.0), checked: bool = False
) -> Observations:
    """Temperature ("t_850") and geopotential ("z_850") of soundings at pressure levels (hPa), NaN where a level was not reported.

    Args:
        checked: take values that passed both climatological checks only.
    """
    what = [
        (level, *of)
        for level in levels
        for of in (("t", "temperature", "degC"), ("z", "height", "m"))
    ]
    return observations(
        [
            (
                s.station,
                s.latitude,
                s.longitude,
                f"{short}_{level:g}",
                unit,
                s.at(name, level, checked),
                float("nan"),
            )
            for s in soundings
            for level, short, name, unit in what
        ],
        [s.time.astype("datetime64[m]") for s in soundings for _ in what],
    )


def _number(text: str | None, where: str) -> float:
    if text is None or text.strip().lower() in ("", "nan", "na", "null", "-"):
        return float("nan")
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"{where}: expected a number, found '{text}'") from error


def _time(text: str | None, where: str) -> np.datetime64:
    """ISO 8601, UTC; not-a-time for an empty cell."""
    text = (text or "").strip().removesuffix("Z").removesuffix("+00:00")
    try:
        return np.datetime64(text or "NaT", "m")
    except ValueError as error:
        raise InputError(
            f"{where}: expected a time such as 2019-03-25T12:00, found '{text}'"
        ) from error


def _points_axis(data: Any, names: tuple[str, ...]) -> str | None:
    """The one-dimensional variable that is this coordinate of the points."""
    return next(
        (
            str(n)
            for n in (*data.data_vars, *data.coords)
            if str(n).lower() in names and data[n].ndim == 1
        ),
        None,
    )


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
