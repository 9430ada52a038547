"""Microseconds a step that every method costs when the prior is free, what deepinv adds to a call, and what the command takes to start.

    python bench/overhead.py --write docs/overhead

The prior is x / (1 + sigma^2), three operations, the operator the identity (`denoise`; for methods that need it `inpainting`), the image 3 x 16 x 16.
There is one sample, drawn from 16 particles where a method moves particles. What is timed is the machinery: counting, seeding, the method's own arithmetic. A
figure is the processor time of `--steps` more steps over their number, the least of the repeats, which take turns.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from pages import put

import inverse
from inverse.deepinv_reconstructors import deepinv
from inverse.engine import versions
from inverse.registry.discovery import registry
from inverse.registry.options import options

SHAPE = (3, 16, 16)


class Unit(inverse.Prior):
    """The denoiser of N(0, I)."""

    def forward(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return x / (1 + torch.as_tensor(sigma).reshape(-1, 1, 1, 1) ** 2)


def posteriors() -> list[inverse.Posterior]:
    """Of the free prior; a method runs on the first that it can."""
    prior = Unit((3, None, None), shift=0.5, scale=0.5)
    return [
        inverse.get_problem(name).posterior(torch.full(SHAPE, 0.5), prior=prior)
        for name in ("denoise", "inpainting")
    ]


def processor_time(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def stepped(name: str, steps: int) -> inverse.Method:
    known = {o.name for o in options(registry().find("inverse_methods", name))}
    return inverse.get_method(
        name, **({"steps": steps} | ({"particles": 16} if "particles" in known else {}))
    )


def contenders(names: list[str]) -> tuple[dict[str, inverse.Posterior], dict[str, str]]:
    """Where each method runs, and why the others do not."""
    found, left = {}, {}
    for name in names:
        if "steps" not in {o.name for o in options(registry().find("inverse_methods", name))}:
            left[name] = f"{name} has no steps"
            continue
        reasons = [stepped(name, 10).unsupported(posterior) for posterior in posteriors()]
        if None in reasons:
            found[name] = posteriors()[reasons.index(None)]
        else:
            left[name] = str(reasons[-1])
    return found, left


def of_methods(
    names: list[str], steps: int, repeats: int
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Microseconds a step and an evaluation of the prior, by method, and why some have none."""
    found, left = contenders(names)
    least: dict[tuple[str, int], float] = {}
    cost = {}
    for repeat in range(repeats + 1):
        for name, posterior in found.items():
            for n in (steps, 2 * steps):
                method = stepped(name, n)
                seconds = processor_time(
                    lambda p=posterior, m=method: cost.__setitem__(
                        (m.name, m.steps), inverse.solve(p, m).cost
                    )
                )
                if repeat:  # the first is to warm up
                    least[name, n] = min(seconds, least.get((name, n), seconds))
    rows = {}
    for name in found:
        micro = (least[name, 2 * steps] - least[name, steps]) / steps * 1e6
        calls = {
            k: (getattr(cost[name, 2 * steps], k) - getattr(cost[name, steps], k)) / steps
            for k in ("nfe", "vjp")
        }
        rows[name] = {"microseconds": micro, **calls}
    return rows, left


def of_calls(repeats: int, calls: int = 1000) -> dict[str, float]:
    """Microseconds of a call to A by deepinv's classes, by ours and by torch alone, on one image."""
    physics, x, mask = (
        deepinv("physics"),
        torch.rand(1, *SHAPE),
        (torch.rand(1, *SHAPE) > 0.5).float(),
    )
    theirs = physics.Inpainting(SHAPE, mask=mask)
    ours = inverse.measurement.operators.operator(lambda x: x * mask, shape=SHAPE)
    posterior, level = posteriors()[1], torch.tensor(1.0)
    rows = {
        "x * mask, torch alone": lambda: x * mask,
        "`A` of deepinv's Inpainting": lambda: theirs.A(x),
        "`A_adjoint` of deepinv's Inpainting": lambda: theirs.A_adjoint(x),
        "`A` of a function made an operator by `@inverse.operator`": lambda: ours.A(x),
        "`posterior.A`, counted, of the problem `inpainting` (a deepinv operator)": lambda: (
            posterior.A(x)
        ),
        "`posterior.denoise`, counted, of the free prior": lambda: posterior.denoise(x, level),
    }

    def many(call: Callable[[], object]) -> None:
        for _ in range(calls):
            call()

    return {
        name: min(processor_time(lambda call=call: many(call)) for _ in range(repeats))
        / calls
        * 1e6
        for name, call in rows.items()
    }


def seconds_of(command: list[str], repeats: int) -> float:
    """Least processor time of a command, after one warm-up."""
    times = []
    for _ in range(repeats + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times[1:])


def of_commands(repeats: int) -> dict[str, float]:
    command = [sys.executable, "-m", "inverse"]
    return {
        "inverse --help": seconds_of([*command, "--help"], repeats),
        "inverse --version": seconds_of([*command, "--version"], repeats),
        "import torch": seconds_of([sys.executable, "-c", "import torch"], repeats),
        "inverse methods": seconds_of([*command, "methods"], repeats),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--methods",
        nargs="*",
        default=sorted(registry().table("inverse_methods")),
        help="registered names; default all",
    )
    parser.add_argument(
        "--write",
        type=Path,
        help="put the tables into this path with .md added, and write it with .json added",
    )
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    rows, left = of_methods(arguments.methods, arguments.steps, arguments.repeats)
    calls, seconds = of_calls(arguments.repeats), of_commands(arguments.repeats)
    lines = [
        "| method, free prior | microseconds a step | NFE a step | VJP a step |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {k} | {v['microseconds']:.0f} | {v['nfe']:.0f} | {v['vjp']:.0f} |"
        for k, v in sorted(rows.items(), key=lambda kv: kv[1]["microseconds"])
    ]
    lines += ["", "Not here: " + "; ".join(left.values()) + ".", ""]
    lines += [
        "| call | microseconds |",
        "|---|---|",
        *[f"| {k} | {v:.1f} |" for k, v in calls.items()],
        "",
    ]
    lines += [
        "| command | processor seconds |",
        "|---|---|",
        *[f"| `{k}` | {v:.2f} |" for k, v in seconds.items()],
    ]
    print("\n".join(lines))
    if arguments.write:
        put(arguments.write.with_suffix(".md"), "\n".join(lines))
        record = {
            "methods": rows,
            "calls": calls,
            "seconds": seconds,
            "versions": versions(),
            "threads": 1,
        }
        arguments.write.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
