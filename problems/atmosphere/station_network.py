"""Networks of stations for simulated observations."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch

from inverse.seeding import seeded
from inverse_problems.atmosphere import shipped_data
from inverse_problems.atmosphere.domain import Domain
from inverse_problems.atmosphere.igra import Station
from inverse_problems.atmosphere.observations import Observations, observations


@functools.lru_cache(maxsize=64)
def simulated_networks(
    domain: Domain, count: int, extra: int, seed: int
) -> tuple[Observations, Observations]:
    """Observations without values at `count` stations, and at `extra` others.

    The stations are those of the shipped list, see `choose_stations`.
    """
    chosen = choose_stations(shipped_data.stations(), domain, count + extra, seed)
    return observations_at(chosen[:count], domain), observations_at(chosen[count:], domain)


def choose_stations(
    stations: list[Station], domain: Domain, count: int, seed: int = 0
) -> list[Station]:
    """`count` stations on the grid of a domain, chosen at random from a list.

    If fewer of them are on the grid, stations SIM00, SIM01, ... at random places are added.
    """
    grid = domain.grid
    latitudes = torch.tensor([station.latitude for station in stations])
    longitudes = torch.tensor([station.longitude for station in stations])
    inside = grid.locate(latitudes, longitudes)[2].tolist()
    candidates = [station for station, on_grid in zip(stations, inside, strict=True) if on_grid]
    generator = seeded(seed, "network")
    order = torch.randperm(len(candidates), generator=generator).tolist()
    chosen = [candidates[i] for i in order[:count]]
    west, nan = grid.longitudes[0], float("nan")
    span = 360.0 if grid.periodic else grid.longitudes[-1] - west
    low, high = (np.sin(np.deg2rad(edge)) for edge in (min(grid.latitudes), max(grid.latitudes)))
    for i in range(count - len(chosen)):
        u, v = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        latitude = float(np.rad2deg(np.arcsin(low + u * (high - low))))
        chosen.append(Station(f"SIM{i:02d}", latitude, west + v * span, nan, "simulated", 0, 0))
    return chosen


def observations_at(stations: list[Station], domain: Domain) -> Observations:
    """An observation of every variable at every station and hour; value and sigma are NaN."""
    nan = float("nan")
    rows: list[Any] = [
        (station.id, station.latitude, station.longitude, variable, unit, nan, nan)
        for variable, unit in zip(domain.variables, domain.units, strict=True)
        for station in stations
    ]
    hours = [hour for hour in range(domain.hours) for _ in rows]
    return observations(rows * domain.hours, hours=hours)
