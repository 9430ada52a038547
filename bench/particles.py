"""Compare AFDPS with dps, diffpir and red-diff at equal prior evaluations; measure its memory.

    python bench/particles.py --images "$INVERSE_DATA/bsds500/test" --out docs/particles
    python bench/particles.py --memory 16 256 1024

Every solve spends `--budget` prior evaluations on a photograph: AFDPS on 4, 16 or 64 particles (a
step of `ode` costs two evaluations), each other method on 16 samples. Scores of particles are
weighted. CRPS and the coverage of central 50 % intervals use as many equally weighted draws as
there are particles. The JSON file is written after every solve, and solves that it holds are not
repeated; --count can therefore be raised later. Figures are means with 95 % intervals over the
photographs.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import torch
from images import photographs, psnr
from options import new_parser
from output import in_results, insert_tables, markdown_table, write_json
from photo_restoration import PROBLEMS
from timing import timed

import inverse
from inverse.metrics.ensemble import fair_crps, interval_coverage
from inverse.metrics.shipped import METRICS

PARTICLES = (4, 16, 64)
OTHERS = ("dps", "diffpir", "red-diff")
COLUMNS = {
    "psnr": "PSNR of the mean (dB)",
    "psnr_one": "of one sample (dB)",
    "ssim": "SSIM",
    "misfit": "residual chi2",
    "coverage": "coverage of 50 %",
    "crps": "CRPS",
}


def methods_by_label(budget: int) -> dict[str, tuple[inverse.Method, int]]:
    """Method and number of samples by label, each of `budget` prior evaluations."""
    methods = {}
    for variant, cost in (("sde", 1), ("ode", 2)):
        for n in PARTICLES:
            options = {"variant": variant, "anneal": "noise-aware", "particles": n}
            options["steps"] = budget // (n * cost)
            method = inverse.get_method("afdps", **options)
            methods[f"afdps {variant}, {n} particles"] = (method, n)
    for name in OTHERS:
        methods[f"{name}, 16 samples"] = (inverse.get_method(name, steps=budget // 16), 16)
    return methods


def measure(
    problem: inverse.Problem,
    method: inverse.Method,
    samples: int,
    truth: torch.Tensor,
    prior: inverse.Prior,
    index: int,
) -> dict:
    """Solve one photograph; record scores, cost and, for particles, the trace."""
    posterior = problem.posterior(truth, prior=prior, seed=index)
    result = inverse.solve(posterior, method, samples, seed=0, first_image=index)
    drawn = result.samples if result.log_weights is None else result.draw(samples)
    record = {name: METRICS[name](result) for name in ("psnr", "ssim", "misfit")}
    record["psnr_one"] = float(psnr(drawn.clamp(0, 1), truth).mean())
    record["crps"] = float(fair_crps(drawn, result.truth))
    record["coverage"] = float(interval_coverage(drawn, result.truth, 0.5))
    if trace := result.provenance.get("trace"):
        record["trace"] = {"sigma": [step["sigma"] for step in trace]}
        for key in ("ess", "survivors"):
            record["trace"][key] = [round(float(step[key][0]), 4) for step in trace]
    return record | {
        "photograph": index,
        "evaluations": result.cost.prior_rows,
        "seconds": result.seconds,
    }


def mean(records: list[dict], key: str) -> float:
    return statistics.fmean(r[key] for r in records)


def entry(records: list[dict], key: str) -> str:
    """Mean and, for several photographs, the half width of its interval."""
    digits = 2 if "psnr" in key else 4 if key == "crps" else 3
    if len(records) == 1:
        return f"{mean(records, key):.{digits}f}"
    half_width = 1.96 * statistics.stdev(r[key] for r in records) / len(records) ** 0.5
    return f"{mean(records, key):.{digits}f} ± {half_width:.{digits}f}"


def final(records: list[dict], key: str) -> str:
    """Mean of the last entry of a trace."""
    if "trace" not in records[0]:
        return ""
    return f"{sum(r['trace'][key][-1] for r in records) / len(records):.1f}"


def table(results: dict[str, dict[str, list[dict]]]) -> str:
    heads = ["problem", "method", *COLUMNS.values(), "prior evaluations"]
    heads += ["ESS at the end", "ancestors at the end"]
    rows = []
    for problem, methods in results.items():
        for label, records in methods.items():
            scores = [entry(records, key) for key in COLUMNS]
            evaluations = f"{mean(records, 'evaluations'):.0f}"
            last = [final(records, "ess"), final(records, "survivors")]
            rows.append([problem, label, *scores, evaluations, *last])
    return markdown_table(heads, rows) + "\n"


def plot(results: dict[str, dict[str, list[dict]]], path: Path) -> None:
    """Plot ESS and surviving ancestors over the noise level, with a column for each problem."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        2, len(results), figsize=(4 * len(results), 5), sharex=True, sharey="row", squeeze=False
    )
    for column, (problem, methods) in zip(axes.T, results.items(), strict=True):
        column[0].set_title(problem)
        for label, records in methods.items():
            if "trace" not in records[0] or "64" in label:
                continue
            trace, particles = records[0]["trace"], int(label.split(", ")[1].split()[0])
            sigma = [max(s, 1e-3) for s in trace["sigma"]]
            style = "-" if "sde" in label else "--"
            for axis, key in zip(column, ("ess", "survivors"), strict=True):
                shares = [value / particles for value in trace[key]]
                axis.plot(sigma, shares, label=label, linestyle=style)
        column[1].set_xlabel("noise level sigma (0 drawn at 0.001)")
        column[1].set_xscale("log")
        column[1].invert_xaxis()
    axes[0, 0].set_ylabel("ESS / particles")
    axes[1, 0].set_ylabel("surviving ancestors / particles")
    axes[1, 0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def print_memory(particles: int) -> None:
    """Print this process's peak memory (GiB) before and after two AFDPS steps, and their seconds.

    The problem is to deblur 64 x 64 pixels.
    """
    problem = inverse.get_problem("deblur")
    posterior = problem.posterior(torch.rand(3, 64, 64, generator=inverse.seeded("memory")))
    method = inverse.get_method("afdps", variant="sde", steps=2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    solve = partial(inverse.solve, posterior, method, samples=particles)
    _, seconds = timed(solve, time.perf_counter)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"| {particles} | {before:.2f} | {after:.2f} | {seconds:.0f} |", flush=True)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--images", type=Path, help="folder of held-out photographs")
    parser.add_argument("--count", type=int, default=1, help="number of photographs")
    parser.add_argument("--size", type=int, default=64, help="side of the central crop (pixels)")
    parser.add_argument(
        "--budget", type=int, default=384, help="prior evaluations per photograph and method"
    )
    parser.add_argument("--sigma-y", type=float, default=0.02)
    parser.add_argument("--problems", nargs="*", default=list(PROBLEMS))
    parser.add_argument(
        "--memory",
        type=int,
        nargs="*",
        help="measure memory for these numbers of particles instead",
    )
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("particles"),
        help="page (without .md) for the table; the plot is written to images/ beside it",
    )
    arguments = parser.parse_args()
    if arguments.memory:
        for n in arguments.memory:
            command = [sys.executable, __file__, "--memory", str(n), "--in-process"]
            print_memory(n) if arguments.in_process else subprocess.run(command, check=True)
        return
    about = {
        "size": arguments.size,
        "sigma_y": arguments.sigma_y,
        "budget": arguments.budget,
        "prior": "photo-64",
    }
    about |= {"machine": platform.machine(), "torch": torch.__version__}
    file = in_results(arguments.out.with_suffix(".json"))
    earlier = json.loads(file.read_text()) if file.exists() else {}
    results = earlier["records"] if earlier.get("about") == about else {}
    prior = inverse.load_prior("photo-64")
    truths = photographs(arguments.images, arguments.count, arguments.size)
    for index, truth in enumerate(truths):
        for label in arguments.problems:
            name, settings = PROBLEMS[label]
            problem = inverse.get_problem(name, sigma_y=arguments.sigma_y, **settings)
            for method_label, (method, samples) in methods_by_label(arguments.budget).items():
                records = results.setdefault(label, {}).setdefault(method_label, [])
                if len(records) <= index:
                    records.append(measure(problem, method, samples, truth, prior, index))
                    write_json(file, {"about": about, "records": results})
            print(f"photograph {index}, {label} done", flush=True)
    insert_tables(arguments.out.with_suffix(".md"), table(results))
    plot(results, arguments.out.parent / "images" / f"{arguments.out.stem}.png")


if __name__ == "__main__":
    main()
