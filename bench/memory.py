"""Measure the peak resident memory of solves of several image sizes, each in its own process.

    python bench/memory.py --sides 256 512 2048 --methods red-diff dps --out results/tables/memory

The image is a shipped photograph, enlarged. Few steps suffice, because every step needs the same
memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from typing import Any

from options import add_out, new_parser
from output import markdown_table, write_table


def measure(side: int, method: str, steps: int) -> dict[str, float]:
    """Solve in this process and report its peak memory before and after."""
    from torch.nn import functional as F

    import inverse

    problem = inverse.get_problem("deblur")
    large = F.interpolate(problem.truths()[0][None], size=(side, side), mode="bicubic")
    posterior = problem.posterior(large.clamp(0, 1)[0], prior=inverse.load_prior("photo-64"))
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    inverse.solve(posterior, inverse.get_method(method, steps=steps))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"side": side, "method": method, "steps": steps, "base_gib": base, "peak_gib": peak}


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument(
        "--sides", type=int, nargs="*", default=[256, 512, 2048], help="image sides (pixels)"
    )
    parser.add_argument("--methods", nargs="*", default=["red-diff", "dps"])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    add_out(parser)
    arguments = parser.parse_args()

    if arguments.worker:
        print(json.dumps(measure(arguments.sides[0], arguments.methods[0], arguments.steps)))
        return
    rows = []
    for side in arguments.sides:
        for method in arguments.methods:
            rows.append(measure_in_process(side, method, arguments.steps))
            print(rows[-1], flush=True)
    if arguments.out:
        write_table(arguments.out, table(rows), rows)


def measure_in_process(side: int, method: str, steps: int) -> dict[str, Any]:
    options = ["--sides", str(side), "--methods", method, "--steps", str(steps)]
    command = [sys.executable, __file__, "--worker", *options]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def table(rows: list[dict[str, Any]]) -> str:
    cells = [
        [
            f"{row['side']}x{row['side']}",
            row["method"],
            f"{row['base_gib']:.2f}",
            f"{row['peak_gib']:.2f}",
        ]
        for row in rows
    ]
    return markdown_table(["image", "method", "before the solve (GiB)", "peak (GiB)"], cells)


if __name__ == "__main__":
    main()
