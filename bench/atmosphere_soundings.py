"""Analyse real soundings over North America with the prior era5-zt, a fifth of the stations withheld. Prints a table.

    python bench/atmosphere_soundings.py ../shared/data/atmosphere/radiosonde/raob_1999-05-04T00.csv.gz

There is no reference field: the score is the distance from what the withheld stations measured, their own noise included.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import numpy as np
import torch

import inverse
from inverse.operators import clone
from inverse.scores import fair_crps

SIGMAS = ("z:1.5", "t:1.0")
"""Of a sounding in dam and K, with what a balloon's value has and a 3 degree field has not."""

METHOD = {"sampler": "dpmpp-2m", "steps": 8, "sigma_max": 2.0, "sigma_min": 0.03, "analytic_start": 2.0, "tolerance": 1e-2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("soundings", type=Path)
    parser.add_argument("--members", type=int, default=32)
    arguments = parser.parse_args()
    prior = inverse.load_prior("era5-zt")
    problem, y, notes = inverse.get_problem("atmosphere", withhold=0.2, sigmas=SIGMAS).open(arguments.soundings, prior, True)
    scene = problem.scene()
    here, there = (clone(scene.at(part), "cpu", torch.float32) for part in (scene.used, scene.withheld))
    value, variable = torch.from_numpy(np.asarray(scene.withheld.value, dtype=np.float64)), np.array(scene.withheld.variable)
    climate, climate_used = (at.A(prior.decode(prior.mean)[None])[0, 0, 0].double() for at in (there, here))
    print("; ".join(notes))

    seasonal = copy.deepcopy(prior)  # the prior is of January, the soundings are of May: an unknown constant for each variable, as in ordinary kriging
    for channel, name in enumerate(scene.domain.variables):
        used = torch.from_numpy(np.array(scene.used.variable) == name)
        seasonal.shift[channel] += float((y.flatten().double() - climate_used)[used].mean())

    found = {}
    for label, law in (("as it is", prior), ("mean refitted", seasonal)):
        result = inverse.solve(problem.posterior(y=y, prior=law), inverse.get_method("multimodal", **METHOD), samples=arguments.members)
        found[label] = there.A(result.samples[0])[:, 0, 0].double()
        print(f"{label}: {result.seconds:.0f} s for {arguments.members} members")
    print(f"{len(set(scene.used.station))} stations used, {len(set(scene.withheld.station))} withheld")
    print(
        "| variable | withheld values | mean of the prior | kriging | as it is | mean refitted | CRPS | predicted |\n|---|---|---|---|---|---|---|---|"
    )
    for name in scene.domain.variables:
        at, used = torch.from_numpy(variable == name), np.array(scene.used.variable) == name
        sigma = float(dict(pair.split(":") for pair in SIGMAS)[name[0]])
        guesses = [climate, found["as it is"].mean(0), found["mean refitted"].mean(0)]
        rmse = [float((guess[at] - value[at]).square().mean().sqrt()) for guess in guesses]
        members = found["mean refitted"][:, at]
        noisy = members + sigma * torch.randn(members.shape, generator=inverse.seeded("soundings", name), dtype=torch.float64)
        kriged = _kriged(scene.used[used], scene.withheld[np.asarray(at)])
        error = float((kriged - value[at]).square().mean().sqrt())
        crps, predicted = float(fair_crps(noisy[None], value[None, at])), float(((1 + 1 / len(members)) * noisy.var(0).mean()).sqrt())
        cells = [f"{name} ({scene.domain.unit(name)})", str(int(at.sum())), *(f"{v:.2f}" for v in (rmse[0], error, rmse[1], rmse[2], crps, predicted))]
        print("| " + " | ".join(cells) + " |")


def _kriged(used, withheld) -> torch.Tensor:
    """Ordinary kriging with an exponential variogram fitted to the soundings."""
    from pykrige.ok import OrdinaryKriging

    (lat, lon), (at_lat, at_lon) = ((p.numpy() for p in part.places) for part in (used, withheld))
    model = OrdinaryKriging(lon, lat, np.asarray(used.value, dtype=float), variogram_model="exponential", coordinates_type="geographic", exact_values=False)
    return torch.from_numpy(np.asarray(model.execute("points", at_lon, at_lat)[0]))


if __name__ == "__main__":
    main()
