"""Measure what the arena adds to `inverse.solve`, and how long it takes to tabulate records.

    python bench/arena_overhead.py --out results/tables/arena-overhead

The solve of each cell is nearly free (pseudo-inverse of the `bimodal` problem). The time left is
that of the harness: reading the observation, building the posterior, scoring, compressing and
syncing the artifact, appending and syncing the row. The tables are made of rows copied from one
real record. Times per cell are medians over repeats in one process.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from options import add_out, new_parser
from output import markdown_table, write_table
from timing import timed

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


def seconds_per_cell(folder: Path, seeds: int) -> float:
    """Seconds per cell of a run, less those of a run of a single cell (imports, planning)."""
    run_suite(suite(1, 1), Request(folder / "warm-up"))
    _, single = timed(lambda: run_suite(suite(1, 1), Request(folder / "single")), CLOCK)
    run, total = timed(lambda: run_suite(suite(8, seeds), Request(folder / "many")), CLOCK)
    return (total - single) / (run.total - 1)


def seconds_bare(seeds: int) -> float:
    """Seconds of posterior and solve alone, with observations drawn beforehand."""
    problem = inverse.get_problem("bimodal")
    prior = problem.resolve_prior()
    observations = [
        problem.posterior(truth, prior=prior, seed=seed).y
        for truth in range(8)
        for seed in range(seeds)
    ]

    def solve_all() -> None:
        for y in observations:
            inverse.solve(problem.posterior(y=y, prior=prior), "pseudo-inverse")

    return timed(solve_all, CLOCK)[1] / len(observations)


def write_rows(folder: Path, template: Record, count: int) -> None:
    """Write `count` records of ten methods on ten problems, with slightly different scores."""
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
    parser = new_parser(__doc__)
    parser.add_argument(
        "--seeds", type=int, default=25, help="seeds; eight times as many cells are timed"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--clock",
        choices=["wall", "process"],
        default="wall",
        help="clock; process time excludes other programs and the disk",
    )
    parser.add_argument("--records", type=int, default=10_000)
    add_out(parser)
    arguments = parser.parse_args()

    global CLOCK
    CLOCK = time.perf_counter if arguments.clock == "wall" else time.process_time
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        cell_times, bare_times = [], []
        for repeat in range(arguments.repeats):
            cell_times.append(seconds_per_cell(root / str(repeat), arguments.seeds))
            bare_times.append(seconds_bare(arguments.seeds))
        template = read_records(root / "0" / "many")[0]
        write_rows(root / "rows", template, arguments.records)
        records, read_seconds = timed(lambda: read_records(root / "rows"), CLOCK)
        _, table_seconds = timed(lambda: markdown(records), CLOCK)
        page, html_seconds = timed(lambda: write(root / "rows", root / "page.html"), CLOCK)
        megabytes = page.stat().st_size / 1e6
    cell, solve = statistics.median(cell_times) * 1e3, statistics.median(bare_times) * 1e3
    figures = {
        "a cell in the arena (ms)": cell,
        "posterior and inverse.solve alone (ms)": solve,
        "overhead a cell (ms)": cell - solve,
        f"read {arguments.records} records (s)": read_seconds,
        f"Markdown table of {arguments.records} records (s)": table_seconds,
        f"HTML page of {arguments.records} records (s)": html_seconds,
        "its size (MB)": megabytes,
    }
    rows = [[name, f"{value:.2f}"] for name, value in figures.items()]
    table = markdown_table(["what", "measured"], rows)
    print(table)
    if arguments.out:
        about = {"torch": torch.__version__, "threads": 1, "clock": arguments.clock}
        write_table(arguments.out, table, figures | about)


if __name__ == "__main__":
    main()
