"""Compare methods with the Gibbs sampler on walks with independent increments.

    python bench/levy.py --write docs/levy

Prints the tables. With --write, the script writes docs/levy.md and results/levy.json; the section
"Reading" of the page is kept.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from options import new_parser
from output import command_line, in_results, write_json
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
"""Options other than the defaults: fewer steps, for speed.

pnp-dm decreases its noise level faster, so that it reaches the last level.
"""
DRAWS = 19
"""Samples per measurement: the range of 19 draws contains a 20th with probability 0.9."""
POINTS = 64
"""Lattice points of the denoiser, half of the default for speed.

The root mean square error of the denoiser is at most 0.7 % of sigma, at every sigma.
"""
TUNING = range(900, 964)
READING = "## Reading\n"
ABOUT = """# Walks with independent increments

This page compares methods with a Gibbs sampler on walks with Gaussian, sparse or heavy-tailed
increments, for users of non-Gaussian priors.

Written by `{command}` in {minutes:.0f} minutes of a share of one core.

x is the cumulative sum of 64 independent increments. The noise is 25 dB below the median signal
power, and the prior is the exact denoiser (`problems/levy/walk.py`) with {points} lattice points,
half of its default. Each cell has {instances} walks. **Gap** is
10 log10(|mean of {draws} samples - x|^2 / |posterior mean - x|^2) in dB: the mean over walks and
its standard error. The posterior mean is that of the Gibbs sampler (in closed form for Gaussian
increments); {draws} exact draws score {floor:.2f} dB on average. **Coverage** is the share of the
entries of x between the least and the greatest of the {draws} samples; 0.9 is correct. *gibbs* is
{draws} draws of the Gibbs sampler. *l2* is the best linear estimate: white Gaussian increments,
with the variance that is best of a grid on 64 other walks. Options other than the defaults:
{options}. Largest split R-hat of the Gibbs chains: {rhat:.3f}.
"""


def linear(problem: inverse.Problem, y: Tensor, variance: float) -> Tensor:
    """Posterior means (B, T) of measurements y under increments N(0, variance)."""
    t, A = torch.arange(1.0, problem.length + 1, dtype=torch.float64), problem.matrix()
    C = variance * torch.minimum(t[:, None], t)
    S = A @ C @ A.T + problem.sigma_y**2 * torch.eye(len(A), dtype=torch.float64)
    return y @ torch.linalg.solve(S, A @ C)


def best_linear(problem: inverse.Problem) -> float:
    """Variance of increments with the least mean log error of `linear` on 64 other walks."""
    tuning = problem.posterior(
        torch.stack([problem.truths()[i] for i in TUNING]), seed=1, dtype=torch.float64
    )

    def mean_log_error(variance: float) -> float:
        error = linear(problem, tuning.y, variance) - tuning.truth
        return float(error.square().mean(1).log().mean())

    return min((10 ** (k / 4) for k in range(-12, 21)), key=mean_log_error)


def score(mean: Tensor, draws: Tensor | None, best: Tensor, truth: Tensor) -> dict[str, float]:
    """MMSE gap (dB) with its standard error, and coverage of the range of the draws.

    Args:
        mean: (B, T), of a method.
        draws: (B, n, T), of a method; None for a point estimate.
        best: (B, T), the posterior mean.
        truth: (B, T).
    """
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
    """Posterior means (B, T), 19 draws (B, 19, T) of each posterior, and the largest R-hat."""
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
    chosen = torch.randperm(pooled.shape[1], generator=generator)[:DRAWS]
    return pooled.mean(1), pooled[:, chosen], float(split_rhat(draws).max())


def measure(
    increments: str, view: str, methods: list[str], instances: int, chains: int, sweeps: int
) -> dict[str, dict]:
    """Scores of every method for one law of increments and one view."""
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
        rows[name] = {
            **score(result.mean, result.samples, best, posterior.truth),
            "nfe": result.cost.nfe,
            "vjp": result.cost.vjp,
            "seconds": result.seconds,
            "options": values(method),
        }
    return rows


def entry(row: dict) -> str:
    """The two cells of a method for one law of increments: gap and coverage."""
    if "skipped" in row:
        return "- | -"
    coverage = f"{row['coverage']:.2f}" if "coverage" in row else ""
    return f"{row['gap']:.2f} +- {row['error']:.2f} | {coverage}"


def tables(results: dict[str, dict[str, dict]], views: list[str], increments: list[str]) -> str:
    text = ""
    for view in views:
        names = [name for name in increments if f"{view} {name}" in results]
        columns = [results[f"{view} {name}"] for name in names]
        heads = " | ".join(f"{name}: gap | coverage" for name in names)
        text += f"\n## {view}\n\n| | {heads} |\n" + "|---" * (2 * len(columns) + 1) + "|\n"
        for row in columns[0]:
            text += f"| {row} | " + " | ".join(entry(column[row]) for column in columns) + " |\n"
    return text


def write(
    arguments: argparse.Namespace, results: dict[str, dict[str, dict]], minutes: float
) -> None:
    """Write the page and the record of the views measured so far; keep the page's reading."""
    command = f"OMP_NUM_THREADS=1 {command_line()}"
    about = ABOUT.format(
        command=command,
        minutes=minutes,
        instances=arguments.instances,
        draws=DRAWS,
        points=POINTS,
        floor=10 * math.log10(1 + 1 / DRAWS),
        options=", ".join(
            f"{name} {key} {value}"
            for name in arguments.methods
            for key, value in METHODS.get(name, {}).items()
        ),
        rhat=max(row["*gibbs*"]["rhat"] for row in results.values()),
    )
    page = Path(f"{arguments.write}.md")
    done = [view for view in arguments.views if f"{view} {arguments.increments[0]}" in results]
    reading = page.read_text().partition(READING)[2] if page.exists() else ""
    page.write_text(
        about
        + tables(results, done, arguments.increments)
        + (f"\n{READING}{reading}" if reading else "")
    )
    record = {"command": command, "versions": versions(), "results": results}
    write_json(in_results(Path(f"{arguments.write}.json")), record)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--instances", type=int, default=4, help="walks per law and view")
    parser.add_argument(
        "--chains", type=int, default=4, help="chains of the Gibbs sampler per walk"
    )
    parser.add_argument(
        "--sweeps", type=int, default=300, help="sweeps kept, after half as many of burn-in"
    )
    parser.add_argument("--increments", nargs="+", default=list(INCREMENTS))
    parser.add_argument("--views", nargs="+", default=list(VIEWS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--write", help="page to write (without .md), with its record")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    results: dict[str, dict[str, dict]] = {}
    started_at = time.perf_counter()
    for view in arguments.views:
        for name in arguments.increments:
            sizes = (arguments.instances, arguments.chains, arguments.sweeps)
            rows = measure(name, view, arguments.methods, *sizes)
            results[f"{view} {name}"] = rows
            elapsed = time.perf_counter() - started_at
            if arguments.write:
                write(arguments, results, elapsed / 60)
            seconds = {
                key: round(row["seconds"], 1) for key, row in rows.items() if "seconds" in row
            }
            print(f"{view} {name}: {elapsed:.0f} s so far, {seconds}", flush=True)
        print(tables(results, [view], arguments.increments), flush=True)


if __name__ == "__main__":
    main()
