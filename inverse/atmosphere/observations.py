"""Point observations: reading, checking against a domain, thinning, withholding, simulating, and estimating their noise."""

from __future__ import annotations

import csv
import functools
import hashlib
import importlib.resources
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inverse.atmosphere.domain import Domain
from inverse.atmosphere.grid import distance
from inverse.atmosphere.igra import Sounding, Station, is_soundings, lines, read_soundings, read_station_list
from inverse.atmosphere.netcdf import believable, fill, opened
from inverse.atmosphere.units import conversion
from inverse.errors import InputError
from inverse.seeding import seeded

RAOB = "station,valid,pres,"
HEADING = re.compile(r"^\s*(?P<name>[^\[\(]+?)\s*[\[\(]\s*(?P<unit>[^\]\)]+?)\s*[\]\)]\s*$")


@dataclass(frozen=True)
class Observations:
    """Numbers measured at places, one entry each.

    Args:
        station: who measured, (n,) text.
        latitude, longitude: (n,) degrees.
        variable: what, (n,) text, as the domain's variables are named.
        unit: of each value, (n,) text; None where the file does not say.
        value: (n,), NaN where nothing was measured.
        sigma: standard deviation of the instrument in the same unit, (n,), NaN where the problem's goes.
    """

    station: np.ndarray
    latitude: np.ndarray
    longitude: np.ndarray
    variable: np.ndarray
    unit: np.ndarray
    value: np.ndarray
    sigma: np.ndarray

    def __len__(self) -> int:
        return len(self.value)

    def __getitem__(self, rows: Any) -> Observations:
        return Observations(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})

    @property
    def places(self) -> tuple[Tensor, Tensor]:
        """Latitude and longitude (n,), float64."""
        return torch.from_numpy(np.array(self.latitude, dtype=np.float64)), torch.from_numpy(np.array(self.longitude, dtype=np.float64))

    @property
    def sha256(self) -> str:
        """Of all that was measured, in order: the same for the same observations."""
        entries = (f"{s},{a:.6f},{b:.6f},{v},{u},{x:.6f}" for s, a, b, v, u, x, _ in zip(*vars(self).values(), strict=True))
        return hashlib.sha256("\n".join(entries).encode()).hexdigest()

    def channel(self, domain: Domain) -> Tensor:
        """Which channel of a field each entry sees: (n,)."""
        return torch.tensor([domain.variables.index(name) for name in self.variable], dtype=torch.long)


def observations(rows: list[tuple[str, float, float, str, str | None, float, float]]) -> Observations:
    """From rows (station, latitude, longitude, variable, unit, value, sigma)."""
    columns = list(zip(*rows, strict=True)) or [()] * 7
    kinds: list[Any] = [object, float, float, object, object, float, float]
    return Observations(*[np.array(column, dtype=kind) for column, kind in zip(columns, kinds, strict=True)])


# --- readers ------------------------------------------------------------------------------------------------------------


