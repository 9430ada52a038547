r"""Compare methods on accelerated MRI of the held-out slices that bench/mri_slices.py writes.

    python bench/mri.py --images out/mri/held-out.npz --count 6 --every 50 \
        --out results/tables/mri-scores

Every method receives the same measurement of each slice and draws one sample. Options are defaults,
except for the steps of DDRM.
"""

from __future__ import annotations

from pathlib import Path

import torch
from images import held_out
from options import add_out, new_parser
from output import markdown_table, write_table
from photo_restoration import solve_each, standard_error, summary

import inverse

METHODS = {"pseudo-inverse": {}, "tv": {}, "ddrm": {"steps": 20}, "red-diff": {}, "diffpir": {}}
SETTINGS = [("random", 4), ("equispaced", 4), ("random", 8)]


def table(results: dict[str, dict[str, list[dict]]]) -> str:
    heads = ["lines, acceleration", "method", "PSNR (dB)", "SSIM", "residual chi2"]
    rows = []
    for label, methods in results.items():
        for name, records in methods.items():
            mean = summary(records)
            psnr = f"{mean['psnr']:.2f} ± {standard_error(records):.2f}"
            scores = [f"{mean['ssim']:.3f}", f"{mean['misfit']:.3f}", f"{mean['nfe']:.0f}"]
            rows.append([label, name, psnr, *scores])
    return markdown_table([*heads, "prior evaluations"], rows)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--images", type=Path, required=True, help=".npz of held-out slices")
    parser.add_argument("--count", type=int, default=6, help="number of slices")
    parser.add_argument("--every", type=int, default=50, help="step between the slices taken")
    parser.add_argument("--sigma-y", type=float, default=0.01)
    add_out(parser, required=True)
    arguments = parser.parse_args()

    truths = held_out(arguments.images, arguments.count, 96, 1, arguments.every)
    prior = inverse.load_prior("mri-96")
    results: dict[str, dict[str, list[dict]]] = {}
    for mask, acceleration in SETTINGS:
        problem = inverse.get_problem(
            "mri", mask=mask, acceleration=acceleration, sigma_y=arguments.sigma_y
        )
        for name, options in METHODS.items():
            label, method = f"{mask}, {acceleration}", inverse.get_method(name, **options)
            records = solve_each(problem, method, truths, prior)
            results.setdefault(label, {})[name] = records
            print(label, name, summary(records), flush=True)
    about = {
        "slices": len(truths),
        "every": arguments.every,
        "sigma_y": arguments.sigma_y,
        "prior": "mri-96",
        "torch": torch.__version__,
    }
    write_table(arguments.out, table(results), {"about": about, "records": results})


if __name__ == "__main__":
    main()
