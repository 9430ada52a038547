"""Every registered method on the conjugate problem of tests/test_conjugate.py, beside the exact posterior.

    python bench/conjugate.py                         print the tables
    python bench/conjugate.py --write docs/conjugate  and write docs/conjugate.md and docs/conjugate.json
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

import inverse
from inverse.engine import versions
from inverse.method import Weighted
from inverse.options import values
from inverse.plugins import registry

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from test_conjugate import OPERATORS, Conjugate, Law, Stream, conjugate, distance, exact

COLUMNS = ("W2", "spread", "mean error", "cover 50 %", "cover 90 %", "NFE", "VJP", "seconds")
ABOUT = """# The conjugate problem

Made by `{command}`.

Prior: a Gaussian field on {side}x{side} pixels, mean 0.5, standard deviation 0.12, squared-exponential covariance of
length 2 pixels; sigma_y = 0.05. {samples} samples, float64, one thread, every method with its default options.

W2 is the Wasserstein-2 distance of the samples' Gaussian to the exact posterior and mean error that of the means, both in
units of the root of the posterior's total variance; spread is the ratio of those roots (1 is right); coverage is the
posterior probability of the samples' central intervals. Evaluations are per sample, seconds for all samples (wall time on
a shared machine).
"""


class OneStream(inverse.Generators):
    """Normal and uniform draws of all rows from the first row's stream: a thousand rows at the price of one."""

    def randn_like(self, x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=self.rows[0], dtype=x.dtype)

    def rand_like(self, x: Tensor) -> Tensor:
        return torch.rand(x.shape, generator=self.rows[0], dtype=x.dtype)


def score(p: Conjugate, x: Tensor) -> dict[str, float]:
    """Distances of samples (n, d) to the posterior, lengths in units of the root of its total variance.

    Coverage is the exact posterior probability of the samples' central interval of each pixel, averaged over pixels.
    """
    unit, deviation = p.covariance.trace().sqrt(), p.covariance.diagonal().sqrt()
    law, covered = Law(x.mean(0), x.T.cov()), {}
    for percent in (50, 90):
        tail = (1 - percent / 100) / 2
        low, high = x.quantile(torch.tensor([tail, 1 - tail], dtype=x.dtype), dim=0)
        mass = torch.special.ndtr((high - p.mean) / deviation) - torch.special.ndtr((low - p.mean) / deviation)
        covered[f"cover {percent} %"] = float(mass.mean())
    return {
        "W2": distance(p, law),
        "spread": float((law.covariance.trace()).sqrt() / unit),
        "mean error": float((law.mean - p.mean).norm() / unit),
        **covered,
    }


def draws(law: Law, samples: int, seed: int) -> Tensor:
    values, vectors = torch.linalg.eigh(law.covariance)
    z = Stream(seed).randn_like(torch.empty(samples, len(law.mean), dtype=torch.float64))
    return law.mean + (z * values.clamp_min(0).sqrt()) @ vectors.T


def run(p: Conjugate, method: inverse.Method, samples: int, seed: int) -> dict[str, object]:
    """One row of the table, or the reason why there is none."""
    rows = p.posterior.rows(samples)
    if reason := method.unsupported(rows):
        return {"method": method.name, "skipped": reason}
    began = time.perf_counter()
    try:
        with torch.no_grad():
            *_, x = method.run(rows, samples, OneStream.for_samples(seed, 1, samples))
    except inverse.InverseError as error:
        return {"method": method.name, "skipped": str(error)}
    seconds = time.perf_counter() - began
    if isinstance(x, Weighted):
        chosen = torch.multinomial(x.log_weights.softmax(0), samples, replacement=True, generator=Stream(seed).generator)
        x = x.x[chosen]
    if not bool(x.isfinite().all()):
        return {"method": method.name, "skipped": "diverged"}
    cost = {"NFE": rows.cost.nfe, "VJP": rows.cost.vjp, "seconds": seconds}
    return {"method": method.name, "claim": method.claim, "options": values(method), **score(p, x.flatten(1).double()), **cost}


def table(rows: list[dict]) -> str:
    lines = ["| method | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for row in rows:
        if "skipped" in row:
            lines.append(f"| {row['method']} | {row['skipped']} |" + " |" * (len(COLUMNS) - 1))
        else:
            cells = (f"{row[c]:.0f}" if c in ("NFE", "VJP") else f"{row[c]:.3g}" if c == "seconds" else f"{row[c]:.3f}" for c in COLUMNS if c in row)
            lines.append(f"| {row['method']} | " + " | ".join(cells) + " |" + " |" * sum(c not in row for c in COLUMNS))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=4, help="pixels on a side of the field")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--operators", nargs="+", default=list(OPERATORS), choices=OPERATORS)
    parser.add_argument("--methods", nargs="+", default=sorted(registry().table("inverse_methods")), help="registered names; default all")
    parser.add_argument("--write", help="write this path with .md and .json added")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    results: dict[str, list[dict]] = {}
    for operator in arguments.operators:
        p = conjugate(operator, arguments.side)
        references = {"floor (exact draws)": exact(p), "prior (y ignored)": Law(p.m, p.C)}
        rows: list[dict] = [{"method": f"*{name}*", **score(p, draws(law, arguments.samples, arguments.seed + 1))} for name, law in references.items()]
        found = [run(p, inverse.get_method(name), arguments.samples, arguments.seed) for name in arguments.methods]
        rows += sorted(found, key=lambda row: row.get("W2", float("inf")))
        results[operator] = rows
        print(f"\n## {operator}\n\n{table(rows)}", flush=True)
    if arguments.write:
        command = "OMP_NUM_THREADS=1 python bench/conjugate.py " + shlex.join(sys.argv[1:])
        about = ABOUT.format(command=command, side=arguments.side, samples=arguments.samples)
        text = about + "".join(f"\n## {name}\n\n{table(rows)}\n" for name, rows in results.items())
        Path(f"{arguments.write}.md").write_text(text)
        Path(f"{arguments.write}.json").write_text(json.dumps({"command": command, "versions": versions(), "results": results}, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
