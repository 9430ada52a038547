"""Every registered method on the `gaussian` problem, whose posterior is a known Gaussian, and the goals set for three of them.

    python bench/conjugate.py                                                     print the tables
    python bench/conjugate.py --records records.jsonl --write docs/conjugate      rewrite those of docs/conjugate.md, and docs/conjugate.json

Finished runs are kept in --records, one line each, and not repeated: an interrupted benchmark goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pages import put
from torch import Tensor

import inverse
from inverse.checks.distances import gaussian_w2
from inverse.checks.referee import sample
from inverse.engine import versions
from inverse.registry.discovery import registry
from inverse.registry.options import values

VIEWS = ("inpainting", "blur", "random")
COLUMNS = ("W2", "spread", "mean error", "cover 50 %", "cover 90 %", "NFE", "VJP", "seconds")
VARIANTS = {
    "mmps, 100 evaluations": ("mmps", {"sampler": "dpmpp-2m", "steps": 16, "tolerance": 0.2}),
    "mmps, 1000 evaluations": ("mmps", {"sampler": "heun", "steps": 40}),
    "dps, step of a score": ("dps", {"step": "score"}),
}
"""More rows of the table, beside every method with its defaults."""
WITH_GOALS = {"mmps", "ddrm", "dps", "deepinv-dps"}
TUNING = {
    "norm": [3.0, 10.0, 20.0, 30.0, 50.0, 80.0, 120.0, 300.0],
    "annealed": [0.5, 1.0, 2.0, 4.0, 8.0],
}
"""Weights of deepinv's DPS under either form of its guidance, chosen for each view and side on measurements of their own."""
LEFT_OUT = {
    "multimodal": "with one modality it is `mmps`",
    "structure-prior": "it is made for blurry pictures",
    "tractable-smc": "its circuit knows photographs",
    "tractable-steering": "its circuit knows photographs",
}
"""Methods without a row, and why."""
CURVES = ("mmps", "pigdm", "dps", "ddrm", "ddnm", "ddnm-plus")
CURVE = (10, 20, 50, 100, 200)


class Ledger:
    """Results by key, each kept as a line of a file as soon as it is known; without a file, in memory."""

    def __init__(self, path: str | None):
        self.path, self.known = path, {}
        if path and Path(path).exists():
            self.known = {
                line["key"]: line["value"]
                for line in map(json.loads, Path(path).read_text().splitlines())
            }

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        if key not in self.known:
            self.known[key] = compute()
            if self.path:
                with open(self.path, "a") as file:
                    file.write(json.dumps({"key": key, "value": self.known[key]}) + "\n")
        return self.known[key]


def score(exact: inverse.Exact, x: Tensor) -> dict[str, float]:
    """Distances of samples (n, d) to the posterior, lengths in units of the root of its total variance.

    Coverage is the exact posterior probability of the samples' central interval of each pixel, averaged over pixels.
    """
    mean, covariance = exact.mean.flatten(), exact.covariance
    unit, deviation, found = covariance.trace().sqrt(), covariance.diagonal().sqrt(), x.T.cov()
    covered = {}
    for percent in (50, 90):
        tail = (1 - percent / 100) / 2
        low, high = x.quantile(torch.tensor([tail, 1 - tail], dtype=x.dtype), dim=0)
        mass = torch.special.ndtr((high - mean) / deviation) - torch.special.ndtr(
            (low - mean) / deviation
        )
        covered[f"cover {percent} %"] = float(mass.mean())
    return {
        "W2": gaussian_w2(x.mean(0), found, mean, covariance) / float(unit),
        "spread": float(found.trace().sqrt() / unit),
        "mean error": float((x.mean(0) - mean).norm() / unit),
        **covered,
    }


def measured(
    view: str, side: int, first: int, count: int, method: inverse.Method, samples: int
) -> list[dict[str, Any]]:
    """One method on measurements first, first + 1, ..., solved together."""
    problem, posterior = measurements(view, side, first, count)
    try:
        x, cost, seconds = sample(method, posterior, samples, first)
    except inverse.InverseError as error:
        return [{"skipped": str(error)}]
    spent = {"NFE": cost.nfe, "VJP": cost.vjp, "seconds": seconds / count}
    return [
        {**score(problem.exact(y), own), **spent}
        for y, own in zip(posterior.y, x.split(samples), strict=True)
    ]


