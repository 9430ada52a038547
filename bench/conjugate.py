"""Compare every registered method with the exact posterior of the `gaussian` problem.

    python bench/conjugate.py --records records.jsonl --write docs/conjugate

Prints the tables. With --write, the script inserts them into docs/conjugate.md and writes
results/conjugate.json. One table checks the goals set for mmps, ddrm and dps. Finished runs are
stored in --records, one per line, and not repeated: an interrupted benchmark continues where it
stopped.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ledger import Ledger
from options import new_parser
from output import command_line, in_results, insert_tables, markdown_table, write_json
from torch import Tensor

import inverse
from inverse.checks.claims import sample
from inverse.checks.distances import gaussian_w2
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
"""Rows of the table in addition to every method with its defaults."""
WITH_GOALS = {"mmps", "ddrm", "dps", "deepinv-dps"}
TUNING = {
    "norm": [3.0, 10.0, 20.0, 30.0, 50.0, 80.0, 120.0, 300.0],
    "annealed": [0.5, 1.0, 2.0, 4.0, 8.0],
}
"""Weights of deepinv's DPS by form of guidance, tuned per view and side on other measurements."""
EXCLUDED = {
    "multimodal": "equals `mmps` for a single modality",
    "structure-prior": "made for blurry pictures",
    "tractable-smc": "its circuit models photographs",
    "tractable-steering": "its circuit models photographs",
}
"""Methods without a row, and the reasons."""
CURVES = ("mmps", "pigdm", "dps", "ddrm", "ddnm", "ddnm-plus")
CURVE = (10, 20, 50, 100, 200)


def score(exact: inverse.Exact, x: Tensor) -> dict[str, float]:
    """Distances of samples (n, d) from the posterior, in units of the root of its total variance.

    Coverage is the exact posterior probability of the central interval of the samples, averaged
    over pixels.
    """
    mean, covariance = exact.mean.flatten(), exact.covariance
    unit, deviation = covariance.trace().sqrt(), covariance.diagonal().sqrt()
    sample_covariance = x.T.cov()
    covered = {}
    for percent in (50, 90):
        tail = (1 - percent / 100) / 2
        low, high = x.quantile(torch.tensor([tail, 1 - tail], dtype=x.dtype), dim=0)
        below, above = (torch.special.ndtr((end - mean) / deviation) for end in (low, high))
        covered[f"cover {percent} %"] = float((above - below).mean())
    return {
        "W2": gaussian_w2(x.mean(0), sample_covariance, mean, covariance) / float(unit),
        "spread": float(sample_covariance.trace().sqrt() / unit),
        "mean error": float((x.mean(0) - mean).norm() / unit),
        **covered,
    }


def measure(
    view: str, side: int, first: int, count: int, method: inverse.Method, samples: int
) -> list[dict[str, Any]]:
    """Scores and cost of a method on `count` measurements from `first` on, solved as one batch."""
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
    """The problem, and the posterior of `count` measurements from `first` on."""
    problem = inverse.get_problem("gaussian", side=side, view=view)
    return problem, problem.posterior(
        torch.stack(problem.truths()[first : first + count]), seed=first, dtype=torch.float64
    )


def references(view: str, side: int, count: int, samples: int) -> dict[str, list[dict[str, Any]]]:
    """Scores of exact posterior samples (floor) and of prior samples."""
    problem, posterior = measurements(view, side, 0, count)
    law, stream = problem.make_prior(), inverse.seeded("conjugate", view, side)
    exact = [problem.exact(y) for y in posterior.y]
    return {
        "floor": [score(e, e.sample(samples, stream).flatten(1)) for e in exact],
        "prior": [score(e, law.decode(law.sample(samples, stream)).flatten(1)) for e in exact],
    }


