r"""Compare methods on simulated emission tomography of the shipped slice.

    python bench/pet.py --page docs/pet.md

The weight of total variation is the best of three for this slice, which favours it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from options import new_parser
from output import command_line, in_results, insert_tables, markdown_table, write_json
from timing import timed

import inverse
from inverse.metrics.shipped import METRICS

METHODS: list[tuple[str, str, dict[str, Any]]] = [
    ("fbp", "gaussian", {"window": "hann"}),
    ("osem", "poisson", {}),
    ("tv", "gaussian", {"lambda": 300.0}),
    ("tv", "gaussian", {"lambda": 1000.0}),
    ("tv", "gaussian", {"lambda": 3000.0}),
    ("dpir", "gaussian", {}),
]


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--page", type=Path, required=True, help="page that receives the table")
    arguments = parser.parse_args()

    records = []
    for name, likelihood, options in METHODS:
        problem = inverse.get_problem("pet", likelihood=likelihood)
        posterior = problem.posterior(0, prior=problem.resolve_prior("mri-96"))
        method = inverse.get_method(name, **options)
        result, seconds = timed(partial(inverse.solve, posterior, method))
        scores = {key: METRICS[key](result) for key in ("psnr", "ssim", "misfit")}
        cost = {"nfe": result.cost.nfe, "seconds": seconds}
        records.append({"method": name, "options": options, **scores, **cost})
        print(records[-1], flush=True)
    best = max((r for r in records if r["method"] == "tv"), key=lambda r: r["psnr"])
    rows = [
        [
            f"{r['method']}, lambda {r['options']['lambda']:g}" if r is best else r["method"],
            f"{r['psnr']:.2f}",
            f"{r['ssim']:.3f}",
            "-" if r["misfit"] is None else f"{r['misfit']:.2f}",
            f"{r['nfe']:.0f}",
            f"{r['seconds']:.0f}",
        ]
        for r in records
        if r["method"] != "tv" or r is best
    ]
    heads = ["method", "PSNR (dB)", "SSIM", "residual chi2", "prior evaluations", "seconds"]
    about = {"command": command_line(), "torch": torch.__version__, "prior": "mri-96"}
    write_json(in_results(arguments.page).with_suffix(".json"), {"about": about, "pet": records})
    insert_tables(arguments.page, markdown_table(heads, rows))


if __name__ == "__main__":
    main()