def measurements(
    view: str, side: int, first: int, count: int
) -> tuple[inverse.Problem, inverse.Posterior]:
    problem = inverse.get_problem("gaussian", side=side, view=view)
    return problem, problem.posterior(
        torch.stack(problem.truths()[first : first + count]), seed=first, dtype=torch.float64
    )


def references(view: str, side: int, count: int, samples: int) -> dict[str, list[dict[str, Any]]]:
    """What exact draws (floor) and draws that ignore y (prior) score."""
    problem, posterior = measurements(view, side, 0, count)
    law, stream = problem.make_prior(), inverse.seeded("conjugate", view, side)
    exact = [problem.exact(y) for y in posterior.y]
    return {
        "floor": [score(e, e.sample(samples, stream).flatten(1)) for e in exact],
        "prior": [score(e, law.decode(law.sample(samples, stream)).flatten(1)) for e in exact],
    }


def average(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the measurements, or the reason why there are none."""
    reason = next((row["skipped"] for row in rows if "skipped" in row), None)
    return (
        {"skipped": reason}
        if reason
        else {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
    )


def table(rows: list[dict]) -> str:
    lines = ["| method | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for row in rows:
        if "skipped" in row:
            lines.append(f"| {row['method']} | {row['skipped']} |" + " |" * (len(COLUMNS) - 1))
        else:
            cells = (
                f"{row[c]:.0f}"
                if c in ("NFE", "VJP")
                else f"{row[c]:.2g}"
                if c == "seconds"
                else f"{row[c]:.3f}"
                for c in COLUMNS
                if c in row
            )
            lines.append(
                f"| {row['method']} | "
                + " | ".join(cells)
                + " |"
                + " |" * sum(c not in row for c in COLUMNS)
            )
    return "\n".join(lines)


def overview(results: dict[str, list[dict]]) -> str:
    """W2 of every method on every view, best first."""
    at = {
        name: {row["method"].split(":")[0]: row for row in rows} for name, rows in results.items()
    }
    labels = list(dict.fromkeys(label for rows in at.values() for label in rows))
    entry = lambda label, name: at[name].get(label, {}).get("W2")  # noqa: E731

    def rank(label: str) -> float:
        found = [w for name in results if (w := entry(label, name)) is not None]
        return sum(found) / len(found) if found else float("inf")

    heads = ["method", *results]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for label in sorted(labels, key=lambda label: (not label.startswith("*"), rank(label))):
        if rank(label) < float("inf"):
            lines.append(
                f"| {label} | "
                + " | ".join(
                    "-" if entry(label, name) is None else f"{entry(label, name):.3f}"
                    for name in results
                )
                + " |"
            )
    return "\n".join(lines)


def goals(results: dict[str, list[dict]]) -> str:
    """What was asked of mmps, ddrm and dps, beside what was measured."""
    heads = (
        "view",
        "floor",
        "mmps, 1000 evaluations",
        "mmps, 100 evaluations",
        "ddrm: spread",
        "dps: W2",
        "dps, step of a score: W2",
        "deepinv-dps, tuned: W2",
    )
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, rows in results.items():
        at = {row["method"]: row for row in rows}
        floor = at["*floor*"]["W2"]
        full, short = (at[f"mmps, {n} evaluations"] for n in (1000, 100))
        tuned = next(row for row in rows if row["method"].startswith("deepinv-dps, tuned"))
        counted = [
            f"{row['W2']:.3f} = {row['W2'] / floor:.2f} floors ({row['NFE'] + row['VJP']:.0f})"
            for row in (full, short)
        ]
        dps = [f"{at[label]['W2']:.3f}" for label in ("dps", "dps, step of a score")]
        cells = [
            name,
            f"{floor:.3f}",
            *counted,
            f"{at['ddrm']['spread']:.3f}",
            *dps,
            f"{tuned['W2']:.3f} ({tuned['method'].split(': ')[1]})",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


class Bench:
    """The runs of one command line."""

    def __init__(self, ledger: Ledger, samples: int, measurements: int):
        self.ledger, self.samples, self.measurements = ledger, samples, measurements

    def rows(
        self, view: str, side: int, name: str, options: dict[str, Any], first: int = 0
    ) -> dict[str, Any]:
        """A method's means over measurements first, first + 1, ..."""
        method = inverse.get_method(name, **options)
        key = json.dumps(
            [view, side, name, values(method), self.samples, first, self.measurements],
            sort_keys=True,
            default=str,
        )
        return average(
            self.ledger.get(
                key, lambda: measured(view, side, first, self.measurements, method, self.samples)
            )
        )

    def tuned(self, view: str, side: int) -> tuple[dict[str, Any], float]:
        """Options of the best deepinv-dps on the next measurements after those of the table, and its W2 there."""
        tried = [
            {"steps": 100, "guidance": form, "weight": w}
            for form, weights in TUNING.items()
            for w in weights
        ]
        scores = [
            (
                self.rows(view, side, "deepinv-dps", options, self.measurements).get(
                    "W2", float("inf")
                ),
                i,
            )
            for i, options in enumerate(tried)
        ]
        best, i = min(scores)
        return tried[i], best

    def table(self, view: str, side: int, names: list[str]) -> list[dict[str, Any]]:
        at = references(view, side, self.measurements, self.samples)
        first = [{"method": f"*{kind}*", **average(rows)} for kind, rows in at.items()]
        entries = {name: (name, {}) for name in names} | {
            label: entry for label, entry in VARIANTS.items() if entry[0] in names
        }
        if "deepinv-dps" in names:
            best, _ = self.tuned(view, side)
            entries[f"deepinv-dps, tuned: {best['guidance']} {best['weight']:g}"] = (
                "deepinv-dps",
                best,
            )
        found = [
            {"method": label, "options": options, **self.rows(view, side, name, options)}
            for label, (name, options) in entries.items()
        ]
        return first + sorted(found, key=lambda row: row.get("W2", float("inf")))


def curves(bench: Bench, side: int) -> str:
    """W2 and spread over steps, one table for each view."""
    text = ""
    for view in VIEWS:
        text += (
            f"\n{view}, {side}x{side}:\n\n| method | "
            + " | ".join(f"{n} steps" for n in CURVE)
            + " |\n"
            + "|---" * (len(CURVE) + 1)
            + "|\n"
        )
        for name in CURVES:
            found = [bench.rows(view, side, name, {"steps": n}) for n in CURVE]
            text += (
                f"| {name} | "
                + " | ".join(f"{row['W2']:.3f} ({row['spread']:.2f})" for row in found)
                + " |\n"
            )
    return text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sides", nargs="+", type=int, default=[4, 8], help="pixels on a side of the field"
    )
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--measurements", type=int, default=3)
    parser.add_argument("--views", nargs="+", default=list(VIEWS), choices=VIEWS)
    parser.add_argument(
        "--methods",
        nargs="+",
        default=sorted(set(registry().table("inverse_methods")) - set(LEFT_OUT)),
        help="registered names; default all",
    )
    parser.add_argument("--records", help="a file of finished runs, read and added to")
    parser.add_argument(
        "--write",
        help="put the tables into this path with .md added, and write it with .json added",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    bench, began = (
        Bench(Ledger(arguments.records), arguments.samples, arguments.measurements),
        time.perf_counter(),
    )
    results: dict[str, list[dict]] = {}
    for side in arguments.sides:
        for view in arguments.views:
            name = f"{view}, {side}x{side}"
            results[name] = bench.table(view, side, arguments.methods)
            print(f"{name} done", flush=True)
    print(f"\n{time.perf_counter() - began:.0f} seconds", file=sys.stderr)
    command = "OMP_NUM_THREADS=1 python bench/conjugate.py " + shlex.join(sys.argv[1:])
    text = f"`{command}`\n\n## W2 at a glance\n\n{overview(results)}\n"
    if set(arguments.methods) >= WITH_GOALS:
        text += f"\n## Goals\n\n{goals(results)}\n"
    if set(arguments.methods) >= set(CURVES):
        text += f"\n## W2 over steps (spread in brackets)\n{curves(bench, arguments.sides[0])}"
    text += "".join(f"\n## {name}\n\n{table(rows)}\n" for name, rows in results.items())
    text += (
        "\n## Not here\n\n"
        + "\n".join(f"- `{name}`: {reason}" for name, reason in LEFT_OUT.items())
        + "\n"
    )
    print(text)
    if arguments.write:
        put(Path(f"{arguments.write}.md"), text)
        Path(f"{arguments.write}.json").write_text(
            json.dumps(
                {"command": command, "versions": versions(), "results": results},
                indent=1,
                default=str,
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
