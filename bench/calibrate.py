"""Mean PSNR of a method over a grid of its options, on photographs that no result is reported on.

    python bench/calibrate.py --images ../shared/data/bsds500/val --method red-diff --grid lambda=0.1,0.25,0.5 lr=0.05,0.1 --sigma-y 0.02 0.05

The defaults that depend on sigma_y were chosen with it; docs/methods.md quotes the outcome.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import torch
from photo import PROBLEMS, photographs

import inverse
from inverse.metrics.standard import psnr


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        help="folder of tuning photographs, disjoint from the reported ones",
    )
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--method", required=True)
    parser.add_argument("--grid", nargs="*", default=[], help="option=value,value,...")
    parser.add_argument("--problems", nargs="*", default=list(PROBLEMS))
    parser.add_argument("--sigma-y", type=float, nargs="*", default=[0.02])
    parser.add_argument("--prior", default="photo-64")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="JSON lines to append to")
    arguments = parser.parse_args()

    prior = inverse.load_prior(arguments.prior, arguments.device)
    truths = torch.stack(photographs(arguments.images, arguments.count, arguments.size))
    axes = [
        [(name, value) for value in values.split(",")]
        for name, values in (pair.split("=", 1) for pair in arguments.grid)
    ]
    for sigma_y in arguments.sigma_y:
        for choice in itertools.product(*axes):
            scores = {}
            for label in arguments.problems:
                name, settings = PROBLEMS[label]
                posterior = inverse.get_problem(name, sigma_y=sigma_y, **settings).posterior(
                    truths, prior=prior
                )
                scores[label] = round(
                    psnr(
                        inverse.solve(
                            posterior, inverse.get_method(arguments.method, **dict(choice))
                        )
                    )
                    or 0.0,
                    3,
                )
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
