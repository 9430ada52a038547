r"""Measure, on days 1 to 24 of the month alone, the choices made for `atmosphere.py`.

    python bench/atmosphere_choices.py \
        --fields "$INVERSE_DATA/atmosphere/era5_t2m_uk_2019-03.nc" \
        --out results/atmosphere-choices

Writes OUT.json; results already in it are not measured again.
`blocks`: optimal interpolation of each block of three days under the Gaussian fitted to the other
21 days, unchanged and with the amplitude fitted to each hour.
`validation`: analyses of six hours of days 22 to 24 with the trained prior.
`facts`: variance (K2) of held-out fields around the training mean, and around the mean with two
harmonics of the day; log density (nats per point) of the validation fields under sample covariances
of several ranks without a taper.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from atmosphere import MAIN, SAMPLER, TRAIN, case, optimal_interpolation, sampled
from atmosphere_scores import scores
from options import new_parser
from output import write_json
from torch import Tensor

import inverse
from inverse_problems.atmosphere.climatology import fit_gaussian
from inverse_problems.atmosphere.training_fields import load_fields

KEYS = ("rmse", "crps", "spread_skill")
SETTINGS: dict[str, tuple[dict[str, Any], int]] = {
    "8 steps from sigma 2": ({}, 16),
    "8 steps from sigma 2, fitted amplitude": ({"amplitude": "evidence"}, 32),
    "16 steps from sigma 2": ({"steps": 16}, 8),
    "12 steps from sigma 8": ({"steps": 12, "sigma_max": 8.0, "analytic_start": 8.0}, 8),
    "12 steps from sigma 8, solved to 1e-3": (
        {"steps": 12, "sigma_max": 8.0, "analytic_start": 8.0, "iterations": 60, "tolerance": 1e-3},
        8,
    ),
}
"""Options and members. Noise levels are in standard deviations of the fields."""


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--fields", type=Path, required=True, help="NetCDF file of hourly fields")
    parser.add_argument("--out", type=Path, required=True, help="stem of the .json to write")
    arguments = parser.parse_args()
    out = arguments.out.with_suffix(".json")
    record: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {}
    record = record or {
        "facts": facts(arguments.fields),
        "blocks": blocks(arguments.fields),
        "validation": [],
    }
    law = inverse.load_prior("era5-uk-t2m-gaussian").double()
    trained = inverse.load_prior("era5-uk-t2m")
    times = [f"2019-03-{day}T{hour:02d}" for day in (22, 23, 24) for hour in (3, 15)]
    fields = [load_fields(arguments.fields, ["t2m"], f"{time}/{time}").values for time in times]
    c = case(torch.cat(fields), law, "both", **MAIN)
    known = {row["analysis"] for row in record["validation"]}
    for name, (options, members) in SETTINGS.items():
        if name in known:
            continue
        method = inverse.get_method("multimodal", **(SAMPLER | options))
        means = _means(scores(c, sampled(trained, method)(c, members)))
        record["validation"].append({"analysis": name, "members": members, **means})
        print(json.dumps(record["validation"][-1]), flush=True)
        write_json(out, record)


def blocks(path: Path) -> list[dict[str, Any]]:
    """Scores of eight blocks of three days, six hours of each."""
    fields = load_fields(path, ["t2m"], "2019-03-01/2019-03-24")
    law = inverse.load_prior("era5-uk-t2m-gaussian")
    units = {"shift": law.shift, "scale": law.scale}
    block_of_hour, rows = torch.arange(len(fields)) // 72, []
    for block in range(8):
        held_out = fields.values[block_of_hour == block]
        train = fields.values[block_of_hour != block]
        fit = fit_gaussian(train, held_out[:1], fields.grid, 400, (300.0,), (1.0,), **units)
        c = case(held_out[3::12], fit.law, "both", **MAIN)
        plain, fitted = (
            _means(scores(c, optimal_interpolation(fit.law, flag)(c, 32))) for flag in (False, True)
        )
        days = f"{3 * block + 1}-{3 * block + 3}"
        rows.append({"days": days, "as it is": plain, "fitted": fitted})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def facts(path: Path) -> dict[str, Any]:
    """Variances and log densities of held-out fields."""
    parts = [
        load_fields(path, ["t2m"], period)
        for period in (TRAIN, "2019-03-22/2019-03-24", "2019-03-25/2019-03-31")
    ]
    train, *held_out = (part.values.double().flatten(1) for part in parts)

    def harmonics(fields: Tensor) -> Tensor:
        hour = 2 * math.pi * torch.arange(len(fields), dtype=torch.float64) / 24
        waves = [f(k * hour) for k in (1, 2) for f in (torch.cos, torch.sin)]
        return torch.stack([torch.ones_like(hour), *waves], 1)

    daily, figures = torch.linalg.lstsq(harmonics(train), train).solution, {}
    for name, fields in zip(("validation", "test"), held_out, strict=True):
        anomalies = [fields - train.mean(0), fields - harmonics(fields) @ daily]
        figures[f"{name}, K2"] = [round(float(part.square().mean()), 2) for part in anomalies]
    law = inverse.load_prior("era5-uk-t2m-gaussian")
    units = {"shift": law.shift, "scale": law.scale}
    values = parts[0].values, parts[1].values
    for rank in (80, 400):
        fit = fit_gaussian(*values, parts[0].grid, rank, (1e9,), (1.0,), **units)
        figures[f"rank {rank} without a taper, nats"] = round(fit.held_out, 2)
    return figures


def _means(scores: dict[str, Any]) -> dict[str, float]:
    return {key: round(float(np.mean(scores[key])), 4) for key in KEYS}


if __name__ == "__main__":
    main()
