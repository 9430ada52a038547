"""`inverse bench` and `inverse tune`; torch and pydantic are imported when a command needs them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inverse.errors import OptionError
from inverse.io.command_line import (
    Device,
    PluginFiles,
    PriorName,
    ProblemName,
    ProblemOptions,
    assignments,
    columns,
    registry,
    show,
)
from inverse.io.files import strict_json
from inverse.registry.defaults import default

bench = typer.Typer(
    no_args_is_help=True,
    help="Run methods under equal conditions, compare them, and reproduce any cell.",
)

Folder = Annotated[
    Path, typer.Argument(help="Folder of records, or its records.jsonl.", show_default=False)
]


@bench.command()
def run(
    suite: Annotated[
        str,
        typer.Argument(
            help="Path of a .toml file, or name of a shipped suite (see `inverse bench ls`)."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the records; existing records are kept.", show_default="out/SUITE"
        ),
    ] = None,
    executor: Annotated[
        str | None, typer.Option(help="Where cells run: local or ray.", show_default="the suite's")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Address of a Ray cluster: host:port, or auto.",
            show_default="a cluster on this machine",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Number of Ray workers.", show_default="as many as fit"),
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Run failed cells again.")] = False,
    refresh: Annotated[
        bool,
        typer.Option(
            "--refresh", help="Run the cells again that another version of the core computed."
        ),
    ] = False,
    plugin: PluginFiles = [],
) -> None:
    """Compute the cells of a suite that the folder lacks; run again to continue."""
    from inverse.arena.run import Request, run_suite
    from inverse.arena.suite import load_suite

    registry(plugin)
    loaded, folder = load_suite(suite), out or Path("out") / Path(suite).stem
    plugins = tuple(str(path.resolve()) for path in plugin)
    request = Request(folder, executor, address, workers, retry, refresh, plugins)
    summary = run_suite(loaded, request)
    if summary.interrupted:
        raise typer.Exit(130)
    ok = summary.total - summary.failed - summary.skipped
    print(
        f"{summary.total} cells: {ok} ok, {summary.failed} failed, {summary.skipped} skipped; "
        f"{summary.computed} computed now"
    )
    print(folder)


@bench.command()
def ls(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of records; without it, list the shipped suites.", show_default=False
        ),
    ] = None,
    status: Annotated[
        str | None,
        typer.Option(
            help="Status of the cells to list: ok, failed or skipped.", show_default="all"
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the records as JSON lines.")] = False,
) -> None:
    """List the cells of a folder, or the shipped suites."""
    if folder is None:
        from inverse.arena.suite import load_suite, shipped

        table = columns("suite", "title", "problems", "methods")
        for name in shipped():
            suite = load_suite(name)
            table.add_row(name, suite.title, str(len(suite.problems)), str(len(suite.methods)))
        show(table)
        return
    from inverse.arena.compare import label
    from inverse.arena.record import STATUSES, read_records

    if status not in (None, *STATUSES):
        raise OptionError(
            f"bench ls: --status must be one of {', '.join(STATUSES)}, got '{status}'"
        )
    records = [record for record in read_records(folder) if status in (None, record.status)]
    if json_:
        for record in records:
            print(record.to_json())
        return
    table = columns(
        "cell", "problem", "method", "budget", "truth", "seed", "status", "scores or reason"
    )
    for r in records:
        scores = r.reason or ", ".join(
            f"{name} {value:.4g}" for name, value in r.metrics.items() if value is not None
        )
        table.add_row(
            r.cell[:12],
            r.problem["name"],
            label(r),
            _limits(r.budget),
            str(r.truth),
            str(r.seed),
            r.status,
            scores,
        )
    show(table)


@bench.command()
def compare(
    first: Folder,
    second: Folder,
    metric: Annotated[
        list[str],
        typer.Option(
            "--metric",
            help="Metric to compare, or nfe, vjp, seconds, peak_memory; may be repeated.",
            show_default="all but times",
        ),
    ] = [],
    threshold: Annotated[
        float, typer.Option(min=0, help="Largest relative loss allowed, e.g. 0.05.")
    ] = 0.01,
    all_: Annotated[bool, typer.Option("--all", help="Show unchanged scores too.")] = False,
    json_: Annotated[
        bool, typer.Option("--json", help="Print JSON lines instead of a table.")
    ] = False,
) -> None:
    """Compare two sets of records; exit with 1 if anything got worse by more than the threshold."""
    from dataclasses import asdict

    from inverse.arena.compare import compare_records
    from inverse.arena.record import read_records

    comparison = compare_records(
        read_records(first), read_records(second), metric or None, threshold
    )
    changes = comparison.changes
    listed = [c for c in changes if all_ or c.worse or c.change.mean != 0]
    if json_:
        for change in listed:
            print(strict_json(asdict(change)))
    elif listed:
        table = columns(
            "problem", "method", "budget", "metric", "before", "change", "95 % interval", ""
        )
        for c in sorted(listed, key=lambda c: not c.worse):
            low, high = c.change.low, c.change.high
            table.add_row(
                c.problem,
                c.method,
                _limits(c.budget),
                c.metric,
                f"{c.before:.4g}",
                f"{c.change.mean:+.3g}",
                "one truth" if low is None else f"{low:+.3g} to {high:+.3g}",
                "WORSE" if c.worse else "",
            )
        show(table)
    if not json_:
        worse = sum(c.worse for c in changes)
        unchanged = sum(c.change.mean == 0 for c in changes)
        for line in (*comparison.notes, *(f"broken: {cell}" for cell in comparison.broken)):
            print(line)
        print(
            f"{len(changes)} scores compared: {unchanged} unchanged, "
            f"{worse} worse by more than {threshold:g}, {len(comparison.broken)} cells broken"
        )
    if comparison.regressed:
        raise typer.Exit(1)


@bench.command()
def report(
    folder: Folder,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Path of an .html file, of an .md file, or of a folder for both.",
            show_default="the records' folder",
        ),
    ] = None,
) -> None:
    """Write the leaderboard as a self-contained HTML page and as Markdown tables."""
    from inverse.arena.csv_table import csv_table
    from inverse.arena.markdown import markdown
    from inverse.arena.record import read_records
    from inverse.arena.report import write
    from inverse.io.files import write_text

    out = out or (folder if folder.suffix != ".jsonl" else folder.parent)
    suffix = out.suffix.lower()
    if suffix not in ("", ".html", ".htm", ".md", ".csv"):
        raise OptionError(
            "bench report: --out must be an .html, .md or .csv file, or a folder for all three, "
            f"got '{out}'"
        )
    if suffix in ("", ".html", ".htm"):
        print(write(folder, out / "report.html" if suffix == "" else out))
    if suffix in ("", ".md"):
        page = out if suffix == ".md" else out / "report.md"
        write_text(page, markdown(read_records(folder)))
        print(page)
    if suffix in ("", ".csv"):
        table = out if suffix == ".csv" else out / "report.csv"
        write_text(table, csv_table(read_records(folder)))
        print(table)


@bench.command()
def reproduce(
    cell: Annotated[str, typer.Argument(help="First digits of a cell (see `inverse bench ls`).")],
    records: Annotated[Path, typer.Option(help="Folder of its record.")],
    plugin: PluginFiles = [],
) -> None:
    """Compute a cell again from its record; exit with 1 unless the answer has the same bits."""
    from inverse.arena.reproduce import reproduce as again

    registry(plugin)
    comparison = again(records, cell)
    new = comparison.outcome.record
    status = f"{new.status} ({new.reason})" if new.reason else new.status
    name = f"{new.problem['name']}, {new.method['name']}, truth {new.truth}, seed {new.seed}"
    print(f"{name}: {status}")
    for line in comparison.differences:
        print(f"  {line}")
    if comparison.largest_difference is not None:
        print(f"  largest difference of a sample: {comparison.largest_difference:.3g}")
    print("the same, bit for bit" if comparison.equal else "not the same")
    if not comparison.equal:
        raise typer.Exit(1)


@bench.command()
def limit(
    problem: ProblemName = default("limit", "problem"),
    problem_option: ProblemOptions = [],
    methods: Annotated[
        str | None, typer.Option(help="Names of methods, separated by commas.", show_default="all")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of every method that has steps.")] = 20,
    size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Side of the square cut from the photograph (pixels).", show_default="whole"
        ),
    ] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes to try, separated by commas.")] = "1,4",
    dtype: Annotated[str, typer.Option(help="Precisions to try, separated by commas.")] = "float32",
    repeats: Annotated[
        int, typer.Option(min=1, help="Repeats of every solve; medians are shown.")
    ] = 3,
    clock: Annotated[
        str,
        typer.Option(help="wall; or cpu for processor time of this process, on a busy machine."),
    ] = "wall",
    compile_: Annotated[bool, typer.Option("--compile", help="Compile the prior.")] = False,
    prior: PriorName = None,
    device: Device = "cpu",
    json_: Annotated[
        bool, typer.Option("--json", help="Print a JSON record instead of tables.")
    ] = False,
    plugin: PluginFiles = [],
) -> None:
    """Compare the time of methods with that of their evaluations, at the fastest batch size."""
    from inverse.arena.limit import Bench, Setting, best, choose, record, tables
    from inverse.registry.discovery import get_problem

    registry(plugin)
    measured = Bench(
        get_problem(problem, **assignments(problem_option, "--problem-option")),
        prior,
        size,
        device,
        compile_,
        repeats,
        clock,
    )
    chosen = choose(methods.split(",") if methods else None, steps)
    batches = _indices(batch, "bench limit: --batch")
    if 0 in batches:
        raise OptionError("bench limit: --batch takes numbers of at least 1")
    floors = measured.floors([Setting(rows, kind) for kind in dtype.split(",") for rows in batches])
    setting = best(floors)
    rows = list(measured.efficiencies(chosen, setting))
    if json_:
        print(strict_json(record(measured, floors, setting, rows)))
        return
    for table in tables(floors, rows):
        show(table)
    print(f"batch {setting.batch}, {setting.dtype}; {clock} clock, medians of {repeats}")


def tune(
    method: Annotated[str, typer.Argument(help="Name of a method (see `inverse methods`).")],
    problem: Annotated[str, typer.Argument(help="Name of a problem (see `inverse problems`).")],
    truths: Annotated[
        str, typer.Option(help="Truths of the tuning split: indices separated by commas.")
    ],
    range_: Annotated[
        list[str],
        typer.Option(
            "--range",
            metavar="NAME=LOW:HIGH[:log]",
            help="Range of an option, or its choices NAME=a|b; may be repeated.",
        ),
    ],
    metric: Annotated[str, typer.Option(help="Metric to improve.")] = "psnr",
    trials: Annotated[int, typer.Option(min=1, help="Number of settings to try.")] = 30,
    seeds: Annotated[
        str, typer.Option(help="Random seeds for the noise and the method, separated by commas.")
    ] = "0",
    set_: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Option that stays fixed; may be repeated.",
            show_default=False,
        ),
    ] = [],
    problem_option: ProblemOptions = [],
    prior: PriorName = None,
    crop: Annotated[
        int | None,
        typer.Option(
            min=1, help="Side of the squares cut from photographs (pixels).", show_default="whole"
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Number of posterior samples.")] = 1,
    nfe: Annotated[
        int | None,
        typer.Option(
            min=1, help="Budget of prior evaluations and VJPs together.", show_default="none"
        ),
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="Suite that must not share truths with the split.")
    ] = None,
    device: Device = "cpu",
    dtype: Annotated[str, typer.Option(help="Precision: float32, float64 or bf16.")] = "float32",
    seed: Annotated[int, typer.Option(help="Random seed for the search.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to which the entry for a suite is appended.", show_default="printed only"
        ),
    ] = None,
    plugin: PluginFiles = [],
) -> None:
    """Choose the options of a method on a tuning split; print the entry for a suite."""
    from inverse.arena import tune as tuning
    from inverse.arena.suite import Tuning, load_suite
    from inverse.io.devices import DTYPES, check_device

    registry(plugin)
    if dtype not in DTYPES:
        raise OptionError(f"dtype must be one of {', '.join(DTYPES)}, got '{dtype}'")
    check_device(device)
    split = Tuning(
        problem=problem,
        truths=_indices(truths, "tune: --truths"),
        seeds=_indices(seeds, "tune: --seeds"),
        metric=metric,
        trials=trials,
    )
    task = tuning.Task(
        method,
        problem,
        split,
        tuple(map(tuning.Range.parse, range_)),
        dict(assignments(set_, "--set")),
        dict(assignments(problem_option, "--problem-option")),
        prior,
        crop,
        samples,
        None if nfe is None else {"nfe": nfe},
        device,
        dtype,
        seed,
    )
    if suite is not None:
        tuning.disjoint(task, load_suite(suite))
    tuned = tuning.tune(task)
    print(
        f"# mean loss of {metric} on the split: {tuned.score:.5g}, "
        f"with the default options {tuned.default:.5g}"
    )
    text = tuning.entry(task, tuned)
    print(text, end="")
    if out is not None:
        with out.open("a") as file:
            file.write(f"\n{text}")


def _limits(budget: dict[str, float] | None) -> str:
    return ", ".join(f"{name} {limit:g}" for name, limit in (budget or {}).items()) or "none"


def _indices(text: str, option: str) -> list[int]:
    try:
        indices = [int(part) for part in text.split(",")]
        if min(indices) < 0:
            raise ValueError(text)
        return indices
    except ValueError as error:
        raise OptionError(
            f"{option} takes whole numbers separated by commas, got '{text}'"
        ) from error
