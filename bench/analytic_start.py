"""Measure the savings and the cost of the analytic start at several noise levels.

The analytic start draws from the prior's Gaussian given y instead of from noise.

    python bench/analytic_start.py --out results/tables/analytic_start
    python bench/analytic_start.py --fit "$INVERSE_DATA/bsds500/train"

Each level is compared with the full schedule and with a shorter schedule of equal cost, on the
same measurements of the shipped photographs (central crops). PSNR and SSIM are those of single
samples. With --fit, the script prints the power law of photographs stored on the card of
`photo-64`.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from images import centre_crop
from options import add_out, new_parser
from output import markdown_table, write_table

import inverse
from inverse.io.images import input_files, read_image
from inverse.metrics.shipped import METRICS
from inverse.priors.field import fit_power_law
from inverse.registry.discovery import with_settings

PROBLEMS = {"deblur": {}, "super-resolution": {"factor": 4}}


def scores(
    problem: inverse.Problem, method: inverse.Method, truths: torch.Tensor, prior: inverse.Prior
) -> dict[str, float]:
    """Mean metrics and cost over the photographs, solved as one batch."""
    result = inverse.solve(problem.posterior(truths, prior=prior), method)
    return {
        **{k: METRICS[k](result) for k in ("psnr", "ssim", "misfit")},
        "nfe": result.cost.nfe,
        "seconds": result.seconds,
    }


def table(records: list[dict]) -> str:
    heads = ["problem", "start", "steps of the schedule", "prior evaluations"]
    heads += ["PSNR (dB)", "SSIM", "residual chi2"]
    rows = []
    for r in records:
        start = "noise" if r["start"] is None else f"Gaussian at {r['start']:g}"
        scores = [f"{r['psnr']:.2f}", f"{r['ssim']:.3f}", f"{r['misfit']:.3g}"]
        rows.append([r["problem"], start, str(r["steps"]), f"{r['nfe']:.0f}", *scores])
    return markdown_table(heads, rows) + "\n"


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument(
        "--fit", type=Path, help="folder of photographs whose power law to print (then exit)"
    )
    parser.add_argument("--method", default="pigdm:step=score")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--levels", type=float, nargs="*", default=[3.0, 1.0, 0.3])
    parser.add_argument("--size", type=int, default=64, help="side of the central crop (pixels)")
    parser.add_argument("--problems", nargs="*", default=list(PROBLEMS))
    parser.add_argument("--prior", default="photo-64")
    parser.add_argument("--device", default="cpu")
    add_out(parser)
    arguments = parser.parse_args()
    if arguments.fit:
        photographs = [
            centre_crop(2 * read_image(file).pixels - 1, 256)
            for file in input_files([arguments.fit])
        ]
        print(json.dumps(fit_power_law(photographs), indent=2))
        return

    prior = inverse.load_prior(arguments.prior, arguments.device)
    records, started_at = [], time.time()
    for name in arguments.problems:
        problem = inverse.get_problem(name, **PROBLEMS[name])
        truths = torch.stack([centre_crop(truth, arguments.size) for truth in problem.truths()])
        plans: list[dict] = [{"steps": arguments.steps}]
        for level in arguments.levels:
            plans += [{"steps": arguments.steps, "analytic_start": level}, {"steps": None}]
        for plan in plans:
            if plan["steps"] is None:
                plan["steps"] = round(records[-1]["nfe"])
            method = with_settings(arguments.method, **plan)
            record = {
                "problem": name,
                "start": plan.get("analytic_start"),
                "steps": plan["steps"],
                **scores(problem, method, truths, prior),
            }
            records.append(record)
            rounded = {k: round(v, 3) if isinstance(v, float) else v for k, v in record.items()}
            print(rounded, flush=True)
    if arguments.out:
        about = {name: value for name, value in vars(arguments).items() if name != "fit"}
        about |= {
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "minutes": round((time.time() - started_at) / 60, 1),
        }
        write_table(arguments.out, table(records), {"about": about, "records": records})


if __name__ == "__main__":
    main()
