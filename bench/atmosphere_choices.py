"""What was chosen for the analyses of `atmosphere.py`, and why, on days 1 to 24 of the month alone. Writes OUT.json.

    python bench/atmosphere_choices.py --fields "$INVERSE_DATA/atmosphere/era5_t2m_uk_2019-03.nc" --out results/atmosphere-choices

`blocks`: optimal interpolation of each three days under the Gaussian fitted to the other twenty-one, as it is and with the amplitude fitted
to each hour. `validation`: analyses of six hours of days 22 to 24 with the trained prior. `facts`: variance (K2) of held-out fields around
the training mean and around it with two harmonics of the day; log density (nats a point) of the validation fields under sample covariances
of several ranks without a taper. What is in the file already is not measured again.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from atmosphere import MAIN, SAMPLER, TRAIN, case, optimal_interpolation, sampled
from atmosphere_scores import scores
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
"""Options and members. The noise level is that of the analytic start, in standard deviations of the fields."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fields", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    out = arguments.out.with_suffix(".json")
    found: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {}
    found = found or {
        "facts": facts(arguments.fields),
        "blocks": blocks(arguments.fields),
        "validation": [],
    }
    law, trained = (
        inverse.load_prior("era5-uk-t2m-gaussian").double(),
        inverse.load_prior("era5-uk-t2m"),
    )
    times = [f"2019-03-{day}T{hour:02d}" for day in (22, 23, 24) for hour in (3, 15)]
    c = case(
        torch.cat(
            [load_fields(arguments.fields, ["t2m"], f"{time}/{time}").values for time in times]
        ),
        law,
        "both",
        **MAIN,
    )
    known = {row["analysis"] for row in found["validation"]}
    for name, (options, members) in SETTINGS.items():
        if name in known:
            continue
        method = inverse.get_method("multimodal", **(SAMPLER | options))
        found["validation"].append(
            {"analysis": name, "members": members}
            | _mean(scores(c, sampled(trained, method)(c, members)))
        )
        print(json.dumps(found["validation"][-1]), flush=True)
        out.write_text(json.dumps(found, indent=1) + "\n")


def blocks(path: Path) -> list[dict[str, Any]]:
    """Eight blocks, six hours of each."""
    fields, law = (
        load_fields(path, ["t2m"], "2019-03-01/2019-03-24"),
        inverse.load_prior("era5-uk-t2m-gaussian"),
    )
    of, rows = torch.arange(len(fields)) // 72, []
    for block in range(8):
        out, rest = fields.values[of == block], fields.values[of != block]
        own = fit_gaussian(
            rest, out[:1], fields.grid, 400, (300.0,), (1.0,), shift=law.shift, scale=law.scale
        ).law
        c = case(out[3::12], own, "both", **MAIN)
        plain, fitted = (
            _mean(scores(c, optimal_interpolation(own, flag)(c, 32))) for flag in (False, True)
        )
        rows.append(
            {"days": f"{3 * block + 1}-{3 * block + 3}", "as it is": plain, "fitted": fitted}
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def facts(path: Path) -> dict[str, Any]:
    parts = [
        load_fields(path, ["t2m"], period)
        for period in (TRAIN, "2019-03-22/2019-03-24", "2019-03-25/2019-03-31")
    ]
    train, *held_out = (part.values.double().flatten(1) for part in parts)

    def harmonics(fields: Tensor) -> Tensor:
        hour = 2 * math.pi * torch.arange(len(fields), dtype=torch.float64) / 24
        return torch.stack(
            [torch.ones_like(hour), *(f(k * hour) for k in (1, 2) for f in (torch.cos, torch.sin))],
            1,
        )

    daily, found = torch.linalg.lstsq(harmonics(train), train).solution, {}
    for name, fields in zip(("validation", "test"), held_out, strict=True):
        around = [fields - train.mean(0), fields - harmonics(fields) @ daily]
        found[f"{name}, K2"] = [round(float(anomaly.square().mean()), 2) for anomaly in around]
    law = inverse.load_prior("era5-uk-t2m-gaussian")
    for rank in (80, 400):
        plain = fit_gaussian(
            parts[0].values,
            parts[1].values,
            parts[0].grid,
            rank,
            (1e9,),
            (1.0,),
            shift=law.shift,
            scale=law.scale,
        )
        found[f"rank {rank} without a taper, nats"] = round(plain.held_out, 2)
    return found


def _mean(found: dict[str, Any]) -> dict[str, float]:
    return {key: round(float(np.mean(found[key])), 4) for key in KEYS}


if __name__ == "__main__":
    main()
