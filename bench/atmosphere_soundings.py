r"""Analyse real soundings over North America with the prior era5-zt; print a table of scores.

    python bench/atmosphere_soundings.py \
        "$INVERSE_DATA/atmosphere/radiosonde/raob_1999-05-04T00.csv.gz"

A fifth of the stations is withheld. There is no reference field: the score is the distance from the
measurements of the withheld stations, which includes their noise. The prior is that of January and
the soundings are from May. Its mean is therefore refitted: for each variable, a line in latitude is
added to it, fitted by least squares to the residuals at the stations in use. Nothing is fitted to
withheld stations.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from options import new_parser
from output import markdown_table
from torch import Tensor

import inverse
from inverse.checks.diagnostics import fair_crps
from inverse.measurement.operators import clone

SIGMAS = ("z:1.5", "t:1.0")
"""Noise of a sounding (dam, K), including the scales that a 3 degree field does not resolve."""

METHOD = {
    "sampler": "dpmpp-2m",
    "steps": 8,
    "sigma_max": 2.0,
    "sigma_min": 0.03,
    "analytic_start": 2.0,
    "tolerance": 1e-2,
}
LATITUDES = (20.0, 75.0)
"""Range (degrees) of the line in latitude; it is constant beyond."""


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("soundings", type=Path, help="CSV file of soundings")
    parser.add_argument("--prior", default="era5-zt")
    parser.add_argument("--members", type=int, default=16, help="members of the ensemble")
    arguments = parser.parse_args()
    prior = inverse.load_prior(arguments.prior)
    problem, y, notes = inverse.get_problem("atmosphere", withhold=0.2, sigmas=SIGMAS).open(
        arguments.soundings, prior, True
    )
    scene = problem.scene()
    at_withheld = clone(scene.at(scene.withheld), "cpu", torch.float32)
    value = torch.from_numpy(np.asarray(scene.withheld.value, dtype=np.float64))
    print("; ".join(notes))
    members_by_prior = {}
    for label, law in (("as it is", prior), ("mean refitted", refitted(prior, scene, y))):
        result = inverse.solve(
            problem.posterior(y=y, prior=law),
            inverse.get_method("multimodal", **METHOD),
            samples=arguments.members,
        )
        members_by_prior[label] = at_withheld.A(result.samples[0])[:, 0, 0].double()
        print(f"{label}: {result.seconds:.0f} s for {arguments.members} members", flush=True)
    climate = at_withheld.A(climate_of(prior))[0, 0, 0].double()
    used, withheld = (len(set(part.station)) for part in (scene.used, scene.withheld))
    print(f"{used} stations used, {withheld} withheld")
    heads = ["variable", "withheld values", "mean of the prior", "kriging"]
    heads += ["as it is", "mean refitted", "CRPS", "predicted"]
    rows = []
    for name in scene.domain.variables:
        of = torch.from_numpy(np.array(scene.withheld.variable) == name)
        krige = kriged(
            scene.used[np.array(scene.used.variable) == name], scene.withheld[of.numpy()]
        )
        estimates = [
            climate[of],
            krige,
            members_by_prior["as it is"].mean(0)[of],
            members_by_prior["mean refitted"].mean(0)[of],
        ]
        rmse = [float((estimate - value[of]).square().mean().sqrt()) for estimate in estimates]
        members = members_by_prior["mean refitted"][:, of]
        sigma = float(dict(pair.split(":") for pair in SIGMAS)[name[0]])
        generator = inverse.seeded("soundings", name)
        noise = torch.randn(members.shape, generator=generator, dtype=torch.float64)
        noisy = members + sigma * noise
        crps = float(fair_crps(noisy[None], value[None, of]))
        predicted = float(((1 + 1 / len(members)) * noisy.var(0).mean()).sqrt())
        figures = [f"{figure:.2f}" for figure in (*rmse, crps, predicted)]
        rows.append([f"{name} ({scene.domain.unit(name)})", str(int(of.sum())), *figures])
    print(markdown_table(heads, rows))


def climate_of(prior: Any) -> Tensor:
    """The mean field of the prior, (1, C, H, W), in physical units."""
    law = getattr(prior, "law", prior)
    return law.decode(law.mean)[None]


def refitted(prior: Any, scene: Any, y: Tensor) -> Any:
    """The prior with a line in latitude added to the mean of each variable."""
    at_used = clone(scene.at(scene.used), "cpu", torch.float32)
    departure = y.flatten().double() - at_used.A(climate_of(prior))[0, 0, 0].double()
    latitude = scene.used.places[0]
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
