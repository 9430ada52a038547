r"""Compare methods on simulated fluorescence pictures and one stack.

    python bench/microscopy.py --page docs/microscopy.md

Five pictures of synthetic filaments, each in bright (200 photo-electrons) and dim (20) light. The
number of Richardson-Lucy steps and the weight of total variation are the best of three for these
pictures, which favours both.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from options import new_parser
from output import command_line, in_results, insert_tables, markdown_table, write_json

import inverse
from inverse_problems.microscopy.specimen import filaments

LIGHT = {"bright": 200.0, "dim": 20.0}
SPECIMENS, SIDE, PLANES = 5, 96, 16
METHODS: list[tuple[str, str, dict[str, Any]]] = [
    *[("richardson-lucy", "poisson", {"steps": n}) for n in (10, 40, 160)],
    ("tikhonov", "gaussian", {}),
    ("wiener", "gaussian", {}),
    *[("tv", "gaussian", {"lambda": weight}) for weight in (30.0, 100.0, 300.0)],
    ("dpir", "gaussian", {}),
]
STACK = [method for method in METHODS if method[0] in ("richardson-lucy", "wiener")]


def score(scale: float, size: tuple[int, ...], seed: int, case: tuple[str, str, Any]) -> float:
    """PSNR (dB) of a method on the specimen of a seed."""
    name, likelihood, options = case
    depth = size[0] if len(size) == 3 else None
    problem = inverse.get_problem(
        "microscopy", likelihood=likelihood, scale=scale, background=5.0, depth=depth
    )
    truth = filaments(size, seed)[None].float()
    posterior = problem.posterior(truth, seed=seed)
    result = inverse.solve(posterior, inverse.get_method(name, **options), seed=seed)
    return float(-10 * (result.mean[0].clamp(0, 1) - truth).square().mean().log10())


def blurred(scale: float, size: tuple[int, ...], seed: int) -> float:
    """PSNR (dB) of the measurement itself."""
    depth = size[0] if len(size) == 3 else None
    problem = inverse.get_problem("microscopy", scale=scale, background=5.0, depth=depth)
    truth = filaments(size, seed)[None].float()
    y = problem.posterior(truth, seed=seed).y[0] / scale
    return float(-10 * (y.clamp(0, 1) - truth).square().mean().log10())


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--page", type=Path, required=True, help="page that receives the table")
    arguments = parser.parse_args()
    cases = {
        **{k: (v, (SIDE, SIDE)) for k, v in LIGHT.items()},
        "stack": (5000.0, (PLANES, 64, 64)),
    }
    scores: dict[str, dict[str, float]] = defaultdict(dict)
    for column, (scale, size) in cases.items():
        seeds = range(SPECIMENS if len(size) == 2 else 1)
        mean = sum(blurred(scale, size, seed) for seed in seeds) / len(seeds)
        scores["the measurement"][column] = round(mean, 2)
        for case in METHODS if len(size) == 2 else STACK:
            values = [score(scale, size, seed, case) for seed in seeds]
            label = " ".join([case[0], *(f"{k}={v:g}" for k, v in case[2].items())])
            scores[label][column] = round(sum(values) / len(values), 2)
            print(column, label, scores[label][column], flush=True)
    rows = [
        [label, *(f"{found[c]:.2f}" if c in found else "-" for c in cases)]
        for label, found in scores.items()
    ]
    heads = ["PSNR (dB)", "bright picture", "dim picture", "stack"]
    about = {"command": command_line(), "torch": torch.__version__, "specimens": SPECIMENS}
    write_json(in_results(arguments.page).with_suffix(".json"), {"about": about, "scores": scores})
    insert_tables(arguments.page, markdown_table(heads, rows))


if __name__ == "__main__":
    main()
