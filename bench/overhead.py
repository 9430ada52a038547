"""Microseconds a step that the engine adds to a method when the prior costs nothing, and the import times of the command.

    python bench/overhead.py --out docs/overhead

The prior returns its input, the operator is the identity (`denoise`), the image is 3 x 16 x 16, so that what is timed is
the machinery: counting, seeding, the method's own arithmetic. Each figure is the median over repeats, in one process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

import inverse


def microseconds_a_step(name: str, steps: int, repeats: int) -> float:
    """Median over repeats of the method's seconds divided by its steps."""
    posterior = inverse.get_problem("denoise").posterior(torch.full((3, 16, 16), 0.5), prior=inverse.FlatPrior((3, None, None), shift=0.5, scale=0.5))
    method = inverse.get_method(name, steps=steps)
    inverse.solve(posterior, method)
    return statistics.median(inverse.solve(posterior, method).seconds / steps * 1e6 for _ in range(repeats))


def seconds_of(command: list[str], repeats: int) -> float:
    """Median wall time of a command, after one warm-up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--methods", nargs="*", default=["red-diff", "dps", "diffpir"])
    parser.add_argument("--out", type=Path, help="stem of the .md and .json to write")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    steps = {name: microseconds_a_step(name, arguments.steps, arguments.repeats) for name in arguments.methods}
    command = [sys.executable, "-m", "inverse"]
    seconds = {
        "inverse --help": seconds_of([*command, "--help"], arguments.repeats),
        "inverse --version": seconds_of([*command, "--version"], arguments.repeats),
        "import torch": seconds_of([sys.executable, "-c", "import torch"], arguments.repeats),
        "inverse methods": seconds_of([*command, "methods"], arguments.repeats),
    }
    lines = ["| method, free prior | microseconds a step |", "|---|---|", *[f"| {k} | {v:.0f} |" for k, v in steps.items()], ""]
    lines += ["| command | seconds |", "|---|---|", *[f"| `{k}` | {v:.2f} |" for k, v in seconds.items()]]
    print("\n".join(lines))
    if arguments.out:
        record = {"microseconds_a_step": steps, "seconds": seconds, "torch": torch.__version__, "threads": 1}
        arguments.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
        arguments.out.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
