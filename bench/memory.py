"""Peak resident memory of a solve against the side of the image; each solve runs in a process of its own.

    python bench/memory.py --sides 256 512 2048 --methods red-diff dps --out docs/tables/memory

The image is a shipped photograph enlarged to the side; few steps suffice, since every step needs the same memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path


def one(side: int, method: str, steps: int) -> dict[str, float]:
    """Solve here and report this process's peak."""
    from torch.nn import functional as F

    import inverse

    problem = inverse.get_problem("deblur")
    truth = F.interpolate(problem.truths()[0][None], size=(side, side), mode="bicubic").clamp(0, 1)[
        0
    ]
    prior = inverse.load_prior("photo-64")
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    inverse.solve(problem.posterior(truth, prior=prior), inverse.get_method(method, steps=steps))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"side": side, "method": method, "steps": steps, "base_gib": base, "peak_gib": peak}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sides", type=int, nargs="*", default=[256, 512, 2048])
    parser.add_argument("--methods", nargs="*", default=["red-diff", "dps"])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="stem of the .md and .json to write")
    arguments = parser.parse_args()

    if arguments.worker:
        print(json.dumps(one(arguments.sides[0], arguments.methods[0], arguments.steps)))
        return
    rows = []
    for side in arguments.sides:
        for method in arguments.methods:
            command = [
                sys.executable,
                __file__,
                "--worker",
                "--sides",
                str(side),
                "--methods",
                method,
                "--steps",
                str(arguments.steps),
            ]
            rows.append(
                json.loads(
                    subprocess.run(
                        command, check=True, capture_output=True, text=True
                    ).stdout.splitlines()[-1]
                )
            )
            print(rows[-1], flush=True)
    if arguments.out:
        lines = ["| image | method | before the solve (GiB) | peak (GiB) |", "|---|---|---|---|"]
        lines += [
            f"| {r['side']}x{r['side']} | {r['method']} | {r['base_gib']:.2f} | {r['peak_gib']:.2f} |"
            for r in rows
        ]
        arguments.out.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
        arguments.out.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