def read(path: Path) -> Observations:
    """Observations from a CSV table, a NetCDF file of points, an IGRA file, of which the first sounding, or a table of soundings (`read_raob`)."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix in (".nc", ".nc4", ".cdf"):
        return read_points(path)
    if next(lines(path), "").startswith(RAOB):
        return read_raob(path, raob_places())
    if path.suffix in (".csv", ".tsv"):
        return read_csv(path)
    if is_soundings(path):
        return of_soundings(read_soundings(path)[:1])
    raise InputError(f"{path}: expected stations as .csv, points as .nc, or soundings in IGRA format or as a table")


def is_points(path: Path) -> bool:
    """Whether a measurement is of points: every file that is not NetCDF, and NetCDF in which latitude and longitude share a dimension."""
    if path.suffix not in (".nc", ".nc4", ".cdf"):
        return True
    with opened(path) as data:
        lat, lon = _points_axis(data, ("latitude", "lat")), _points_axis(data, ("longitude", "lon"))
        return lat is not None and lon is not None and data[lat].dims == data[lon].dims


def joined(parts: list[Observations]) -> Observations:
    """All entries, one after the other."""
    return Observations(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in Observations.__dataclass_fields__})


def read_csv(path: Path) -> Observations:
    """A table with columns station, latitude, longitude and one for each variable, its unit in the heading: "t2m [K]", "t_850 [degC]".

    An empty cell, NaN or a usual fill value is nothing measured. "t2m_sigma [K]" is the standard deviation of the instrument.
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
        raise InputError(f"{path}: has no column {', '.join(missing)}; expected station, latitude, longitude and variables such as 't2m [K]'")
    headings = {name: HEADING.match(name) for name in names if name not in ("station", "latitude", "longitude", "elevation", "name", "time")}
    if bare := [name for name, match in headings.items() if match is None]:
        raise InputError(f"{path}: column '{bare[0]}' has no units; write '{bare[0]} [K]' or what it is in")
    variables = {match["name"]: (name, match["unit"]) for name, match in headings.items() if match is not None}
    rows = []
    for number, line in enumerate(records, 2):
        line = {str(key).strip(): value for key, value in line.items()}
        number_in = {name: _number(line[name], f"{path}, line {number}, column '{name}'") for name in ("latitude", "longitude", *headings)}
        for variable, (column, unit) in variables.items():
            if variable.endswith("_sigma") and variable.removesuffix("_sigma") in variables:
                continue
            sigma = float("nan")
            if f"{variable}_sigma" in variables:
                spread, its_unit = variables[f"{variable}_sigma"]
                sigma = number_in[spread] * conversion(its_unit, unit, f"{path}: column '{spread}'")[0]
            rows.append((str(line["station"]).strip(), number_in["latitude"], number_in["longitude"], variable, unit, number_in[column], sigma))
    if not rows:
        raise InputError(f"{path}: holds no observation; expected at least one line and one variable such as 't2m [K]'")
    return observations(rows)


def read_points(path: Path) -> Observations:
    """A NetCDF file in which latitude, longitude and the variables share one dimension (CF discrete sampling geometry, points or stations)."""
    with opened(path) as data:
        lat, lon = _points_axis(data, ("latitude", "lat")), _points_axis(data, ("longitude", "lon"))
        if lat is None or lon is None or data[lat].dims != data[lon].dims:
            raise InputError(f"{path}: no points; latitude and longitude must be variables of one dimension")
        (dim,) = data[lat].dims
        known = {lat, lon}
        measured = {n: v for n, v in data.data_vars.items() if n not in known and v.dims == (dim,) and v.dtype.kind in "fiu" and "time" not in str(n)}
        spreads = {n for n in measured if str(n).endswith("_sigma")}
        names = next((data[n].values for n in (*data.data_vars, *data.coords) if data[n].dims == (dim,) and data[n].dtype.kind in "OSU"), None)
        station = [f"{i}" for i in range(data.sizes[dim])] if names is None else [_text(name) for name in names]
        rows = []
        for name, item in measured.items():
            if name in spreads:
                continue
            spread = f"{name}_sigma"
            sigma = data[spread].values.astype(float) if spread in spreads else np.full(len(station), np.nan)
            unit, places = item.attrs.get("units"), (data[lat].values, data[lon].values)
            rows += [(*row[:3], str(name), unit, *row[3:]) for row in zip(station, *places, item.values.astype(float), sigma, strict=True)]
    if not rows:
        raise InputError(f"{path}: no variable is measured at its points")
    return observations(rows)


def read_raob(path: Path, places: dict[str, tuple[float, float]], levels: tuple[float, ...] = (850.0, 500.0)) -> Observations:
    """Temperature ("t_850") and geopotential ("z_850") at pressure levels (hPa) of a table of soundings, NaN where a level was not reported.

    The columns are those of the Iowa Environmental Mesonet's archive: station, valid, pres (hPa), hght (m), tmpc (degC), ...

    Args:
        places: latitude and longitude of each station; one that has none stays without a place, and so without use.
    """
    found: dict[tuple[str, str], tuple[str, float]] = {}
    stations: dict[str, None] = {}
    wanted = {f"{level:g}" for level in levels}
    for number, line in enumerate(csv.DictReader(lines(path)), 2):
        stations[line["station"]] = None
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
    return observations(rows)


