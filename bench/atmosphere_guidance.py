"""Measure the error of each guidance against the exact posterior under a Gaussian field.

    python bench/atmosphere_guidance.py --out results/atmosphere-guidance.json

The measurements are a coarse field of factor 8 and 25 stations of the shipped hours, with 0.5 K of
noise. The prior is the climatological Gaussian field. `shift` is the root mean square over points
of (mean - exact mean) in exact standard deviations; an exact sampler with as many members has
`floor`. `spread` is the mean ratio of variances, and `saturated` the fraction of the gradient at
its clamp. null means that the method diverged or has no clamp.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from options import new_parser
from output import write_json

import inverse
from inverse.measurement.operators import clone

KEYS = ("shift", "spread", "saturated")
PRIOR = "era5-uk-t2m-gaussian"
METHODS = {
    "mmps": {},
    "pigdm": {"guidance": "pigdm"},
    "sda, gamma 1e-3": {"guidance": "sda", "gamma": "1e-3"},
    "sda, gamma 1e-2": {"guidance": "sda"},
    "sda, gamma 1e-1": {"guidance": "sda", "gamma": "1e-1"},
    "sda, gamma 1": {"guidance": "sda", "gamma": "1"},
    "dps": {"guidance": "dps"},
    "published": {"preset": "published"},
    "published, clamp 1": {"preset": "published", "clamp": 1.0},
}


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="file to write (.json)")
    parser.add_argument("--hours", type=int, default=2, help="number of hours")
    parser.add_argument("--members", type=int, default=64, help="samples per hour")
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    problem, law = inverse.get_problem("atmosphere", factor=8, count=25), inverse.load_prior(PRIOR)
    operator = clone(problem.operator((1, 33, 49)), "cpu", torch.float64)
    unit_fields = torch.eye(1617, dtype=torch.float64).reshape(-1, 1, 33, 49)
    matrix = operator.A(unit_fields).flatten(1).T
    posteriors = [
        problem.posterior(truth, prior=law, first_image=i)
        for i, truth in enumerate(problem.truths()[: arguments.hours])
    ]
    law64 = inverse.load_prior(PRIOR).double()
    exact = [
        law64.given(matrix, p.noise.sigma.flatten(), p.y.flatten().double()) for p in posteriors
    ]
    rows = []
    for name, options in METHODS.items():
        method = inverse.get_method("multimodal", steps=arguments.steps, **options)
        figures = []
        for posterior, answer in zip(posteriors, exact, strict=True):
            try:
                result = inverse.solve(posterior, method, arguments.members)
            except inverse.InverseError:
                figures.append((math.inf, math.inf, math.nan))
                continue
            x = law64.encode(result.samples[0].double()).flatten(1)
            variance = answer.spectral(unit_fields, lambda v: v).flatten(1).diagonal()
            shift = ((x.mean(0) - answer.mean.flatten()).square() / variance).mean().sqrt()
            trace = result.provenance.get("trace") or [{"saturated": math.nan}]
            spread = (x.var(0) / variance).mean()
            saturated = sum(step["saturated"] for step in trace) / len(trace)
            figures.append((float(shift), float(spread), saturated))
        means = [sum(column) / len(figures) for column in zip(*figures, strict=True)]
        rounded = [round(mean, 4) if math.isfinite(mean) else None for mean in means]
        rows.append({"guidance": name, **dict(zip(KEYS, rounded, strict=True))})
        print(json.dumps(rows[-1]), flush=True)
    about = {
        "hours": arguments.hours,
        "members": arguments.members,
        "steps": arguments.steps,
        "floor": arguments.members**-0.5,
        "prior": PRIOR,
    }
    write_json(arguments.out, {**about, "rows": rows})


if __name__ == "__main__":
    main()
