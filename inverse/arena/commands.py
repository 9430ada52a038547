"""`inverse bench` and `inverse tune`. Nothing here imports torch or pydantic before it is needed."""

from __future__ import annotations

import json
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
from inverse.registry.defaults import default

bench = typer.Typer(
    no_args_is_help=True,
    help="The arena: run methods under equal conditions, compare them, do any cell again.",
)

Folder = Annotated[
    Path, typer.Argument(help="A folder of records, or its records.jsonl.", show_default=False)
]


@bench.command()
def run(
    suite: Annotated[
        str, typer.Argument(help="A .toml file, or a shipped suite: see `inverse bench ls`.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the records; what is there is kept.", show_default="out/SUITE"
        ),
    ] = None,
    executor: Annotated[
        str | None, typer.Option(help="local or ray.", show_default="the suite's")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Of a Ray cluster: host:port, or auto.", show_default="a cluster on this machine"
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Ray workers.", show_default="all there is room for")
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Run failed cells again.")] = False,
    refresh: Annotated[
        bool,
        typer.Option(
            "--refresh", help="Run cells again that another version of the core computed."
        ),
    ] = False,
    plugin: PluginFiles = [],
) -> None:
    """Compute every cell of a suite that the folder does not have; run again to continue after an interruption."""
    from inverse.arena.run import Request, run_suite
    from inverse.arena.suite import load_suite

    registry(plugin)
    asked, folder = load_suite(suite), out or Path("out") / Path(suite).stem
    done = run_suite(
        asked,
        Request(
            folder,
            executor,
            address,
            workers,
            retry,
            refresh,
            tuple(str(path.resolve()) for path in plugin),
        ),
    )
    if done.interrupted:
        raise typer.Exit(130)
    fine = done.total - done.failed - done.skipped
    print(
        f"{done.total} cells: {fine} ok, {done.failed} failed, {done.skipped} skipped; {done.computed} computed now"
    )
    print(folder)


@bench.command()
def ls(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="A folder of records; without it, the shipped suites.", show_default=False
        ),
    ] = None,
    status: Annotated[
        str | None, typer.Option(help="Only ok, failed or skipped ones.", show_default="all")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the records.")] = False,
) -> None:
    """List the cells of a folder, or the shipped suites."""
    if folder is None:
        from inverse.arena.suite import load_suite, shipped

        table = columns("suite", "what it is", "problems", "methods")
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
        "cell", "problem", "method", "budget", "truth", "seed", "status", "scores, or the reason"
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
            help="Also nfe, vjp, seconds or peak_memory; may be repeated.",
            show_default="all but times",
        ),
    ] = [],
    threshold: Annotated[
        float, typer.Option(min=0, help="Part of a mean by which it may get worse.")
    ] = 0.01,
    all_: Annotated[bool, typer.Option("--all", help="Show also what did not move.")] = False,
    json_: Annotated[
        bool, typer.Option("--json", help="Print one JSON record a line instead of a table.")
    ] = False,
) -> None:
    """Say what moved from one record set to another; exit 1 if anything got worse past the threshold."""
    from dataclasses import asdict

    from inverse.arena.compare import compare_records
    from inverse.arena.record import read_records

    found = compare_records(read_records(first), read_records(second), metric or None, threshold)
    moved = [move for move in found.moves if all_ or move.worse or move.change.mean != 0]
    if json_:
        for move in moved:
            print(json.dumps(asdict(move)))
    elif moved:
        table = columns(
            "problem", "method", "budget", "metric", "before", "change", "95 % interval", ""
        )
        for m in sorted(moved, key=lambda m: not m.worse):
            interval = (
                "one truth"
                if m.change.low is None
                else f"{m.change.low:+.3g} to {m.change.high:+.3g}"
            )
            table.add_row(
                m.problem,
                m.method,
                _limits(m.budget),
                m.metric,
                f"{m.before:.4g}",
                f"{m.change.mean:+.3g}",
                interval,
                "WORSE" if m.worse else "",
            )
        show(table)
    worse = sum(move.worse for move in found.moves)
    if not json_:
        notes = [*found.notes, *(f"broken: {line}" for line in found.broken)]
        same = len(found.moves) - sum(move.change.mean != 0 for move in found.moves)
        print(
            "\n".join(
                [
                    *notes,
                    f"{len(found.moves)} scores compared: {same} the same, {worse} worse past {threshold:g}, {len(found.broken)} cells broken",
                ]
            )
        )
    if found.regressed:
        raise typer.Exit(1)


@bench.command()
def report(
    folder: Folder,
    out: Annotated[
        Path | None,
        typer.Option(
            help="An .html file, an .md file, or a folder that gets both.",
            show_default="the records' folder",
        ),
    ] = None,
) -> None:
    """Write the leaderboard: one HTML page that needs no network, and a Markdown table."""
    from inverse.arena.markdown import markdown
    from inverse.arena.record import read_records
    from inverse.arena.report import write
    from inverse.io.files import write_text

    out = out or (folder if folder.suffix != ".jsonl" else folder.parent)
    kind = out.suffix.lower()
    if kind not in ("", ".html", ".htm", ".md"):
        raise OptionError(
            f"bench report: --out is an .html file, an .md file or a folder, got '{out}'"
        )
    if kind != ".md":
        print(write(folder, out / "report.html" if kind == "" else out))
    if kind in ("", ".md"):
        page = out if kind == ".md" else out / "report.md"
        write_text(page, markdown(read_records(folder)))
        print(page)


