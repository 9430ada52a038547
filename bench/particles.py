"""AFDPS against dps, diffpir and red-diff at equal prior evaluations: deblurring, super-resolution x4, box inpainting; and its memory.

    python bench/particles.py --images ../shared/data/bsds500/test --out docs/particles
    python bench/particles.py --memory 16 256 1024

Every cell spends `--budget` prior evaluations on a photograph: 4, 16 or 64 particles with as many steps as that leaves (a step of
`ode` costs two evaluations), or 16 samples of the others. Scores of clouds are weighted; CRPS and the coverage of central 50 % intervals
are those of equally weighted draws, as many as particles. The JSON is written after every cell, and cells it holds are not run again; every cell of a
photograph comes before the next photograph, so that more of them can be added (`--count`). Figures are means, with 95 % intervals over the photographs.
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
from pathlib import Path

import torch
from pages import put
from photo import PROBLEMS, photographs

import inverse
from inverse.metrics.ensemble import fair_crps, interval_coverage
from inverse.metrics.standard import METRICS

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


def contenders(budget: int) -> dict[str, tuple[inverse.Method, int]]:
    """Label -> method and samples, each of `budget` prior evaluations."""
    found = {}
    for variant, cost in (("sde", 1), ("ode", 2)):
        for n in PARTICLES:
            found[f"afdps {variant}, {n} particles"] = (
                inverse.get_method(
                    "afdps", variant=variant, particles=n, steps=budget // (n * cost)
                ),
                n,
            )
    return found | {
        f"{name}, 16 samples": (inverse.get_method(name, steps=budget // 16), 16) for name in OTHERS
    }


def cell(
    problem: inverse.Problem,
    method: inverse.Method,
    samples: int,
    truth: torch.Tensor,
    prior: inverse.Prior,
    index: int,
) -> dict:
    """One record: scores, cost and, for a cloud, its trace."""
    posterior = problem.posterior(truth, prior=prior, seed=index)
    result = inverse.solve(posterior, method, samples, seed=0, first_image=index)
    drawn = result.samples if result.log_weights is None else result.draw(samples)
    record = {k: METRICS[k](result) for k in ("psnr", "ssim", "misfit")}
    record |= {
        "psnr_one": float(
            -10 * (drawn.clamp(0, 1) - truth).square().flatten(2).mean(2).log10().mean()
        )
    }
    record |= {
        "crps": float(fair_crps(drawn, result.truth)),
        "coverage": float(interval_coverage(drawn, result.truth, 0.5)),
    }
    trace = result.provenance.get("trace")
    if trace:
        record["trace"] = {
            k: [t[k] if k == "sigma" else round(float(t[k][0]), 4) for t in trace]
            for k in ("sigma", "ess", "survivors")
        }
    return record | {
        "photograph": index,
        "evaluations": result.cost.prior_rows,
        "seconds": result.seconds,
    }


def mean(records: list[dict], key: str) -> float:
    return statistics.fmean(r[key] for r in records)


def entry(records: list[dict], key: str) -> str:
    """Mean and, of more than one photograph, the half width of its interval."""
    digits = 2 if "psnr" in key else 4 if key == "crps" else 3
    half = (
        1.96 * statistics.stdev(r[key] for r in records) / len(records) ** 0.5
        if len(records) > 1
        else None
    )
    return f"{mean(records, key):.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def table(results: dict[str, dict[str, list[dict]]]) -> str:
    lines = [
        f"| problem | method | {' | '.join(COLUMNS.values())} | prior evaluations | ESS at the end | ancestors at the end |",
        "|---" * (5 + len(COLUMNS)) + "|",
    ]
    for problem, methods in results.items():
        for label, records in methods.items():
            end = [
                f"{sum(r['trace'][k][-1] for r in records) / len(records):.1f}"
                if "trace" in records[0]
                else ""
                for k in ("ess", "survivors")
            ]
            scores = " | ".join(entry(records, k) for k in COLUMNS)
            lines.append(
                f"| {problem} | {label} | {scores} | {mean(records, 'evaluations'):.0f} | {' | '.join(end)} |"
            )
    return "\n".join(lines) + "\n"


def plot(results: dict[str, dict[str, list[dict]]], path: Path) -> None:
    """ESS and surviving ancestors over the noise level, a column for each problem."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        2, len(results), figsize=(4 * len(results), 5), sharex=True, sharey="row", squeeze=False
    )
    for column, (problem, methods) in zip(axes.T, results.items(), strict=True):
        column[0].set_title(problem)
        for label, records in methods.items():
            if "trace" not in records[0] or "64" in label:
                continue
            trace, n = records[0]["trace"], int(label.split(", ")[1].split()[0])
            sigma = [max(s, 1e-3) for s in trace["sigma"]]
            for axis, key in zip(column, ("ess", "survivors"), strict=True):
                axis.plot(
                    sigma,
                    [v / n for v in trace[key]],
                    label=label,
                    linestyle="-" if "sde" in label else "--",
                )
        column[1].set_xlabel("noise level sigma (0 drawn at 0.001)")
        column[1].set_xscale("log")
        column[1].invert_xaxis()
    axes[0, 0].set_ylabel("ESS / particles")
    axes[1, 0].set_ylabel("surviving ancestors / particles")
    axes[1, 0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def memory(particles: int) -> None:
    """Peak resident memory of two AFDPS steps on a 64 x 64 deblurring problem, printed in GiB; run in a process of its own."""
    problem = inverse.get_problem("deblur")
    posterior = problem.posterior(torch.rand(3, 64, 64, generator=inverse.seeded("memory")))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, time.perf_counter()
    inverse.solve(posterior, inverse.get_method("afdps", variant="sde", steps=2), samples=particles)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"| {particles} | {before:.2f} | {after:.2f} | {time.perf_counter() - start:.0f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="folder of held-out photographs")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--size", type=int, default=64, help="side of the central crop (pixels)")
    parser.add_argument("--budget", type=int, default=384, help="prior evaluations of a cell")
    parser.add_argument("--sigma-y", type=float, default=0.02)
    parser.add_argument("--problems", nargs="*", default=list(PROBLEMS))
    parser.add_argument(
        "--memory",
        type=int,
        nargs="*",
        help="particles; measure memory instead, each in its own process",
    )
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("particles"),
        help="stem of the .json, and of the .md that the table is put into; the plot goes to images/ beside them",
    )
    arguments = parser.parse_args()
    if arguments.memory:
        for n in arguments.memory:
            command = [sys.executable, __file__, "--memory", str(n), "--in-process"]
            memory(n) if arguments.in_process else subprocess.run(command, check=True)
        return
    about = {
        "size": arguments.size,
        "sigma_y": arguments.sigma_y,
        "budget": arguments.budget,
        "prior": "photo-64",
    }
    about |= {"machine": platform.machine(), "torch": torch.__version__}
    file = arguments.out.with_suffix(".json")
    kept = json.loads(file.read_text()) if file.exists() else {}
    results = kept["records"] if kept.get("about") == about else {}
    prior, truths = (
        inverse.load_prior("photo-64"),
        photographs(arguments.images, arguments.count, arguments.size),
    )
    for index, truth in enumerate(truths):
        for label in arguments.problems:
            name, settings = PROBLEMS[label]
            problem = inverse.get_problem(name, sigma_y=arguments.sigma_y, **settings)
            for who, (method, samples) in contenders(arguments.budget).items():
                records = results.setdefault(label, {}).setdefault(who, [])
                if len(records) <= index:
                    records.append(cell(problem, method, samples, truth, prior, index))
                    file.write_text(
                        json.dumps({"about": about, "records": results}, indent=1) + "\n"
                    )
            print(f"photograph {index}, {label} done", flush=True)
    put(arguments.out.with_suffix(".md"), table(results))
    plot(results, arguments.out.parent / "images" / f"{arguments.out.stem}.png")


if __name__ == "__main__":
    main()
