r"""Measure the value of neighbouring hours and the error of composing short windows.

    python bench/atmosphere_window.py \
        --fields "$INVERSE_DATA/atmosphere/era5_t2m_uk_2019-03.nc" --out results/atmosphere-window

`windows`: optimal interpolation in space and time under era5-uk-t2m-hours, in windows of several
lengths. Each hour of 25 to 31 March 2019 has a coarse field of factor 8 and 25 stations, with 0.5 K
of noise. `middle` and `first` are the errors at these hours of a window; `spread_skill` is in
closed form.
`composition`: nine hours of a small chain with four of twelve places observed every hour, and 200
members. `shift` is the distance of their mean from that of a Kalman smoother, in its standard
deviations (200 exact draws have `floor`), and `variance` the mean ratio of variances.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from options import new_parser
from output import write_json
from torch import Tensor

import inverse
from inverse.measurement.operators import clone
from inverse.priors.analytic import LowRankPrior
from inverse_problems.atmosphere.training_fields import load_fields
from inverse_problems.atmosphere.trajectory import ComposedPrior, TrajectoryPrior, over_hours

F64 = torch.float64
LENGTHS = (1, 2, 3, 6, 12)
STATIONS = {"factor": 8, "count": 25, "sigma_y": 0.5}


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--fields", type=Path, required=True, help="NetCDF file of hourly fields")
    parser.add_argument("--out", type=Path, required=True, help="stem of the .json to write")
    arguments = parser.parse_args()
    fields = load_fields(arguments.fields, ["t2m"], "2019-03-25/2019-03-31").values[:, 0].double()
    record: dict[str, Any] = {"windows": [], "composition": composition(), "floor": 200**-0.5}
    for hours in LENGTHS:
        row = windows(fields, hours)
        record["windows"].append(row)
        print(json.dumps({k: v for k, v in row.items() if k != "rmse_by_day"}), flush=True)
    write_json(arguments.out.with_suffix(".json"), record)


def windows(fields: Tensor, hours: int) -> dict[str, Any]:
    """Errors of windows of so many hours on the fields (N, H, W), K, N a multiple of `hours`."""
    prior = over_hours(inverse.load_prior("era5-uk-t2m-hours").double(), hours)
    problem = inverse.get_problem("atmosphere", window=hours, **STATIONS)
    series = fields.reshape(-1, hours, *fields.shape[1:])
    operator = clone(problem.operator(tuple(series.shape[1:])), "cpu", F64)
    sigma = problem.noise(tuple(series.shape[1:])).sigma.flatten()
    generators = [inverse.seeded("window", hours, i) for i in range(len(series))]
    noise = [0.5 * torch.randn(len(sigma), generator=g, dtype=F64) for g in generators]
    y = operator.A(series)[:, 0, 0] + torch.stack(noise)
    unit = torch.eye(len(sigma), dtype=F64)[:, None, None]
    H = prior.decode_adjoint(operator.A_adjoint(unit))
    CH = torch.cat([prior.spectral(part, lambda v: v) for part in H.split(64)]).flatten(1)
    root = torch.linalg.cholesky(CH @ H.flatten(1).T + torch.diag(sigma**2))
    departure = y - operator.A(prior.decode(prior.mean)[None])[0, 0, 0]
    increment = torch.cholesky_solve(departure.T, root).T @ CH
    x = prior.decode(increment.reshape(series.shape) + prior.mean)
    explained = torch.linalg.solve_triangular(root, CH, upper=False).square().sum(0)
    variance = prior.scale**2 * (prior.spread.flatten() ** 2 - explained)
    variance = variance.reshape(series.shape[1:])
    area = problem.scene().domain.grid.row_areas()
    area = area / area.sum()
    square = (x - series).square().mean(-1) @ area
    rmse = square.sqrt()
    return {
        "hours": hours,
        "rmse": float(rmse.mean()),
        "middle": float(rmse[:, hours // 2].mean()),
        "first": float(rmse[:, 0].mean()),
        "spread_skill": float(((variance.mean(-1) @ area).mean() / square.mean()).sqrt()),
        "rmse_by_day": rmse.reshape(7, -1).mean(1).tolist(),
    }


def composition() -> list[dict[str, Any]]:
    """Errors of windows of 1, 3, 5, 7 and 9 hours by a deterministic and a stochastic sampler."""
    generator = inverse.seeded("composition")
    basis, _ = torch.linalg.qr(torch.randn(12, 4, generator=generator, dtype=F64))
    hour = LowRankPrior(
        torch.zeros(1, 3, 4, dtype=F64),
        basis,
        torch.tensor([4.0, 2.0, 1.0, 0.5], dtype=F64),
        torch.tensor(0.2, dtype=F64),
    )
    law = TrajectoryPrior(hour, torch.tensor([0.95, 0.9, 0.7, 0.5, 0.3], dtype=F64), 9)
    places = torch.tensor([0, 3, 7, 10])
    seen = inverse.operator(shape=tuple(law.shape))(lambda x: x.flatten(2)[:, None, :, places])
    H, y = torch.zeros(36, 108, dtype=F64), seen.A(law.sample(1, generator))
    H[torch.arange(36), (torch.arange(9)[:, None] * 12 + places).flatten()] = 1
    y = y + 0.4 * torch.randn(y.shape, generator=generator, dtype=F64)
    exact = inverse.GaussianPrior(law.mean, law.covariance).given(H, 0.4, y.flatten())
    rows = []
    for sampler in ("dpmpp-2m", "dpmpp-2m-sde"):
        method = inverse.get_method(
            "multimodal", sampler=sampler, steps=25, sigma_max=20.0, sigma_min=0.02
        )
        for wide in (1, 3, 5, 7, 9):
            prior = law if wide == 9 else ComposedPrior(law.over(wide), 1, 9)
            posterior = inverse.Posterior(
                prior, seen, y, inverse.GaussianNoise(0.4), shape=tuple(law.shape), dtype=F64
            )
            x = inverse.solve(posterior, method, 200).samples[0].double()
            variance = exact.covariance.diagonal().reshape(exact.mean.shape)
            shift = ((x.mean(0) - exact.mean).square() / variance).mean().sqrt()
            rows.append(
                {
                    "sampler": sampler,
                    "window": wide,
                    "shift": round(float(shift), 3),
                    "variance": round(float((x.var(0) / variance).mean()), 3),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    return rows


if __name__ == "__main__":
    main()