@bench.command()
def reproduce(
    cell: Annotated[
        str, typer.Argument(help="The first digits of a cell: see `inverse bench ls`.")
    ],
    records: Annotated[Path, typer.Option(help="The folder it is in.")],
    plugin: PluginFiles = [],
) -> None:
    """Compute one recorded cell again from its record alone; exit 1 if the answer is not the same bit for bit."""
    from inverse.arena.reproduce import reproduce as again

    registry(plugin)
    found = again(records, cell)
    new = found.outcome.record
    print(
        f"{new.problem['name']}, {new.method['name']}, truth {new.truth}, seed {new.seed}: {new.status}{f' ({new.reason})' if new.reason else ''}"
    )
    for line in found.differs:
        print(f"  {line}")
    if found.difference is not None:
        print(f"  largest difference of a sample: {found.difference:.3g}")
    print("the same, bit for bit" if found.equal else "not the same")
    if not found.equal:
        raise typer.Exit(1)


@bench.command()
def limit(
    problem: ProblemName = default("limit", "problem"),
    problem_option: ProblemOptions = [],
    methods: Annotated[
        str | None, typer.Option(help="Names separated by commas.", show_default="all")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of every method that has steps.")] = 20,
    size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Side of the square cut from the photograph (pixels).", show_default="whole"
        ),
    ] = None,
    batch: Annotated[str, typer.Option(help="Rows at once to try, separated by commas.")] = "1,4",
    dtype: Annotated[str, typer.Option(help="Precisions to try, separated by commas.")] = "float32",
    repeats: Annotated[int, typer.Option(min=1, help="Of every solve; medians are shown.")] = 3,
    clock: Annotated[
        str,
        typer.Option(
            help="wall; or cpu, the processor's time of this process, for a busy machine."
        ),
    ] = "wall",
    compile_: Annotated[bool, typer.Option("--compile", help="Compile the prior.")] = False,
    prior: PriorName = None,
    device: Device = "cpu",
    json_: Annotated[
        bool, typer.Option("--json", help="Print one JSON record instead of tables.")
    ] = False,
    plugin: PluginFiles = [],
) -> None:
    """Compare each method's time with what its evaluations alone take, at the batch and precision where they take least."""
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
    chosen, batches = (
        choose(methods.split(",") if methods else None, steps),
        _indices(batch, "bench limit: --batch"),
    )
    if 0 in batches:
        raise OptionError("bench limit: --batch takes numbers of at least 1")
    floors = measured.floors([Setting(rows, kind) for kind in dtype.split(",") for rows in batches])
    setting = best(floors)
    rows = list(measured.efficiencies(chosen, setting))
    if json_:
        print(json.dumps(record(measured, floors, setting, rows)))
        return
    for table in tables(floors, rows):
        show(table)
    print(f"batch {setting.batch}, {setting.dtype}; {clock} clock, medians of {repeats}")


def tune(
    method: Annotated[str, typer.Argument(help="A method: see `inverse methods`.")],
    problem: Annotated[str, typer.Argument(help="A problem: see `inverse problems`.")],
    truths: Annotated[
        str, typer.Option(help="The tuning split: indices of truths, separated by commas.")
    ],
    range_: Annotated[
        list[str],
        typer.Option(
            "--range", metavar="NAME=LOW:HIGH[:log]", help="Or NAME=a|b; may be repeated."
        ),
    ],
    metric: Annotated[str, typer.Option(help="What to improve.")] = "psnr",
    trials: Annotated[int, typer.Option(min=1, help="Settings to try.")] = 30,
    seeds: Annotated[str, typer.Option(help="Of noise and method, separated by commas.")] = "0",
    set_: Annotated[
        list[str],
        typer.Option("--set", metavar="NAME=VALUE", help="Options that stay.", show_default=False),
    ] = [],
    problem_option: ProblemOptions = [],
    prior: PriorName = None,
    crop: Annotated[
        int | None,
        typer.Option(
            min=1, help="Side of the squares cut from photographs (pixels).", show_default="whole"
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Posterior samples.")] = 1,
    nfe: Annotated[
        int | None,
        typer.Option(min=1, help="Budget: prior evaluations and VJPs.", show_default="none"),
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="Refuse a split that shares truths with this suite.")
    ] = None,
    device: Device = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, float64 or bf16.")] = "float32",
    seed: Annotated[int, typer.Option(help="Of the search.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Append the suite's entry to this file.", show_default="printed only"),
    ] = None,
    plugin: PluginFiles = [],
) -> None:
    """Choose a method's options on truths that no suite tests on; prints the entry for a suite, which says so."""
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
    found = tuning.tune(task)
    print(
        f"# mean loss of {metric} on the split: {found.score:.5g}, with the options left alone {found.default:.5g}"
    )
    text = tuning.entry(task, found)
    print(text, end="")
    if out is not None:
        with out.open("a") as file:
            file.write(f"\n{text}")


def _limits(budget: dict[str, float] | None) -> str:
    return ", ".join(f"{name} {limit:g}" for name, limit in (budget or {}).items()) or "none"


def _indices(text: str, option: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
        if min(found) < 0:
            raise ValueError(text)
        return found
    except ValueError as error:
        raise OptionError(
            f"{option} takes whole numbers separated by commas, got '{text}'"
        ) from error
