"""Compare methods on accelerated MRI of held-out slices (see bench/mri_slices.py). Writes a Markdown table and JSON records.

    python bench/mri.py --images out/mri/held-out.npz --count 6 --every 50 --out docs/tables/mri-scores

Every method sees the same measurement of every slice; one sample, default options but for the steps that are named.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from denoise import held_out
from photo import cell, standard_error, summary

import inverse

METHODS = {"pseudo-inverse": {}, "tv": {}, "ddrm": {"steps": 20}, "red-diff": {}, "diffpir": {}}
SETTINGS = [("random", 4), ("equispaced", 4), ("random", 8)]


def table(results: dict[str, dict[str, list[dict]]]) -> str:
    rows = [
        "| lines, acceleration | method | PSNR (dB) | SSIM | residual chi2 | prior evaluations |",
        "|---|---|---|---|---|---|",
    ]
    for label, methods in results.items():
        for name, records in methods.items():
            m = summary(records)
            rows.append(
                f"| {label} | {name} | {m['psnr']:.2f} ± {standard_error(records):.2f} | {m['ssim']:.3f} | {m['misfit']:.3f} | {m['nfe']:.0f} |"
            )
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--sigma-y", type=float, default=0.01)
    parser.add_argument(
        "--out", type=Path, required=True, help="stem of the .md and .json to write"
    )
    arguments = parser.parse_args()

    truths, prior = (
        held_out(arguments.images, arguments.count, 96, 1, arguments.every),
        inverse.load_prior("mri-96"),
    )
    results: dict[str, dict[str, list[dict]]] = {}
    for mask, acceleration in SETTINGS:
        problem = inverse.get_problem(
            "mri", mask=mask, acceleration=acceleration, sigma_y=arguments.sigma_y
        )
        for name, options in METHODS.items():
            label = f"{mask}, {acceleration}"
            results.setdefault(label, {})[name] = cell(
                problem, inverse.get_method(name, **options), truths, prior
            )
            print(label, name, summary(results[label][name]), flush=True)
    arguments.out.with_suffix(".md").write_text(table(results))
    about = {
        "slices": len(truths),
        "every": arguments.every,
        "sigma_y": arguments.sigma_y,
        "prior": "mri-96",
        "torch": torch.__version__,
    }
    arguments.out.with_suffix(".json").write_text(
        json.dumps({"about": about, "records": results}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
