"""Methods on walks with independent increments, beside the Gibbs sampler: MMSE gap and coverage.

python bench/levy.py                     print the tables
python bench/levy.py --write docs/levy   and write docs/levy.md and docs/levy.json; the reading at its end is kept
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

import inverse
from inverse.engine import versions
from inverse.priors.analytic import GaussianPrior
from inverse.registry.options import values
from inverse_problems.levy.chains import split_rhat
from inverse_problems.levy.walk import WalkPrior

INCREMENTS = ("gaussian", "laplace", "bernoulli-laplace", "student-1")
VIEWS = ("identity", "convolution", "imputation", "fourier")
METHODS = {
    "mmps": {"steps": 10},
    "dps": {},
    "diffpir": {},
    "pnp-dm": {"steps": 15, "decay": 0.7},
    "daps": {"steps": 25},
    "ddrm": {},
    "red-diff": {},
}
"""Options other than the defaults: fewer steps, so that the table takes minutes; pnp-dm goes through its levels faster to reach the last."""
DRAWS = 19
"""Samples per measurement: the interval from the least to the greatest of 19 holds the 20th with probability 0.9."""
POINTS = 64
"""Lattice points of the denoiser, half of the default for speed: within 0.7 % of sigma, root mean square, at every sigma."""
TUNING = range(900, 964)
READING = "## Reading\n"
ABOUT = """# Walks with independent increments

Made by `{command}` in {minutes:.0f} minutes of a share of one core.

x is the cumulative sum of 64 independent increments, noise is 25 dB below the median signal power, and the prior is the
exact denoiser (`problems/levy/walk.py`). {instances} walks per cell. **Gap**: 10 log10(|mean of {draws} samples - x|^2 / |posterior mean - x|^2) in
dB, the mean over walks and its standard error, where the posterior mean is that of the Gibbs sampler (closed form for
Gaussian increments); {draws} exact draws score {floor:.2f} dB in the mean. **Coverage**: how many entries of x lie between the least and the greatest
of the {draws} samples; 0.9 is right. *gibbs* is {draws} draws of the sampler itself, *l2* the best linear estimate: white Gaussian
increments, their variance the best of a grid on 64 other walks.
Options: {options}; others by default. Largest split R-hat of the Gibbs chains: {rhat:.3f}.
"""


def linear(problem: inverse.Problem, y: Tensor, variance: float) -> Tensor:
    """Posterior means (B, T) if increments were N(0, variance)."""
    t, A = torch.arange(1.0, problem.length + 1, dtype=torch.float64), problem.matrix()
    C = variance * torch.minimum(t[:, None], t)
    S = A @ C @ A.T + problem.sigma_y**2 * torch.eye(len(A), dtype=torch.float64)
    return y @ torch.linalg.solve(S, A @ C)


def best_linear(problem: inverse.Problem) -> float:
    """The variance of increments whose linear estimate has the least mean of log errors on walks of their own."""
    tuning = problem.posterior(
        torch.stack([problem.truths()[i] for i in TUNING]), seed=1, dtype=torch.float64
    )
    grid = [10 ** (k / 4) for k in range(-12, 21)]
    return min(
        grid,
        key=lambda v: float(
            (linear(problem, tuning.y, v) - tuning.truth).square().mean(1).log().mean()
        ),
    )


def score(mean: Tensor, draws: Tensor | None, best: Tensor, truth: Tensor) -> dict[str, float]:
    gap = 10 * torch.log10((mean - truth).square().mean(1) / (best - truth).square().mean(1))
    row = {"gap": float(gap.mean()), "error": float(gap.std() / math.sqrt(len(gap)))}
    if draws is not None:
        row["coverage"] = float(
            ((draws.amin(1) <= truth) & (truth <= draws.amax(1))).double().mean()
        )
    return row


def reference(
    problem: inverse.Problem, y: Tensor, chains: int, sweeps: int
) -> tuple[Tensor, Tensor, float]:
    """Posterior means (B, T), 19 draws of each posterior (B, 19, T), and the largest R-hat."""
    law, generator = problem.make_prior(), inverse.seeded("levy table")
    if isinstance(law, GaussianPrior):
        exact = [problem.exact(v) for v in y]
        return (
            torch.stack([e.mean for e in exact]),
            torch.stack([e.sample(DRAWS, generator) for e in exact]),
            1.0,
        )
    draws = problem.gibbs().run(y, generator, chains, sweeps // 2, sweeps)
    pooled = draws.flatten(1, 2)
    return (
        pooled.mean(1),
        pooled[:, torch.randperm(pooled.shape[1], generator=generator)[:DRAWS]],
        float(split_rhat(draws).max()),
    )


def cell(
    increments: str, view: str, methods: list[str], instances: int, chains: int, sweeps: int
) -> dict[str, dict]:
    """The rows of one table's column."""
    problem = inverse.get_problem("levy", increments=increments, view=view)
    prior = problem.make_prior()
    if isinstance(prior, WalkPrior):
        prior.points = POINTS
    posterior = problem.posterior(
        torch.stack(problem.truths()[:instances]), prior=prior, dtype=torch.float64
    )
    best, draws, rhat = reference(problem, posterior.y, chains, sweeps)
    rows: dict[str, dict] = {
        "*gibbs*": {**score(draws.mean(1), draws, best, posterior.truth), "rhat": rhat}
    }
    rows["*l2*"] = score(
        linear(problem, posterior.y, best_linear(problem)), None, best, posterior.truth
    )
    for name in methods:
        method = inverse.get_method(name, **METHODS.get(name, {}))
        if reason := method.unsupported(posterior):
            rows[name] = {"skipped": reason}
            continue
        try:
            result = inverse.solve(posterior, method, samples=DRAWS)
        except inverse.InverseError as error:
            rows[name] = {"skipped": str(error)}
            continue
        found = score(result.mean, result.samples, best, posterior.truth)
        rows[name] = {
            **found,
            "nfe": result.cost.nfe,
            "vjp": result.cost.vjp,
            "seconds": result.seconds,
            "options": values(method),
        }
    return rows


