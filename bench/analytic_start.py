"""What the analytic start saves and costs: posterior samples started from the prior's Gaussian given y, at several levels.

    python bench/analytic_start.py --out docs/tables/analytic_start
    python bench/analytic_start.py --fit ../shared/data/bsds500/train

Each level is compared with the whole schedule and with a schedule of fewer steps that costs the same evaluations, on the
same measurements of the shipped photographs (central crops). PSNR and SSIM are those of single samples. The second form
prints the power law of photographs that the card of `photo-64` holds.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

import inverse
from inverse.io.images import input_files, read_image
from inverse.metrics.standard import METRICS
from inverse.priors.field import fit_power_law

PROBLEMS = {"deblur": {}, "super-resolution": {"factor": 4}}


def crop(image: torch.Tensor, size: int) -> torch.Tensor:
    top, left = ((n - size) // 2 for n in image.shape[-2:])
    return image[:, top : top + size, left : left + size]


def scores(
    problem: inverse.Problem, method: inverse.Method, truths: torch.Tensor, prior: inverse.Prior
) -> dict[str, float]:
    """Means over the photographs, solved as one batch."""
    result = inverse.solve(problem.posterior(truths, prior=prior), method)
    return {
        **{k: METRICS[k](result) for k in ("psnr", "ssim", "misfit")},
        "nfe": result.cost.nfe,
        "seconds": result.seconds,
    }


def table(records: list[dict]) -> str:
    lines = [
        "| problem | start | steps of the schedule | prior evaluations | PSNR (dB) | SSIM | residual chi2 |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in records:
        start = "noise" if r["start"] is None else f"Gaussian at {r['start']:g}"
        lines.append(
            f"| {r['problem']} | {start} | {r['steps']} | {r['nfe']:.0f} | {r['psnr']:.2f} | {r['ssim']:.3f} | {r['misfit']:.3g} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--fit", type=Path, help="folder of photographs: print their power law and leave"
    )
    parser.add_argument("--method", default="pigdm")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--levels", type=float, nargs="*", default=[3.0, 1.0, 0.3])
    parser.add_argument("--size", type=int, default=64, help="side of the central crop (pixels)")
    parser.add_argument("--problems", nargs="*", default=list(PROBLEMS))
    parser.add_argument("--prior", default="photo-64")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="stem of the .md and .json to write")
    arguments = parser.parse_args()
    if arguments.fit:
        photographs = [
            crop(2 * read_image(file).pixels - 1, 256) for file in input_files([arguments.fit])
        ]
        print(json.dumps(fit_power_law(photographs), indent=2))
        return

    prior, records, begun = inverse.load_prior(arguments.prior, arguments.device), [], time.time()
    for name in arguments.problems:
        problem = inverse.get_problem(name, **PROBLEMS[name])
        truths = torch.stack([crop(truth, arguments.size) for truth in problem.truths()])
        plans: list[dict] = [{"steps": arguments.steps}]
        for level in arguments.levels:
            plans += [{"steps": arguments.steps, "analytic_start": level}, {"steps": None}]
        for plan in plans:
            if plan["steps"] is None:
                plan["steps"] = round(records[-1]["nfe"])
            found = scores(problem, inverse.get_method(arguments.method, **plan), truths, prior)
            records.append(
                {
                    "problem": name,
                    "start": plan.get("analytic_start"),
                    "steps": plan["steps"],
                    **found,
                }
            )
            print(
                {k: round(v, 3) if isinstance(v, float) else v for k, v in records[-1].items()},
                flush=True,
            )
    if arguments.out:
        about = {
            k: str(v) if isinstance(v, Path) else v
            for k, v in vars(arguments).items()
            if k != "fit"
        }
        about |= {
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "minutes": round((time.time() - begun) / 60, 1),
        }
        arguments.out.with_suffix(".json").write_text(
            json.dumps({"about": about, "records": records}, indent=1) + "\n"
        )
        arguments.out.with_suffix(".md").write_text(table(records))


if __name__ == "__main__":
    main()
