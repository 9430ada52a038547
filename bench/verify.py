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
from inverse.checks.exact_cases import all_cases, main_figure
from inverse.checks.thorough import measured
from inverse.registry.discovery import get_method, registry

CASES = [case for case in all_cases() if not case.thorough]


def table(verdicts: list[Verdict]) -> str:
    heads = ["method", "claim", "held", *(case.name for case in CASES), "order", "batch"]
    return markdown_table(heads, map(table_row, sorted(verdicts, key=rank)))


def table_row(v: Verdict) -> list[str]:
    scores = [
        m.figures[main_figure(c)].score if m.figures else None
        for m, c in zip(v.cases, CASES, strict=True)
    ]
    return [
        f"`{v.method}`",
        str(v.claim),
        "**no**" if v.failures else v.outcome,
        *("-" if s is None else f"{s:.3f}" if s < 10 else f"{s:.0f}" for s in scores),
        "" if v.order is None else f"{v.order:.1f}",
        "" if v.batch is None else f"{v.batch:.0e}",
    ]


def verdict_of(record: dict[str, Any]) -> Verdict:
    """A verdict from its record."""
    cases = [measured(case) for case in record["cases"]]
    effort = {float(factor): value for factor, value in record["effort"].items()}
    response = {float(factor): tuple(v) for factor, v in record["response"].items()}
    verdict = Verdict(**{**record, "cases": cases, "effort": effort, "response": response})
    return judge(get_method(verdict.method), verdict)


def rank(v: Verdict) -> float:
    """Mean score of the cases that ran, each at most 1."""
    scores = [
        min(m.figures[main_figure(c)].score or 0, 1)
        for m, c in zip(v.cases, CASES, strict=True)
        if m.figures
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
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    verdicts = []
    for name in arguments.methods:
        stored = arguments.store / f"{name}.json"
        if not stored.exists():
            started_at = time.process_time()
            verdict = verify(name)
            print(name, verdict.outcome, *verdict.failures, sep="\n  ", flush=True)
            print(f"  {time.process_time() - started_at:.0f} processor seconds", flush=True)
            write_json(stored, dataclasses.asdict(verdict))
        verdicts.append(verdict_of(json.loads(stored.read_text())))
    text = table(verdicts)
    print(text)
    if arguments.write:
        insert_tables(Path(f"{arguments.write}.md"), text)
        records = [dataclasses.asdict(v) for v in verdicts]
        write_json(in_results(Path(f"{arguments.write}.json")), records)


if __name__ == "__main__":
    main()
