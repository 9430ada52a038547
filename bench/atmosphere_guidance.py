"""How far each guidance is from the exact posterior of a coarse field and stations, where the prior is the climatological Gaussian field.

    python bench/atmosphere_guidance.py --out results/atmosphere-guidance.json

Shipped hours, factor 8, 25 stations, 0.5 K of noise. `shift` is the root mean square over the points of (mean - exact mean) in units of the
exact standard deviation, of which an exact sampler of as many members shows `floor`; `spread` the mean ratio of variances; `saturated` the
fraction of the gradient at its clamp. null: the method diverged, or there is no clamp.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch

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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--hours", type=int, default=2)
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    problem, law = inverse.get_problem("atmosphere", factor=8, count=25), inverse.load_prior(PRIOR)
    matrix = (
        clone(problem.operator((1, 33, 49)), "cpu", torch.float64)
        .A(torch.eye(1617, dtype=torch.float64).reshape(-1, 1, 33, 49))
        .flatten(1)
        .T
    )
    posteriors = [
        problem.posterior(truth, prior=law, first_image=i)
        for i, truth in enumerate(problem.truths()[: arguments.hours])
    ]
    wide = inverse.load_prior(PRIOR).double()
    exact = [
        wide.given(matrix, p.noise.sigma.flatten(), p.y.flatten().double()) for p in posteriors
    ]
    rows = []
    for name, options in METHODS.items():
        method, found = inverse.get_method("multimodal", steps=arguments.steps, **options), []
        for posterior, answer in zip(posteriors, exact, strict=True):
            try:
                result = inverse.solve(posterior, method, arguments.members)
            except inverse.InverseError:
                found.append((math.inf, math.inf, math.nan))
                continue
            x = wide.encode(result.samples[0].double()).flatten(1)
            variance = (
                answer.spectral(
                    torch.eye(1617, dtype=torch.float64).reshape(-1, 1, 33, 49), lambda v: v
                )
                .flatten(1)
                .diagonal()
            )
            shift = ((x.mean(0) - answer.mean.flatten()).square() / variance).mean().sqrt()
            trace = result.provenance.get("trace") or [{"saturated": math.nan}]
            found.append(
                (
                    float(shift),
                    float((x.var(0) / variance).mean()),
                    sum(t["saturated"] for t in trace) / len(trace),
                )
            )
        shift, spread, saturated = (sum(column) / len(found) for column in zip(*found, strict=True))
        rows.append(
            {"guidance": name}
            | {
                k: round(v, 4) if math.isfinite(v) else None
                for k, v in zip(KEYS, (shift, spread, saturated), strict=True)
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    about = {
        "hours": arguments.hours,
        "members": arguments.members,
        "steps": arguments.steps,
        "floor": arguments.members**-0.5,
        "prior": PRIOR,
    }
    arguments.out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
