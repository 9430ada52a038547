"""Point observations: what they are, checking them against a domain, thinning and withholding."""

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
from inverse_problems.atmosphere.netcdf import believable, fill
from inverse_problems.atmosphere.units import conversion


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
        time: when, (n,) datetime64[m], not-a-time where the file does not say.
        hour: which hour of the domain, (n,), 0 until `admitted` has compared times.
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
        return Observations(
            **{name: getattr(self, name)[rows] for name in self.__dataclass_fields__}
        )

    @property
    def places(self) -> tuple[Tensor, Tensor]:
        """Latitude and longitude (n,), float64."""
        return torch.from_numpy(np.array(self.latitude, dtype=np.float64)), torch.from_numpy(
            np.array(self.longitude, dtype=np.float64)
        )

    @property
    def sha256(self) -> str:
        """Of all that was measured, in order: the same for the same observations."""
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
        """Which channel of a field each entry sees: (n,)."""
        place = [domain.variables.index(name) for name in self.variable]
        return torch.from_numpy(self.hour) * len(domain.variables) + torch.tensor(
            place, dtype=torch.long
        )


def observations(
    rows: list[tuple[str, float, float, str, str | None, float, float]],
    times: list[np.datetime64] | None = None,
    hours: list[int] | None = None,
) -> Observations:
    """From rows (station, latitude, longitude, variable, unit, value, sigma), and when each was, where that is known."""
    columns = list(zip(*rows, strict=True)) or [()] * 7
    kinds: list[Any] = [object, float, float, object, object, float, float]
    when = np.array(
        [np.datetime64("NaT")] * len(rows) if times is None else times, dtype="datetime64[m]"
    )
    hour = np.zeros(len(rows), dtype=np.int64) if hours is None else np.array(hours, dtype=np.int64)
    arrays = [np.array(column, dtype=kind) for column, kind in zip(columns, kinds, strict=True)]
    return Observations(*(*arrays, when, hour))


def joined(parts: list[Observations]) -> Observations:
    """All entries, one after the other."""
    return Observations(
        **{
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in Observations.__dataclass_fields__
        }
    )


def admitted(
    seen: Observations, domain: Domain, what: str, start: np.datetime64 | None = None
) -> tuple[Observations, list[str]]:
    """The observations that a domain can use, in its units, and a sentence for each reason why some were left out.

    Args:
        start: its first hour. An observation is of the nearest hour; one without a time is of the first.

    Raises: InputError if none is left, or for units that are missing or of another quantity.
    """
    notes: list[str] = []

    def keep(rows: np.ndarray, why: str) -> None:
        nonlocal seen
        if dropped := int((~rows).sum()):
            notes.append(f"{dropped} of {len(seen)} observations left out: {why}")
        seen = seen[rows]

    keep(
        np.isin(seen.variable, domain.variables),
        f"not one of the prior's variables ({', '.join(domain.variables)})",
    )
    keep(~fill(seen.value) & ~fill(seen.latitude) & ~fill(seen.longitude), "missing values")
    for variable in dict.fromkeys(seen.variable):
        of = seen.variable == variable
        for unit in dict.fromkeys(seen.unit[of]):
            rows, to = of & (seen.unit == unit) if unit is not None else of, domain.unit(variable)
            a, b = conversion(unit, to, f"{what}: {variable}")
            value, sigma = (
                np.where(rows, seen.value * a + b, seen.value),
                np.where(rows, seen.sigma * abs(a), seen.sigma),
            )
            believable(value[rows], to, f"{what}: {variable}", str(unit))
            seen = replace(seen, value=value, sigma=sigma, unit=np.where(rows, to, seen.unit))
    keep(domain.grid.locate(*seen.places)[2].numpy(), f"outside the grid ({domain.grid})")
    if start is not None:
        timed = ~np.isnat(seen.time)
        after = np.where(timed, (seen.time - start) / np.timedelta64(1, "h"), 0.0)
        seen = replace(seen, hour=np.floor(after + 0.5).astype(np.int64))
        span = (
            f"{start}"
            if domain.hours == 1
            else f"{start} and the {domain.hours - 1} hours after it"
        )
        keep((seen.hour >= 0) & (seen.hour < domain.hours), f"not within half an hour of {span}")
    first = dict[tuple, int]()
    for row, key in enumerate(zip(seen.station, seen.variable, seen.hour, strict=True)):
        first.setdefault(key, row)
    keep(
        np.isin(np.arange(len(seen)), list(first.values())),
        "a second value of the same station and variable"
        + (" and hour" if domain.hours > 1 else ""),
    )
    if (seen.sigma[~np.isnan(seen.sigma)] <= 0).any():
        raise InputError(
            f"{what}: a standard deviation is not positive; leave it empty for the problem's"
        )
    if len(seen) == 0:
        raise InputError(
            f"{what}: no observation is left; {'; '.join(notes) or 'the file holds none'}"
        )
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
            leader[
                near[row]
                & (seen.variable == seen.variable[row])
                & (seen.hour == seen.hour[row])
                & (leader < 0)
            ] = row
    rows, leaders = [], list(dict.fromkeys(leader.tolist()))
    for first in leaders:
        each = leader == first
        turn = (seen.longitude[each] - seen.longitude[first] + 180) % 360 - 180
        name = (
            seen.station[first]
            if each.sum() == 1
            else f"{seen.station[first]} and {each.sum() - 1} more"
        )
        sigma = float(np.sqrt(np.mean(seen.sigma[each] ** 2) / each.sum()))
        place = float(seen.latitude[each].mean()), float(seen.longitude[first] + turn.mean())
        rows.append(
            (
                name,
                *place,
                seen.variable[first],
                seen.unit[first],
                float(seen.value[each].mean()),
                sigma,
            )
        )
    return observations(rows, list(seen.time[leaders]), list(seen.hour[leaders]))


def withheld(seen: Observations, share: float, seed: int = 0) -> tuple[Observations, Observations]:
    """The observations to use and those of a random share of the stations, rounded, kept for the score."""
    stations = sorted(set(seen.station))
    order = torch.randperm(len(stations), generator=seeded(seed, "withheld")).tolist()
    kept_back = {stations[i] for i in order[: round(share * len(stations))]}
    back = np.array([station in kept_back for station in seen.station], dtype=bool)
    return seen[~back], seen[back]
