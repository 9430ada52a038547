"""Analyse real soundings over North America with the prior era5-zt, a fifth of the stations withheld. Prints a table.

    python bench/atmosphere_soundings.py "$INVERSE_DATA/atmosphere/radiosonde/raob_1999-05-04T00.csv.gz"

There is no reference field: the score is the distance from what the withheld stations measured, their own noise included. The prior is of
January and the soundings are of May. Its mean is therefore refitted: for each variable a line in latitude is added to it, by least
squares through what the stations that are used leave of it. Nothing is fitted to those withheld.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import inverse
from inverse.checks.diagnostics import fair_crps
from inverse.measurement.operators import clone

SIGMAS = ("z:1.5", "t:1.0")
"""Of a sounding in dam and K, with what a balloon's value has and a 3 degree field has not."""

METHOD = {
    "sampler": "dpmpp-2m",
    "steps": 8,
    "sigma_max": 2.0,
    "sigma_min": 0.03,
    "analytic_start": 2.0,
    "tolerance": 1e-2,
}
LATITUDES = (20.0, 75.0)
"""Between which the line is believed; beyond, it stays at its value there."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("soundings", type=Path)
    parser.add_argument("--prior", default="era5-zt")
    parser.add_argument("--members", type=int, default=16)
    arguments = parser.parse_args()
    prior = inverse.load_prior(arguments.prior)
    problem, y, notes = inverse.get_problem("atmosphere", withhold=0.2, sigmas=SIGMAS).open(
        arguments.soundings, prior, True
    )
    scene = problem.scene()
    there = clone(scene.at(scene.withheld), "cpu", torch.float32)
    value = torch.from_numpy(np.asarray(scene.withheld.value, dtype=np.float64))
    print("; ".join(notes))
    found = {}
    for label, law in (("as it is", prior), ("mean refitted", refitted(prior, scene, y))):
        result = inverse.solve(
            problem.posterior(y=y, prior=law),
            inverse.get_method("multimodal", **METHOD),
            samples=arguments.members,
        )
        found[label] = there.A(result.samples[0])[:, 0, 0].double()
        print(f"{label}: {result.seconds:.0f} s for {arguments.members} members", flush=True)
    climate = there.A(climate_of(prior))[0, 0, 0].double()
    print(
        f"{len(set(scene.used.station))} stations used, {len(set(scene.withheld.station))} withheld"
    )
    print(
        "| variable | withheld values | mean of the prior | kriging | as it is | mean refitted | CRPS | predicted |\n|---|---|---|---|---|---|---|---|"
    )
    for name in scene.domain.variables:
        of = torch.from_numpy(np.array(scene.withheld.variable) == name)
        krige = kriged(
            scene.used[np.array(scene.used.variable) == name], scene.withheld[of.numpy()]
        )
        guesses = [
            climate[of],
            krige,
            found["as it is"].mean(0)[of],
            found["mean refitted"].mean(0)[of],
        ]
        rmse = [float((guess - value[of]).square().mean().sqrt()) for guess in guesses]
        members, sigma = (
            found["mean refitted"][:, of],
            float(dict(pair.split(":") for pair in SIGMAS)[name[0]]),
        )
        noisy = members + sigma * torch.randn(
            members.shape, generator=inverse.seeded("soundings", name), dtype=torch.float64
        )
        crps, predicted = (
            float(fair_crps(noisy[None], value[None, of])),
            float(((1 + 1 / len(members)) * noisy.var(0).mean()).sqrt()),
        )
        cells = [
            f"{name} ({scene.domain.unit(name)})",
            str(int(of.sum())),
            *(f"{v:.2f}" for v in (*rmse, crps, predicted)),
        ]
        print("| " + " | ".join(cells) + " |")


def climate_of(prior: Any) -> Tensor:
    """The prior's mean field, physical units: (1, C, H, W)."""
    law = getattr(prior, "law", prior)
    return law.decode(law.mean)[None]


def refitted(prior: Any, scene: Any, y: Tensor) -> Any:
    """The prior with a line in latitude added to the mean of each variable."""
    here = clone(scene.at(scene.used), "cpu", torch.float32)
    departure, latitude = (
        y.flatten().double() - here.A(climate_of(prior))[0, 0, 0].double(),
        scene.used.places[0],
    )
    rows = torch.tensor(scene.domain.grid.latitudes, dtype=torch.float64).clamp(*LATITUDES)
    seasonal = copy.deepcopy(prior)
    for channel, name in enumerate(scene.domain.variables):
        of = torch.from_numpy(np.array(scene.used.variable) == name)
        terms = torch.stack([torch.ones_like(latitude[of]), latitude[of]], 1)
        a, b = torch.linalg.lstsq(terms, departure[of, None]).solution[:, 0]
        for law in {seasonal, getattr(seasonal, "law", seasonal)}:
            law.shift[channel] += (a + b * rows)[:, None]
    return seasonal


def kriged(used: Any, withheld: Any) -> Tensor:
    """Ordinary kriging with an exponential variogram fitted to the soundings."""
    from pykrige.ok import OrdinaryKriging

    (lat, lon), (at_lat, at_lon) = ((p.numpy() for p in part.places) for part in (used, withheld))
    model = OrdinaryKriging(
        lon,
        lat,
        np.asarray(used.value, dtype=float),
        variogram_model="exponential",
        coordinates_type="geographic",
        exact_values=False,
    )
    return torch.from_numpy(np.asarray(model.execute("points", at_lon, at_lat)[0]))


if __name__ == "__main__":
    main()
