"""Milliseconds that the arena adds to a cell over the bare `inverse.solve`, and seconds to read and tabulate many records.

    python bench/arena_overhead.py --out docs/arena-overhead

The cell is one whose solve is nearly free (pseudo-inverse of the `bimodal` problem), so that what is left is the harness:
reading the observation, building the posterior, scoring, compressing and syncing the artifact, appending and syncing the row.
The table is the Markdown leaderboard of rows made from one real record. Each figure is the median over repeats, in one process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

import inverse
from inverse.arena.markdown import markdown
from inverse.arena.record import RECORDS, Record, read_records
from inverse.arena.report import write
from inverse.arena.run import Request, run_suite
from inverse.arena.suite import Suite

METHODS = 10
CLOCK = time.perf_counter


def suite(truths: int, seeds: int) -> Suite:
    problem, method = {"name": "bimodal"}, {"name": "pseudo-inverse"}
    return Suite(
        title="",
        truths=list(range(truths)),
        seeds=list(range(seeds)),
        metrics=["rmse", "misfit"],
        problems=[problem],
        methods=[method],
    )


def seconds_a_cell(folder: Path, seeds: int) -> float:
    """Wall time of a run divided by its cells, a run of one truth and seed (imports, planning) taken off."""
    run_suite(suite(1, 1), Request(folder / "warm"))
    start = CLOCK()
    run_suite(suite(1, 1), Request(folder / "one"))
    one = CLOCK() - start
    start = CLOCK()
    done = run_suite(suite(8, seeds), Request(folder / "many"))
    return (CLOCK() - start - one) / (done.total - 1)


def seconds_bare(seeds: int) -> float:
    """Wall time of posterior and solve alone, the observations drawn before."""
    problem = inverse.get_problem("bimodal")
    prior = problem.resolve_prior()
    measured = [
        problem.posterior(truth, prior=prior, seed=seed).y
        for truth in range(8)
        for seed in range(seeds)
    ]
    start = CLOCK()
    for y in measured:
        inverse.solve(problem.posterior(y=y, prior=prior), "pseudo-inverse")
    return (CLOCK() - start) / len(measured)


def write_rows(folder: Path, template: Record, count: int) -> None:
    """`count` rows of ten methods on ten problems, their scores spread a little."""
    folder.mkdir()
    with (folder / RECORDS).open("w") as file:
        for i in range(count):
            truth, rest = divmod(i, METHODS * METHODS)
            problem, method = divmod(rest, METHODS)
            names = {
                "problem": {**template.problem, "name": f"problem-{problem}"},
                "method": {**template.method, "name": f"method-{method}"},
            }
            scores = {
                "rmse": 1 + method / 10 + (truth * 7919 % 101) / 500,
                "misfit": 1 + (i * 104729 % 97) / 500,
            }
            row = replace(
                template,
                cell=f"{i:032x}",
                truth=truth,
                metrics=scores,
                artifact=None,
                artifact_sha256=None,
                **names,
            )
            file.write(row.to_json() + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=25, help="cells timed are eight times as many")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--clock",
        choices=["wall", "process"],
        default="wall",
        help="process time leaves out what other programs and the disk take",
    )
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--out", type=Path, help="stem of the .md and .json to write")
    arguments = parser.parse_args()

    global CLOCK
    CLOCK = time.perf_counter if arguments.clock == "wall" else time.process_time
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        cells, bare = [], []
        for repeat in range(arguments.repeats):
            cells.append(seconds_a_cell(root / str(repeat), arguments.seeds))
            bare.append(seconds_bare(arguments.seeds))
        template = read_records(root / "0" / "many")[0]
        write_rows(root / "rows", template, arguments.records)
        start = CLOCK()
        records = read_records(root / "rows")
        read = CLOCK() - start
        start = CLOCK()
        markdown(records)
        table = CLOCK() - start
        start = CLOCK()
        page = write(root / "rows", root / "page.html")
        html = CLOCK() - start
        megabytes = page.stat().st_size / 1e6
    cell, solve = statistics.median(cells) * 1e3, statistics.median(bare) * 1e3
    figures = {
        "a cell in the arena (ms)": cell,
        "posterior and inverse.solve alone (ms)": solve,
        "overhead a cell (ms)": cell - solve,
        f"read {arguments.records} records (s)": read,
        f"Markdown table of {arguments.records} records (s)": table,
        f"HTML page of {arguments.records} records (s)": html,
        "its size (MB)": megabytes,
    }
    lines = [
        "| what | measured |",
        "|---|---|",
        *[f"| {name} | {value:.2f} |" for name, value in figures.items()],
    ]
    print("\n".join(lines))
    if arguments.out:
        about = {"torch": torch.__version__, "threads": 1, "clock": arguments.clock}
        arguments.out.with_suffix(".md").write_text("\n".join(lines) + "\n")
        arguments.out.with_suffix(".json").write_text(json.dumps(figures | about, indent=1) + "\n")


if __name__ == "__main__":
    main()