def entry(row: dict) -> str:
    """The two cells of a method on a law."""
    if "skipped" in row:
        return "- | -"
    return f"{row['gap']:.2f} +- {row['error']:.2f} | " + (
        f"{row['coverage']:.2f}" if "coverage" in row else ""
    )


def tables(results: dict[str, dict[str, dict]], views: list[str], increments: list[str]) -> str:
    text = ""
    for view in views:
        measured = [name for name in increments if f"{view} {name}" in results]
        columns = [results[f"{view} {name}"] for name in measured]
        text += (
            f"\n## {view}\n\n| | "
            + " | ".join(f"{name}: gap | coverage" for name in measured)
            + " |\n"
            + "|---" * (2 * len(columns) + 1)
            + "|\n"
        )
        for row in columns[0]:
            text += f"| {row} | " + " | ".join(entry(column[row]) for column in columns) + " |\n"
    return text


def write(
    arguments: argparse.Namespace, results: dict[str, dict[str, dict]], minutes: float
) -> None:
    """The page and the record of the views measured so far; the page keeps its reading."""
    command = "OMP_NUM_THREADS=1 python bench/levy.py " + shlex.join(sys.argv[1:])
    about = ABOUT.format(
        command=command,
        minutes=minutes,
        instances=arguments.instances,
        draws=DRAWS,
        floor=10 * math.log10(1 + 1 / DRAWS),
        options=", ".join(
            f"{name} {key} {value}"
            for name in arguments.methods
            for key, value in METHODS.get(name, {}).items()
        ),
        rhat=max(row["*gibbs*"]["rhat"] for row in results.values()),
    )
    page, done = (
        Path(f"{arguments.write}.md"),
        [view for view in arguments.views if f"{view} {arguments.increments[0]}" in results],
    )
    reading = page.read_text().partition(READING)[2] if page.exists() else ""
    page.write_text(
        about
        + tables(results, done, arguments.increments)
        + (f"\n{READING}{reading}" if reading else "")
    )
    Path(f"{arguments.write}.json").write_text(
        json.dumps({"command": command, "versions": versions(), "results": results}, indent=1)
        + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--instances", type=int, default=4, help="walks per cell")
    parser.add_argument("--chains", type=int, default=4, help="of the Gibbs sampler, per walk")
    parser.add_argument(
        "--sweeps", type=int, default=300, help="kept, after half as many that are not"
    )
    parser.add_argument("--increments", nargs="+", default=list(INCREMENTS))
    parser.add_argument("--views", nargs="+", default=list(VIEWS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--write", help="write this path with .md and .json added")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    results: dict[str, dict[str, dict]] = {}
    began = time.perf_counter()
    for view in arguments.views:
        for name in arguments.increments:
            results[f"{view} {name}"] = cell(
                name,
                view,
                arguments.methods,
                arguments.instances,
                arguments.chains,
                arguments.sweeps,
            )
            seconds = {
                key: round(row["seconds"], 1)
                for key, row in results[f"{view} {name}"].items()
                if "seconds" in row
            }
            if arguments.write:
                write(arguments, results, (time.perf_counter() - began) / 60)
            print(
                f"{view} {name}: {time.perf_counter() - began:.0f} s so far, {seconds}", flush=True
            )
        print(tables(results, [view], arguments.increments), flush=True)


if __name__ == "__main__":
    main()
