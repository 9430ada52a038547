r"""Measure the mean PSNR of a method over a grid of its options, on tuning photographs.

    python bench/option_grid.py --images "$INVERSE_DATA/bsds500/val" --method red-diff \
        --grid lambda=0.1,0.25,0.5 lr=0.05,0.1 --sigma-y 0.02 0.05

No result is reported on these photographs. The script served to choose the defaults that depend on
sigma_y; docs/methods.md quotes the results.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import torch
from images import photographs
from options import new_parser
from photo_restoration import MORE, PROBLEMS

import inverse
from inverse.metrics.fidelity import psnr


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        help="folder of tuning photographs, on which no result is reported",
    )
    parser.add_argument("--count", type=int, default=4, help="number of photographs")
    parser.add_argument("--size", type=int, default=96, help="side of the central crops (pixels)")
    parser.add_argument("--method", required=True)
    parser.add_argument(
        "--grid", nargs="*", default=[], help="values to try, as option=value,value,..."
    )
    parser.add_argument("--problems", nargs="*", default=list(PROBLEMS))
    parser.add_argument("--sigma-y", type=float, nargs="*", default=[0.02])
    parser.add_argument("--prior", default="photo-64")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="run the prior in bf16")
    parser.add_argument("--out", type=Path, help="file of JSON lines to append to")
    arguments = parser.parse_args()

    prior = inverse.load_prior(arguments.prior, arguments.device)
    execution = inverse.Execution(autocast="bf16" if arguments.bf16 else None)
    truths = torch.stack(photographs(arguments.images, arguments.count, arguments.size))
    axes = [
        [(name, value) for value in values.split(",")]
        for name, values in (pair.split("=", 1) for pair in arguments.grid)
    ]
    for sigma_y in arguments.sigma_y:
        for choice in itertools.product(*axes):
            scores = {}
            for label in arguments.problems:
                name, settings = (PROBLEMS | MORE)[label]
                problem = inverse.get_problem(name, sigma_y=sigma_y, **settings)
                method = inverse.get_method(arguments.method, **dict(choice))
                posterior = problem.posterior(truths, prior=prior, execution=execution)
                result = inverse.solve(posterior, method)
                scores[label] = round(psnr(result) or 0.0, 3)
            row = {
                "method": arguments.method,
                "sigma_y": sigma_y,
                **dict(choice),
                **scores,
                "mean": round(sum(scores.values()) / len(scores), 3),
            }
            print(json.dumps(row), flush=True)
            if arguments.out:
                with arguments.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
