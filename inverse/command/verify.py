"""One run of `inverse verify`: test the claims of methods, store the verdicts and print them."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from inverse.checks.claims import Measured, Verdict, verify
from inverse.checks.exact_cases import PROBE, TARGETS, Case, all_cases, main_figure
from inverse.checks.thorough import Progress, estimated_seconds
from inverse.io.files import check_writable, strict_json, write_text
from inverse.method import Method

COSTS = {"nfe": "prior evaluations", "vjp": "vjps", "A": "A", "A_adjoint": "A^T"}

KINDS: dict[str, Callable[[Case], bool]] = {
    "Gaussian": lambda case: case.gaussian and not case.photographic,
    "photographic": lambda case: case.gaussian and case.photographic,
    "not Gaussian": lambda case: not case.gaussian,
}
"""Kinds of cases, the columns of the summary."""

WORDS = {"yes": "held", "no": "FAILED", "not checked": "not checked"}
"""The outcome of a verdict in the last line."""


def run(
    methods: Sequence[Method],
    samples: int,
    seed: int,
    cases: Sequence[str] | None,
    out: Path,
    as_json: bool,
    thorough: bool = False,
) -> int:
    """Verify methods one by one, write `out/METHOD.json` for each, and print the verdicts.

    A thorough verification says how long it will take, and resumes after an interruption.

    Args:
        samples, seed, cases, thorough: see `inverse.verify`.
        out: folder of the JSON records.
        as_json: whether to print the records instead of tables.

    Returns: the exit code: 1 if a claim fails, otherwise 3 if nothing was checked, otherwise 0.

    Raises: InputError if the folder cannot be written, and the errors of `inverse.verify`.
    """
    check_writable(out)
    progress = _progress(methods, samples, seed, out) if thorough else None
    verdicts = []
    for index, method in enumerate(methods, 1):
        if len(methods) > 1:
            print(f"inverse: {method.name} ({index} of {len(methods)})", file=sys.stderr)
        known = progress.known(method) if progress else None
        observe = functools.partial(progress.add, method) if progress else None
        verdict = verify(method, samples, seed, cases, thorough, known, observe)
        record = {
            **dataclasses.asdict(verdict),
            "held": verdict.held,
            "outcome": verdict.outcome,
            "samples": samples,
            "seed": seed,
        }
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / f"{method.name}.json", strict_json(record) + "\n")
        if as_json:
            print(strict_json(record))
        elif len(methods) == 1:
            for table in _figures(verdict):
                _print(table)
            _print_unmeasured(verdict)
            _print(_obligations(verdict))
        verdicts.append(verdict)
    if progress:
        progress.finish()
    outcomes = [verdict.outcome for verdict in verdicts]
    code = 1 if "no" in outcomes else 0 if "yes" in outcomes else 3
    if as_json:
        return code
    if len(methods) > 1:
        _print(_summary(verdicts))
    for verdict in verdicts:
        for failure in verdict.failures:
            print(f"{verdict.method}: {failure}")
        if verdict.unchecked:
            print(f"{verdict.method}: not checked: it {verdict.unchecked}")
    if len(verdicts) > 1:
        checked = len(outcomes) - (left := outcomes.count("not checked"))
        print(
            f"{outcomes.count('yes')} of {checked} claims hold"
            + (f"; {left} methods were not checked" if left else "")
        )
    else:
        verdict = verdicts[0]
        print(f"{verdict.method} claims {verdict.claim}: {WORDS[verdict.outcome]}")
    print(out if len(methods) > 1 else out / f"{methods[0].name}.json")
    return code


def _progress(methods: Sequence[Method], samples: int, seed: int, out: Path) -> Progress:
    """The stored cases of a thorough verification, after a line on its time."""
    progress = Progress(out / "thorough.jsonl", methods, samples, seed)
    done = {m.name: len(progress.known(m)) for m in methods}
    if resumed := sum(done.values()):
        print(f"inverse: resuming: {resumed} cases are done", file=sys.stderr)
    seconds = sum(estimated_seconds(m, samples, seed) for m in methods if not done[m.name])
    minutes = f"{seconds / 60:.0f} minutes" if seconds > 90 else f"{seconds:.0f} seconds"
    print(
        f"inverse: the thorough cases take at most about {minutes} more than the others; "
        "if interrupted, the same command resumes",
        file=sys.stderr,
    )
    return progress


def _figures(verdict: Verdict) -> list[Table]:
    """The figures of each case in four lines: the method, the floor, the prior, the score.

    Cases with the same figures share a table, and octaves have one of their own.
    """
    groups: dict[tuple[str, ...], list[Measured]] = {}
    for measured in verdict.cases:
        own = tuple(name for name in measured.figures if " octave " not in name)
        if own:
            groups.setdefault(own, []).append(measured)
    for measured in verdict.cases:
        octaves = tuple(name for name in measured.figures if " octave " in name)
        if octaves:
            groups.setdefault(octaves, []).append(measured)
    return [_table(verdict.method, names, cases) for names, cases in groups.items()]


def _table(method: str, names: Sequence[str], cases: Sequence[Measured]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for label in ("case", "", *(f"{n} ({TARGETS[n]:g})" if n in TARGETS else n for n in names)):
        table.add_column(
            label, justify="right" if label in names else "left", no_wrap=label in ("case", "")
        )
    for measured in cases:
        for line in ("value", "floor", "prior", "score"):
            cells = [_number(getattr(measured.figures[n], line)) for n in names]
            table.add_row(
                measured.case if line == "value" else "",
                method if line == "value" else line,
                *cells,
                style="" if line in ("value", "score") else "dim",
            )
        table.add_section()
    return table


def _print_unmeasured(verdict: Verdict) -> None:
    """A line for each case without figures."""
    for measured in verdict.cases:
        if measured.skipped:
            print(f"{measured.case}: skipped: {measured.skipped.split(';')[0]}")
        if measured.failed:
            print(f"{measured.case}: FAILED: {measured.failed}")


def _obligations(verdict: Verdict) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("check", no_wrap=True)
    table.add_column("result")
    if verdict.effort:
        curve = ", ".join(f"x{k:g}: {v:.3g}" for k, v in verdict.effort.items())
        order = "not visible above the floor" if verdict.order is None else f"{verdict.order:.2f}"
        table.add_row("effort", f"W2 on {PROBE} at {curve}; order {order}")
    if verdict.batch is not None:
        table.add_row(
            "batch",
            f"a sample changes by {verdict.batch:.1g} standard deviations "
            "with the other images of its batch",
        )
    if verdict.rotation is not None:
        table.add_row(
            "adjoint",
            f"W2 {verdict.rotation[0]:.3g}; {verdict.rotation[1]:.3g} after rotating y and A",
        )
    if verdict.independence is not None:
        table.add_row(
            "independence",
            f"samples are correlated by at most {verdict.independence:.2g} standard deviations of "
            "independent ones",
        )
    if verdict.response:
        errors = ", ".join(f"x{k:g}: {v:.2g}" for k, (v, _) in verdict.response.items())
        table.add_row("response", f"relative error of the mean's change with y at {errors}")
    for measured in verdict.cases:
        if measured.path:
            level, farthest = max(measured.path.items(), key=lambda item: item[1])
            table.add_row(
                f"path, {measured.case}",
                f"at most {farthest:.2f} from the exact law, at noise level {level:.2g}; "
                f"{list(measured.path.values())[-1]:.2f} at the last",
            )
    costs: dict[str, list[Measured]] = {}
    for measured in verdict.cases:
        if measured.cost:
            spent = ", ".join(f"{measured.cost[k]:.0f} {label}" for k, label in COSTS.items())
            costs.setdefault(spent, []).append(measured)
    for spent, cases in costs.items():
        seconds = sum(measured.seconds for measured in cases)
        others = f" and {len(cases) - 1} others" if len(cases) > 1 else ""
        table.add_row(f"cost, {cases[0].case}{others}", f"{spent} per sample; {seconds:.2f} s")
    return table


def _summary(verdicts: Sequence[Verdict]) -> Table:
    """One line for each method: its worst score on each kind of case."""
    by_name = {case.name: case for case in all_cases()}
    table = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        caption="worst scores of W2, or of sliced W1 if the posterior is not Gaussian: "
        "0 is exact, 1 ignores the data",
    )
    for label in ("method", "claim", "held", *KINDS, "order", "batch", "adjoint"):
        table.add_column(
            label,
            no_wrap=label == "method",
            justify="right" if label in ("order", "batch", "adjoint") else "left",
        )
    for v in verdicts:
        rotation = "" if v.rotation is None else f"{v.rotation[1] - v.rotation[0]:+.2f}"
        row = [_worst([m for m in v.cases if holds(by_name[m.case])]) for holds in KINDS.values()]
        order = "" if v.order is None else f"{v.order:.1f}"
        batch = "" if v.batch is None else f"{v.batch:.0e}"
        table.add_row(
            v.method, v.claim, "NO" if v.failures else v.outcome, *row, order, batch, rotation
        )
    return table


def _worst(cases: Sequence[Measured]) -> str:
    """The worst score and its case, or what came of the cases."""
    if any(m.failed for m in cases):
        return "error"
    scores = [
        (score, m.case) for m in cases if m.figures and (score := _main_figure(m).score) is not None
    ]
    if not scores:
        return "-"
    score, case = max(scores)
    return f"{_number(score)} {case}"


def _main_figure(measured: Measured) -> Any:
    case = next(c for c in all_cases() if c.name == measured.case)
    return measured.figures[main_figure(case)]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.0f}"


def _print(table: Table) -> None:
    console = Console()
    (console if console.is_terminal else Console(width=170)).print(table)
