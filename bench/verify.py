"""Check every registered method against its claim, for the table of docs/verify.md.

    python bench/verify.py --write docs/verify

Prints the table. With --write, the script inserts it into docs/verify.md and writes
results/verify.json. Verdicts are stored one by one in out/bench-verify, and an interrupted run
resumes from them.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch
from options import new_parser
from output import in_results, insert_tables, markdown_table, write_json

from inverse.checks.claims import Verdict, judge, verify
from inverse.checks.exact_cases import all_cases, main_figure, reference
from inverse.checks.thorough import measured
from inverse.registry.discovery import get_method, registry

CASES = [case for case in all_cases() if not case.thorough]
UNUSUAL = [case for case in CASES if case.problem == "unusual-data"]
SCORED = [case for case in CASES if case not in UNUSUAL]


def tables(verdicts: list[Verdict]) -> str:
    """The scores on informative data, and the distances on unusual data."""
    ranked = sorted(verdicts, key=rank)
    heads = ["method", "claim", "held", *(case.name for case in SCORED), "order"]
    scores = markdown_table(heads, map(score_row, ranked))
    heads = ["W2", *(case.name for case in UNUSUAL)]
    references = [reference(case.name, 1000) for case in UNUSUAL]
    rows = [
        ["exact draws", *(f"{r.values['W2']:.2f}" for r in references)],
        ["the prior alone", *(f"{r.prior['W2']:.2f}" for r in references)],
        *(distance_row(v) for v in ranked if v.claim not in ("none", "point estimate")),
    ]
    return f"{scores}\n\nThe Wasserstein distance on unusual data:\n\n{markdown_table(heads, rows)}"


def score_row(v: Verdict) -> list[str]:
    by_name = {m.case: m for m in v.cases}
    scores = [
        by_name[c.name].figures[main_figure(c)].score if by_name[c.name].figures else None
        for c in SCORED
    ]
    return [
        f"`{v.method}`",
        str(v.claim),
        "**no**" if v.failures else v.outcome,
        *("-" if s is None else f"{s:.2f}" if s < 10 else f"{s:.0f}" for s in scores),
        "" if v.order is None else f"{v.order:.1f}",
    ]


def distance_row(v: Verdict) -> list[str]:
    by_name = {m.case: m for m in v.cases}
    found = [by_name[c.name].figures.get("W2") for c in UNUSUAL]
    return [f"`{v.method}`", *("-" if f is None else f"{f.value:.2f}" for f in found)]


def verdict_of(record: dict[str, Any]) -> Verdict:
    """A verdict from its record."""
    cases = [measured(case) for case in record["cases"]]
    effort = {float(factor): value for factor, value in record["effort"].items()}
    response = {float(factor): tuple(v) for factor, v in record["response"].items()}
    sharp = {
        name: {float(factor): v for factor, v in curve.items()}
        for name, curve in record.get("sharp", {}).items()
    }
    verdict = Verdict(
        **{**record, "sharp": sharp, "cases": cases, "effort": effort, "response": response}
    )
    return judge(get_method(verdict.method), verdict)


def rank(v: Verdict) -> float:
    """Mean score of the cases that ran, each at most 1."""
    main = {case.name: main_figure(case) for case in SCORED}
    scores = [
        min(m.figures[main[m.case]].score or 0, 1) for m in v.cases if m.figures and m.case in main
    ]
    return sum(scores) / len(scores) if scores else float("inf")


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--methods", nargs="+", default=sorted(registry().table("inverse_methods")))
    parser.add_argument(
        "--write", help="page (without .md) into which to insert the table; writes its record"
    )
    parser.add_argument(
        "--store", type=Path, default=Path("out/bench-verify"), help="folder of stored verdicts"
    )
    parser.add_argument("--stored", action="store_true", help="show the stored verdicts only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    verdicts = []
    for name in arguments.methods:
        stored = arguments.store / f"{name}.json"
        if arguments.stored and not stored.exists():
            print(name, "is left out: it has no stored verdict")
            continue
        if not stored.exists():
            started_at = time.process_time()
            verdict = verify(name)
            print(name, verdict.outcome, *verdict.failures, sep="\n  ", flush=True)
            print(f"  {time.process_time() - started_at:.0f} processor seconds", flush=True)
            write_json(stored, dataclasses.asdict(verdict))
        verdicts.append(verdict_of(json.loads(stored.read_text())))
    text = tables(verdicts)
    print(text)
    if arguments.write:
        insert_tables(Path(f"{arguments.write}.md"), text)
        records = [dataclasses.asdict(v) for v in verdicts]
        write_json(in_results(Path(f"{arguments.write}.json")), records)


if __name__ == "__main__":
    main()