@functools.cache
def raob_places() -> dict[str, tuple[float, float]]:
    """Places of North American sounding stations by the four letters of such tables, from the IGRA list."""
    folder = Path(str(importlib.resources.files("inverse_data"))) / "atmosphere"
    known = {s.id: (s.latitude, s.longitude) for s in read_station_list(folder / "igra2-station-list.txt.gz")}
    return {line["raob"]: known[line["igra"]] for line in csv.DictReader(lines(folder / "raob-stations.csv"))}


def of_soundings(soundings: list[Sounding], levels: tuple[float, ...] = (850.0, 500.0), checked: bool = False) -> Observations:
    """Temperature ("t_850") and geopotential ("z_850") of soundings at pressure levels (hPa), NaN where a level was not reported.

    Args:
        checked: take values that passed both climatological checks only.
    """
    what = (("t", "temperature", "degC"), ("z", "height", "m"))
    return observations(
        [
            (s.station, s.latitude, s.longitude, f"{short}_{level:g}", unit, s.at(name, level, checked), float("nan"))
            for s in soundings
            for level in levels
            for short, name, unit in what
        ]
    )


# --- what a domain can use ----------------------------------------------------------------------------------------------


def admitted(seen: Observations, domain: Domain, what: str) -> tuple[Observations, list[str]]:
    """The observations that a domain can use, in its units, and a sentence for each reason why some were left out.

    Raises: InputError if none is left, or for units that are missing or of another quantity.
    """
    notes: list[str] = []

    def keep(rows: np.ndarray, why: str) -> None:
        nonlocal seen
        if dropped := int((~rows).sum()):
            notes.append(f"{dropped} of {len(seen)} observations left out: {why}")
        seen = seen[rows]

    keep(np.isin(seen.variable, domain.variables), f"not one of the prior's variables ({', '.join(domain.variables)})")
    keep(~fill(seen.value) & ~fill(seen.latitude) & ~fill(seen.longitude), "missing values")
    for variable in dict.fromkeys(seen.variable):
        of = seen.variable == variable
        for unit in dict.fromkeys(seen.unit[of]):
            rows, to = of & (seen.unit == unit) if unit is not None else of, domain.unit(variable)
            a, b = conversion(unit, to, f"{what}: {variable}")
            value, sigma = np.where(rows, seen.value * a + b, seen.value), np.where(rows, seen.sigma * abs(a), seen.sigma)
            believable(value[rows], to, f"{what}: {variable}", str(unit))
            seen = replace(seen, value=value, sigma=sigma, unit=np.where(rows, to, seen.unit))
    keep(domain.grid.locate(*seen.places)[2].numpy(), f"outside the grid ({domain.grid})")
    first = dict[tuple, int]()
    for row, key in enumerate(zip(seen.station, seen.variable, strict=True)):
        first.setdefault(key, row)
    keep(np.isin(np.arange(len(seen)), list(first.values())), "a second value of the same station and variable")
    if (seen.sigma[~np.isnan(seen.sigma)] <= 0).any():
        raise InputError(f"{what}: a standard deviation is not positive; leave it empty for the problem's")
    if len(seen) == 0:
        raise InputError(f"{what}: no observation is left; {'; '.join(notes) or 'the file holds none'}")
    return seen, notes


def thinned(seen: Observations, radius: float) -> Observations:
    """Superobservations: values of one variable within `radius` km of the first of their cluster become their mean, at their mean place.

    The instrument's part of the noise falls with the square root of their number; what a point is not representative of is shared and stays.
    """
    if radius <= 0 or len(seen) == 0:
        return seen
    near = distance(seen.places, seen.places).numpy() <= radius
    leader = np.full(len(seen), -1)
    for row in range(len(seen)):
        if leader[row] < 0:
            leader[near[row] & (seen.variable == seen.variable[row]) & (leader < 0)] = row
    rows = []
    for first in dict.fromkeys(leader.tolist()):
        each = leader == first
        turn = (seen.longitude[each] - seen.longitude[first] + 180) % 360 - 180
        name = seen.station[first] if each.sum() == 1 else f"{seen.station[first]} and {each.sum() - 1} more"
        sigma = float(np.sqrt(np.mean(seen.sigma[each] ** 2) / each.sum()))
        place = float(seen.latitude[each].mean()), float(seen.longitude[first] + turn.mean())
        rows.append((name, *place, seen.variable[first], seen.unit[first], float(seen.value[each].mean()), sigma))
    return observations(rows)


