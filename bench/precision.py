"""What bf16 costs in PSNR: the same solves with the prior in float32 and in bfloat16, on crops of the shipped photographs.

    python bench/precision.py --size 64 --count 4 --steps 15 --out docs/tables/precision
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

import inverse
from inverse.arena.bank import square
from inverse.files import write_text
from inverse.metrics import METRICS

PROBLEMS = {"deblur": {}, "super-resolution": {"factor": 4}, "inpainting": {"mask": "box"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="side of the central crop (pixels)")
    parser.add_argument("--count", type=int, default=4, help="photographs")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--methods", nargs="*", default=["diffpir", "red-diff", "dps"])
    parser.add_argument("--out", type=Path, help="stem of the .md and .json to write")
    arguments = parser.parse_args()

    prior, rows = inverse.load_prior("photo-64"), []
    for name, options in PROBLEMS.items():
        problem = inverse.get_problem(name, **options)
        truths = torch.stack([tile for truth in problem.truths()[: arguments.count] if (tile := square(truth, arguments.size, 0)) is not None])
        for method in arguments.methods:
            chosen, scores = inverse.get_method(method, steps=arguments.steps), {}
            for half in (None, "bf16"):
                posteriors = (problem.posterior(truth, prior=prior, execution=inverse.Execution(autocast=half)) for truth in truths)
                scores[half] = [METRICS["psnr"](inverse.solve(posterior, chosen)) for posterior in posteriors]
            change = [b - a for a, b in zip(scores[None], scores["bf16"], strict=True)]
            mean, worst = sum(change) / len(change), max(change, key=abs)
            rows.append({"problem": name, "method": method, "float32": sum(scores[None]) / len(change), "change": mean, "largest": worst})
            print(rows[-1], flush=True)
    lines = ["| problem | method | PSNR in float32 (dB) | change in bf16 | largest of a photograph |", "|---|---|---|---|---|"]
    lines += [f"| {r['problem']} | {r['method']} | {r['float32']:.2f} | {r['change']:+.3f} | {r['largest']:+.3f} |" for r in rows]
    if arguments.out:
        about = {"size": arguments.size, "photographs": arguments.count, "steps": arguments.steps, "torch": torch.__version__}
        write_text(arguments.out.with_suffix(".json"), json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
        write_text(arguments.out.with_suffix(".md"), "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