def average(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the measurements, or the reason why a method was skipped."""
    if reason := next((row["skipped"] for row in rows if "skipped" in row), None):
        return {"skipped": reason}
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}


def table(rows: list[dict]) -> str:
    return markdown_table(["method", *COLUMNS], [[row["method"], *cells(row)] for row in rows])


def cells(row: dict) -> list[str]:
    if "skipped" in row:
        return [row["skipped"], *[""] * (len(COLUMNS) - 1)]
    formats = {"NFE": ".0f", "VJP": ".0f", "seconds": ".2g"}
    return [format(row[c], formats.get(c, ".3f")) if c in row else "" for c in COLUMNS]


def overview(results: dict[str, list[dict]]) -> str:
    """W2 of every method on every view, best first."""
    distances: dict[str, dict[str, float]] = {}
    for view, rows in results.items():
        for row in rows:
            by_view = distances.setdefault(row["method"].split(":")[0], {})
            if "W2" in row:
                by_view[view] = row["W2"]

    def rank(label: str) -> tuple[bool, float]:
        """References first, then methods by mean W2."""
        return not label.startswith("*"), statistics.fmean(distances[label].values())

    ordered = sorted((label for label, by_view in distances.items() if by_view), key=rank)
    return markdown_table(
        ["method", *results],
        [
            [label, *(f"{row[v]:.3f}" if v in row else "-" for v in results)]
            for label in ordered
            if (row := distances[label])
        ],
    )


def goals(results: dict[str, list[dict]]) -> str:
    """The quantities for which mmps, ddrm and dps have goals."""
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
    lines = []
    for name, rows in results.items():
        by_label = {row["method"]: row for row in rows}
        floor = by_label["*floor*"]["W2"]
        tuned = next(row for row in rows if row["method"].startswith("deepinv-dps, tuned"))
        mmps = [
            f"{row['W2']:.3f} = {row['W2'] / floor:.2f} floors ({row['NFE'] + row['VJP']:.0f})"
            for row in (by_label[f"mmps, {n} evaluations"] for n in (1000, 100))
        ]
        dps = [f"{by_label[label]['W2']:.3f}" for label in ("dps", "dps, step of a score")]
        weight = tuned["method"].split(": ")[1]
        spread = f"{by_label['ddrm']['spread']:.3f}"
        lines.append([name, f"{floor:.3f}", *mmps, spread, *dps, f"{tuned['W2']:.3f} ({weight})"])
    return markdown_table(heads, lines)


class Bench:
    """The runs of a command, taken from the ledger where it has them."""

    def __init__(self, ledger: Ledger, samples: int, measurements: int):
        self.ledger, self.samples, self.measurements = ledger, samples, measurements

    def rows(
        self, view: str, side: int, name: str, options: dict[str, Any], first: int = 0
    ) -> dict[str, Any]:
        """Means of a method over the measurements from `first` on."""
        method = inverse.get_method(name, **options)
        key = json.dumps(
            [view, side, name, values(method), self.samples, first, self.measurements],
            sort_keys=True,
            default=str,
        )
        count, samples = self.measurements, self.samples
        run = partial(measure, view, side, first, count, method, samples)
        return average(self.ledger.get(key, run))

    def tuned(self, view: str, side: int) -> tuple[dict[str, Any], float]:
        """Options of the best deepinv-dps, and its W2, on measurements not in the table."""
        candidates = [
            {"steps": 100, "guidance": form, "weight": weight}
            for form, weights in TUNING.items()
            for weight in weights
        ]
        scores = []
        for index, options in enumerate(candidates):
            row = self.rows(view, side, "deepinv-dps", options, self.measurements)
            scores.append((row.get("W2", float("inf")), index))
        least, index = min(scores)
        return candidates[index], least

    def table(self, view: str, side: int, names: list[str]) -> list[dict[str, Any]]:
        """References, then methods by W2."""
        scores = references(view, side, self.measurements, self.samples)
        first = [{"method": f"*{name}*", **average(rows)} for name, rows in scores.items()]
        entries = {name: (name, {}) for name in names} | {
            label: entry for label, entry in VARIANTS.items() if entry[0] in names
        }
        if "deepinv-dps" in names:
            best, _ = self.tuned(view, side)
            label = f"deepinv-dps, tuned: {best['guidance']} {best['weight']:g}"
            entries[label] = ("deepinv-dps", best)
        rows = [
            {"method": label, "options": options, **self.rows(view, side, name, options)}
            for label, (name, options) in entries.items()
        ]
        return first + sorted(rows, key=lambda row: row.get("W2", float("inf")))


def curves(bench: Bench, side: int) -> str:
    """W2 and spread over steps, one table for each view."""
    text = ""
    for view in VIEWS:
        lines = []
        for name in CURVES:
            rows = [bench.rows(view, side, name, {"steps": n}) for n in CURVE]
            lines.append([name, *(f"{row['W2']:.3f} ({row['spread']:.2f})" for row in rows)])
        table = markdown_table(["method", *(f"{n} steps" for n in CURVE)], lines)
        text += f"\n{view}, {side}x{side}:\n\n{table}\n"
    return text


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument(
        "--sides", nargs="+", type=int, default=[4, 8], help="sides of the fields (pixels)"
    )
    parser.add_argument("--samples", type=int, default=1000, help="samples per measurement")
    parser.add_argument(
        "--measurements", type=int, default=3, help="measurements per view and side"
    )
    parser.add_argument("--views", nargs="+", default=list(VIEWS), choices=VIEWS)
    parser.add_argument(
        "--methods",
        nargs="+",
        default=sorted(set(registry().table("inverse_methods")) - set(EXCLUDED)),
        help="registered names (default: all)",
    )
    parser.add_argument("--records", help="file of finished runs, to read and to append to")
    parser.add_argument(
        "--write",
        help="page (without .md) into which to insert the tables; writes its record",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    bench = Bench(Ledger(arguments.records), arguments.samples, arguments.measurements)
    started_at = time.perf_counter()
    results: dict[str, list[dict]] = {}
    for side in arguments.sides:
        for view in arguments.views:
            name = f"{view}, {side}x{side}"
            results[name] = bench.table(view, side, arguments.methods)
            print(f"{name} done", flush=True)
    print(f"\n{time.perf_counter() - started_at:.0f} seconds", file=sys.stderr)
    command = f"OMP_NUM_THREADS=1 {command_line()}"
    text = f"`{command}`\n\n## W2 at a glance\n\n{overview(results)}\n"
    if set(arguments.methods) >= WITH_GOALS:
        text += f"\n## Goals\n\n{goals(results)}\n"
    if set(arguments.methods) >= set(CURVES):
        text += f"\n## W2 over steps (spread in brackets)\n{curves(bench, arguments.sides[0])}"
    text += "".join(f"\n## {name}\n\n{table(rows)}\n" for name, rows in results.items())
    text += (
        "\n## Excluded\n\n"
        + "\n".join(f"- `{name}`: {reason}" for name, reason in EXCLUDED.items())
        + "\n"
    )
    print(text)
    if arguments.write:
        insert_tables(Path(f"{arguments.write}.md"), text)
        record = {"command": command, "versions": versions(), "results": results}
        write_json(in_results(Path(f"{arguments.write}.json")), record)


if __name__ == "__main__":
    main()