def withheld(seen: Observations, share: float, seed: int = 0) -> tuple[Observations, Observations]:
    """The observations to use and those of a random share of the stations, rounded, kept for the score."""
    stations = sorted(set(seen.station))
    order = torch.randperm(len(stations), generator=seeded(seed, "withheld")).tolist()
    kept_back = {stations[i] for i in order[: round(share * len(stations))]}
    back = np.array([station in kept_back for station in seen.station], dtype=bool)
    return seen[~back], seen[back]


# --- simulation ---------------------------------------------------------------------------------------------------------


def network(stations: list[Station], domain: Domain, count: int, seed: int = 0) -> list[Station]:
    """`count` stations on a grid, chosen at random among those listed; where the list has fewer, the rest at random places, called SIM00, SIM01, ..."""
    places = torch.tensor([s.latitude for s in stations]), torch.tensor([s.longitude for s in stations])
    inside = [s for s, here in zip(stations, domain.grid.locate(*places)[2].tolist(), strict=True) if here]
    generator = seeded(seed, "network")
    order = torch.randperm(len(inside), generator=generator).tolist()
    found = [inside[i] for i in order[:count]]
    lat, lon, grid = domain.grid.latitudes, domain.grid.longitudes, domain.grid
    span = 360.0 if grid.periodic else lon[-1] - lon[0]
    low, high = (np.sin(np.deg2rad(edge)) for edge in (min(lat), max(lat)))
    for i in range(count - len(found)):
        u, v = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        found.append(Station(f"SIM{i:02d}", float(np.rad2deg(np.arcsin(low + u * (high - low)))), lon[0] + v * span, float("nan"), "simulated", 0, 0))
    return found


def at_stations(stations: list[Station], domain: Domain) -> Observations:
    """An observation of every variable at every station, yet without a value."""
    nan = float("nan")
    return observations([(s.id, s.latitude, s.longitude, v, u, nan, nan) for v, u in zip(domain.variables, domain.units, strict=True) for s in stations])


# --- how large the noise is ---------------------------------------------------------------------------------------------


def desroziers(background: Tensor, analysis: Tensor) -> Tensor:
    """Variance of the observations' noise, representativeness included, from departures: mean of (y - H x_a)(y - H x_b).

    It is the noise's own where the analysis was made with the right covariances, and otherwise the next step of a fixed-point iteration.

    Args:
        background: y - H x_b, (cases, n), x_b made without y.
        analysis: y - H x_a, (cases, n).

    Returns: (n,).

    Source: Desroziers, Berre, Chapnik, Poli, Diagnosis of observation, background and analysis-error statistics in observation space,
    Quarterly Journal of the Royal Meteorological Society 131, 2005, eq. 3.
    """
    return (background * analysis).mean(0)


def estimated_sigma(departures: Tensor, background: Tensor, start: float, iterations: int = 20, analysis: Callable[[float], Tensor] | None = None) -> float:
    """Standard deviation of noise common to all observations, by iterating `desroziers`.

    Args:
        departures: y - H x_b, (cases, n).
        background: H B H^T, (n, n), covariance of the background's error at the observations.
        start: first guess, positive.
        analysis: sigma -> y - H x_a (cases, n); by default that of optimal interpolation, R (H B H^T + R)^-1 (y - H x_b).
    """
    eye, sigma = torch.eye(len(background), dtype=background.dtype), start
    for _ in range(iterations):
        left = analysis(sigma) if analysis else torch.linalg.solve(background + sigma**2 * eye, sigma**2 * departures.T).T
        sigma = float(desroziers(departures, left).mean().clamp_min(1e-12).sqrt())
    return sigma


def _number(text: str | None, where: str) -> float:
    if text is None or text.strip().lower() in ("", "nan", "na", "null", "-"):
        return float("nan")
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"{where}: expected a number, found '{text}'") from error


def _points_axis(data: Any, names: tuple[str, ...]) -> str | None:
    """The one-dimensional variable that is this coordinate of the points."""
    return next((str(n) for n in (*data.data_vars, *data.coords) if str(n).lower() in names and data[n].ndim == 1), None)


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
