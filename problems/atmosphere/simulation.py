"""Networks of stations for observing-system simulations."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from inverse.seeding import seeded
from inverse_problems.atmosphere.domain import Domain
from inverse_problems.atmosphere.igra import Station
from inverse_problems.atmosphere.observations import Observations, observations


def network(stations: list[Station], domain: Domain, count: int, seed: int = 0) -> list[Station]:
    """`count` stations on a grid, chosen at random among those listed; where the list has fewer, the rest at random places, called SIM00, SIM01, ..."""
    places = (
        torch.tensor([s.latitude for s in stations]),
        torch.tensor([s.longitude for s in stations]),
    )
    inside = [
        s for s, here in zip(stations, domain.grid.locate(*places)[2].tolist(), strict=True) if here
    ]
    generator = seeded(seed, "network")
    order = torch.randperm(len(inside), generator=generator).tolist()
    found = [inside[i] for i in order[:count]]
    lat, lon, grid = domain.grid.latitudes, domain.grid.longitudes, domain.grid
    span = 360.0 if grid.periodic else lon[-1] - lon[0]
    low, high = (np.sin(np.deg2rad(edge)) for edge in (min(lat), max(lat)))
    for i in range(count - len(found)):
        u, v = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        found.append(
            Station(
                f"SIM{i:02d}",
                float(np.rad2deg(np.arcsin(low + u * (high - low)))),
                lon[0] + v * span,
                float("nan"),
                "simulated",
                0,
                0,
            )
        )
    return found


def at_stations(stations: list[Station], domain: Domain) -> Observations:
    """An observation of every variable at every station and hour, yet without a value."""
    nan = float("nan")
    rows: list[Any] = [
        (s.id, s.latitude, s.longitude, v, u, nan, nan)
        for v, u in zip(domain.variables, domain.units, strict=True)
        for s in stations
    ]
    return observations(
        rows * domain.hours, hours=[hour for hour in range(domain.hours) for _ in rows]
    )
