"""Point observations: their table, quality control, thinning and withholding."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inverse.errors import InputError
from inverse.seeding import seeded
from inverse_problems.atmosphere.domain import Domain
from inverse_problems.atmosphere.grid import distance
from inverse_problems.atmosphere.netcdf import is_missing
from inverse_problems.atmosphere.units import check_plausible, conversion, is_impossible


@dataclass(frozen=True)
class Observations:
    """A table of point observations: each attribute is a column of n entries.

    Args:
        station: name of the station, text.
        latitude, longitude: degrees.
        variable: name of the measured variable, text, as in the domain.
        unit: unit of the value, text; None if the file states none.
        value: measured value, NaN where missing.
        sigma: standard deviation of the instrument, in the same unit; NaN if the file states none.
        time: datetime64[m]; not-a-time if the file states none.
        hour: index of the hour of the domain; 0 before `admitted`.
    """

    station: np.ndarray
    latitude: np.ndarray
    longitude: np.ndarray
    variable: np.ndarray
    unit: np.ndarray
    value: np.ndarray
    sigma: np.ndarray
    time: np.ndarray
    hour: np.ndarray

    def __len__(self) -> int:
        return len(self.value)

    def __getitem__(self, rows: Any) -> Observations:
        columns = {name: getattr(self, name)[rows] for name in self.__dataclass_fields__}
        return Observations(**columns)

    @property
    def places(self) -> tuple[Tensor, Tensor]:
        """Latitude (n,) and longitude (n,), degrees, float64."""
        latitude, longitude = (
            torch.from_numpy(np.array(angle, dtype=np.float64))
            for angle in (self.latitude, self.longitude)
        )
        return latitude, longitude

    @property
    def sha256(self) -> str:
        """SHA-256 of the places, variables, units, values and hours, in order."""
        columns = (
            self.station,
            self.latitude,
            self.longitude,
            self.variable,
            self.unit,
            self.value,
            self.hour,
        )
        entries = (
            f"{s},{a:.6f},{b:.6f},{v},{u},{x:.6f},{h}"
            for s, a, b, v, u, x, h in zip(*columns, strict=True)
        )
        return hashlib.sha256("\n".join(entries).encode()).hexdigest()

    def channel(self, domain: Domain) -> Tensor:
        """Index of the channel of a field that each entry observes: (n,)."""
        index = torch.tensor(
            [domain.variables.index(name) for name in self.variable], dtype=torch.long
        )
        return torch.from_numpy(self.hour) * len(domain.variables) + index


def observations(
    rows: list[tuple[str, float, float, str, str | None, float, float]],
    times: list[np.datetime64] | None = None,
    hours: list[int] | None = None,
) -> Observations:
    """A table from rows (station, latitude, longitude, variable, unit, value, sigma).

    Args:
        times: time of each row; None if unknown.
        hours: hour of the domain of each row; None is 0.
    """
    columns = list(zip(*rows, strict=True)) or [()] * 7
    dtypes: list[Any] = [object, float, float, object, object, float, float]
    arrays = [np.array(column, dtype=dtype) for column, dtype in zip(columns, dtypes, strict=True)]
    unknown = [np.datetime64("NaT", "m")] * len(rows)
    time = np.array(unknown if times is None else times, dtype="datetime64[m]")
    hour = np.array([0] * len(rows) if hours is None else hours, dtype=np.int64)
    return Observations(*(*arrays, time, hour))


def joined(parts: list[Observations]) -> Observations:
    """The entries of several tables in one."""
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in Observations.__dataclass_fields__
    }
    return Observations(**columns)


def admitted(
    table: Observations, domain: Domain, source: str, start: np.datetime64 | None = None
) -> tuple[Observations, list[str]]:
    """The observations that a domain can use, in its units, and notes on those left out.

    Args:
        source: name of the file, which begins error messages.
        start: time of the first hour of the domain. An observation belongs to the nearest hour; one
            without a time belongs to the first.

    Raises: InputError if no observation is left, or for units that are missing or of another
        quantity, or a sigma that is not positive.
    """
    notes: list[str] = []

    def keep(rows: np.ndarray, reason: str) -> None:
        nonlocal table
        if dropped := int((~rows).sum()):
            notes.append(f"{dropped} of {len(table)} observations left out: {reason}")
        table = table[rows]

    names = ", ".join(domain.variables)
    keep(np.isin(table.variable, domain.variables), f"not one of the prior's variables ({names})")
    complete = ~is_missing(table.value) & ~is_missing(table.latitude) & ~is_missing(table.longitude)
    keep(complete, "missing values")
    table = _in_units_of(domain, table, source)
    units = zip(table.value, table.unit, strict=True)
    possible = np.array([not is_impossible(value, unit) for value, unit in units], dtype=bool)
    keep(possible, "values that are impossible on Earth, or codes for missing ones")
    keep(domain.grid.locate(*table.places)[2].numpy(), f"outside the grid ({domain.grid})")
    if start is not None:
        table = _assigned_to_hours(table, start)
        after = "" if domain.hours == 1 else f" and the {domain.hours - 1} hours after it"
        in_window = (table.hour >= 0) & (table.hour < domain.hours)
        keep(in_window, f"not within half an hour of {start}{after}")
    and_hour = " and hour" if domain.hours > 1 else ""
    keep(_first_of_each(table), f"a second value of the same station and variable{and_hour}")
    if (table.sigma[~np.isnan(table.sigma)] <= 0).any():
        raise InputError(
            f"{source}: a standard deviation is not positive; leave it empty for the problem's"
        )
    if len(table) == 0:
        reasons = "; ".join(notes) or "the file holds none"
        raise InputError(f"{source}: no observation is left; {reasons}")
    return table, notes


def _in_units_of(domain: Domain, table: Observations, source: str) -> Observations:
    """Observations with values and sigma in the units of a domain."""
    for variable in dict.fromkeys(table.variable):
        of_variable, target = table.variable == variable, domain.unit(variable)
        for unit in dict.fromkeys(table.unit[of_variable]):
            rows = of_variable if unit is None else of_variable & (table.unit == unit)
            a, b = conversion(unit, target, f"{source}: {variable}")
            value = np.where(rows, table.value * a + b, table.value)
            sigma = np.where(rows, table.sigma * abs(a), table.sigma)
            check_plausible(value[rows], target, f"{source}: {variable}", str(unit))
            units = np.where(rows, target, table.unit)
            table = replace(table, value=value, sigma=sigma, unit=units)
    return table


def _assigned_to_hours(table: Observations, start: np.datetime64) -> Observations:
    """Observations with the nearest hour after `start`, 0 for those without a time."""
    timed = ~np.isnat(table.time)
    after = np.where(timed, (table.time - start) / np.timedelta64(1, "h"), 0.0)
    return replace(table, hour=np.floor(after + 0.5).astype(np.int64))


def _first_of_each(table: Observations) -> np.ndarray:
    """The first entry of each station, variable and hour: boolean (n,)."""
    first = dict[tuple, int]()
    for row, key in enumerate(zip(table.station, table.variable, table.hour, strict=True)):
        first.setdefault(key, row)
    return np.isin(np.arange(len(table)), list(first.values()))


def thinned(table: Observations, radius: float) -> Observations:
    """Superobservations: means of the values of one variable and hour within a radius.

    A cluster is formed by the observations within `radius` km of its first; the superobservation is
    at their mean place. The instrument's variance falls with the number of observations. The
    representativeness error is shared and does not fall.
    """
    if radius <= 0 or len(table) == 0:
        return table
    near = distance(table.places, table.places).numpy() <= radius
    leader = np.full(len(table), -1)
    for row in range(len(table)):
        if leader[row] < 0:
            alike = (table.variable == table.variable[row]) & (table.hour == table.hour[row])
            leader[near[row] & alike & (leader < 0)] = row
    leaders = list(dict.fromkeys(leader.tolist()))
    rows = [_mean_observation(table[leader == first]) for first in leaders]
    return observations(rows, list(table.time[leaders]), list(table.hour[leaders]))


def _mean_observation(cluster: Observations) -> tuple:
    """The row of the mean of a cluster; its first observation names it."""
    count, first = len(cluster), cluster.longitude[0]
    turn = (cluster.longitude - first + 180) % 360 - 180
    name = cluster.station[0] if count == 1 else f"{cluster.station[0]} and {count - 1} more"
    place = float(cluster.latitude.mean()), float(first + turn.mean())
    sigma = float(np.sqrt(np.mean(cluster.sigma**2) / count))
    value = float(cluster.value.mean())
    return (name, *place, cluster.variable[0], cluster.unit[0], value, sigma)


def withheld(
    table: Observations, fraction: float, seed: int = 0
) -> tuple[Observations, Observations]:
    """Observations to use, and those of a random fraction of the stations, withheld for the score.

    The number of withheld stations is rounded.
    """
    stations = sorted(set(table.station))
    order = torch.randperm(len(stations), generator=seeded(seed, "withheld")).tolist()
    kept_back = {stations[i] for i in order[: round(fraction * len(stations))]}
    rows = np.array([station in kept_back for station in table.station], dtype=bool)
    return table[~rows], table[rows]
