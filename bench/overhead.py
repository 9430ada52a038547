"""Measure the overhead of every method per step, of deepinv per call, and of starting the command.

    python bench/overhead.py --write docs/overhead

The prior is x / (1 + sigma^2), three operations. The operator is the identity (`denoise`), or
`inpainting` for methods that need it. The image has 3 x 16 x 16 values. Each solve draws one
sample, from 16 particles in particle methods. What remains is the overhead: counting, seeding,
and the arithmetic of the method. The time per step is the difference in processor time between
`--steps` and twice as many steps, divided by `--steps`; each time is the least of interleaved
repeats.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from options import new_parser
from output import in_results, insert_tables, markdown_table, write_json
from timing import least_seconds, timed

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
    """Posteriors under the free prior, in order of preference."""
    prior = Unit((3, None, None), shift=0.5, scale=0.5)
    return [
        inverse.get_problem(name).posterior(torch.full(SHAPE, 0.5), prior=prior)
        for name in ("denoise", "inpainting")
    ]


def option_names(method: str) -> set[str]:
    return {option.name for option in options(registry().find("inverse_methods", method))}


def method_of(name: str, steps: int) -> inverse.Method:
    particles = {"particles": 16} if "particles" in option_names(name) else {}
    return inverse.get_method(name, steps=steps, **particles)


def runnable(names: list[str]) -> tuple[dict[str, inverse.Posterior], dict[str, str]]:
    """The posterior on which each method runs, and the reasons why other methods are excluded."""
    supported, excluded = {}, {}
    for name in names:
        if "steps" not in option_names(name):
            excluded[name] = f"{name} has no steps"
            continue
        reasons = [method_of(name, 10).unsupported(posterior) for posterior in posteriors()]
        if None in reasons:
            supported[name] = posteriors()[reasons.index(None)]
        else:
            excluded[name] = str(reasons[-1])
    return supported, excluded


def measure_methods(
    names: list[str], steps: int, repeats: int
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Microseconds, NFE and VJP per step by method, and reasons for excluded methods."""
    supported, excluded = runnable(names)
    least: dict[tuple[str, int], float] = {}
    costs = {}
    for repeat in range(repeats + 1):
        for name, posterior in supported.items():
            for n in (steps, 2 * steps):
                solve = partial(inverse.solve, posterior, method_of(name, n))
                result, seconds = timed(solve)
                costs[name, n] = result.cost
                if repeat:  # the first is a warm-up
                    least[name, n] = min(seconds, least.get((name, n), seconds))
    rows = {}
    for name in supported:
        more, fewer = costs[name, 2 * steps], costs[name, steps]
        rows[name] = {
            "microseconds": (least[name, 2 * steps] - least[name, steps]) / steps * 1e6,
            "nfe": (more.nfe - fewer.nfe) / steps,
            "vjp": (more.vjp - fewer.vjp) / steps,
        }
    return rows, excluded


def measure_calls(repeats: int, calls: int = 1000) -> dict[str, float]:
    """Microseconds of a call to an operator of deepinv, of `inverse` and of torch alone."""
    x, mask = torch.rand(1, *SHAPE), (torch.rand(1, *SHAPE) > 0.5).float()
    theirs = deepinv("physics").Inpainting(SHAPE, mask=mask)
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
        name: least_seconds(partial(many, call), repeats) / calls * 1e6
        for name, call in rows.items()
    }


def seconds_of(command: list[str], repeats: int) -> float:
    """Processor seconds of a command, the least of the repeats after one warm-up."""
    times = []
    for _ in range(repeats + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times[1:])


def measure_commands(repeats: int) -> dict[str, float]:
    command = [sys.executable, "-m", "inverse"]
    return {
        "inverse --help": seconds_of([*command, "--help"], repeats),
        "inverse --version": seconds_of([*command, "--version"], repeats),
        "import torch": seconds_of([sys.executable, "-c", "import torch"], repeats),
        "inverse methods": seconds_of([*command, "methods"], repeats),
    }


def tables(
    rows: dict[str, dict[str, float]],
    excluded: dict[str, str],
    calls: dict[str, float],
    seconds: dict[str, float],
) -> str:
    methods = sorted(rows.items(), key=lambda item: item[1]["microseconds"])
    method_rows = [
        [name, f"{row['microseconds']:.0f}", f"{row['nfe']:.0f}", f"{row['vjp']:.0f}"]
        for name, row in methods
    ]
    heads = ["method, free prior", "microseconds a step", "NFE a step", "VJP a step"]
    call_rows = [[name, f"{value:.1f}"] for name, value in calls.items()]
    command_rows = [[f"`{name}`", f"{value:.2f}"] for name, value in seconds.items()]
    return "\n\n".join(
        [
            markdown_table(heads, method_rows),
            f"Excluded: {'; '.join(excluded.values())}.",
            markdown_table(["call", "microseconds"], call_rows),
            markdown_table(["command", "processor seconds"], command_rows),
        ]
    )


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--methods",
        nargs="*",
        default=sorted(registry().table("inverse_methods")),
        help="registered names (default: all)",
    )
    parser.add_argument(
        "--write",
        type=Path,
        help="page into which to insert the tables; writes its record",
    )
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    rows, excluded = measure_methods(arguments.methods, arguments.steps, arguments.repeats)
    calls, seconds = measure_calls(arguments.repeats), measure_commands(arguments.repeats)
    text = tables(rows, excluded, calls, seconds)
    print(text)
    if arguments.write:
        insert_tables(arguments.write.with_suffix(".md"), text)
        record = {
            "methods": rows,
            "calls": calls,
            "seconds": seconds,
            "versions": versions(),
            "threads": 1,
        }
        write_json(in_results(arguments.write.with_suffix(".json")), record)


if __name__ == "__main__":
    main()
