r"""Compare methods on radial and spiral MRI of the held-out slices that bench/mri_slices.py writes.

    python bench/mri_off_grid.py --images out/mri/held-out.npz --out results/tables/mri-off-grid

A quarter of the spokes or arms, one coil. The weight of total variation is chosen from four on
another slice.
"""

from __future__ import annotations

from pathlib import Path

import torch
from images import held_out
from options import add_out, new_parser
from output import command_line, markdown_table, write_table
from photo_restoration import solve_each, standard_error, summary

import inverse

METHODS = {"gridding": {}, "sense": {}, "tv": {}, "dpir": {}}
WEIGHTS = (1e-3, 3e-3, 1e-2, 3e-2)
"""Of total variation, chosen on a slice that does not count."""


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--images", type=Path, required=True, help=".npz of held-out slices")
    parser.add_argument("--count", type=int, default=4, help="number of slices")
    add_out(parser, required=True)
    arguments = parser.parse_args()

    every = 60
    slices = held_out(arguments.images, arguments.count + 1, 96, 1, every)
    chosen_on, truths = slices[:1], slices[1:]
    prior = inverse.load_prior("mri-96")
    rows, results = [], {}
    for trajectory in ("radial", "spiral"):
        problem = inverse.get_problem("mri", trajectory=trajectory, acceleration=4)
        best = max(
            WEIGHTS,
            key=lambda w: summary(
                solve_each(problem, inverse.get_method("tv", **{"lambda": w}), chosen_on, prior)
            )["psnr"],
        )
        for name, options in METHODS.items():
            options = {"lambda": best} if name == "tv" else options
            records = solve_each(problem, inverse.get_method(name, **options), truths, prior)
            results[f"{trajectory} {name}"] = records
            mean = summary(records)
            psnr = f"{mean['psnr']:.2f} ± {standard_error(records):.2f}"
            label = f"tv, lambda {best:g}" if name == "tv" else name
            scores = [f"{mean['ssim']:.3f}", f"{mean['misfit']:.2f}", f"{mean['nfe']:.0f}"]
            rows.append([trajectory, label, psnr, *scores])
            print(rows[-1], flush=True)
    heads = ["trajectory", "method", "PSNR (dB)", "SSIM", "residual chi2", "prior evaluations"]
    about = {"command": command_line(), "torch": torch.__version__, "slices": len(truths)}
    write_table(arguments.out, markdown_table(heads, rows), {"about": about, "records": results})


if __name__ == "__main__":
    main()
