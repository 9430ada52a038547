"""Check every registered method against its claim, for the table of docs/verify.md.

    python bench/verify.py --write docs/verify

Prints the table. With --write, the script inserts it into docs/verify.md and writes
results/verify.json.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from options import new_parser
from output import in_results, insert_tables, markdown_table, write_json

from inverse.checks.claims import Verdict, verify
from inverse.checks.exact_cases import all_cases, main_figure
from inverse.registry.discovery import registry


def table(verdicts: list[Verdict]) -> str:
    heads = ["method", "claim", "held", *(case.name for case in all_cases()), "order", "batch"]
    return markdown_table(heads, map(table_row, sorted(verdicts, key=rank)))


def table_row(v: Verdict) -> list[str]:
    scores = [
        m.figures[main_figure(c)].score if m.figures else None
        for m, c in zip(v.cases, all_cases(), strict=True)
    ]
    return [
        f"`{v.method}`",
        str(v.claim),
        "**no**" if v.failures else v.outcome,
        *("-" if s is None else f"{s:.3f}" if s < 10 else f"{s:.0f}" for s in scores),
        "" if v.order is None else f"{v.order:.1f}",
        "" if v.batch is None else f"{v.batch:.0e}",
    ]


def rank(v: Verdict) -> float:
    """Mean score of the cases that ran, each at most 1."""
    scores = [
        min(m.figures[main_figure(c)].score or 0, 1)
        for m, c in zip(v.cases, all_cases(), strict=True)
        if m.figures
    ]
    return sum(scores) / len(scores) if scores else float("inf")


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--methods", nargs="+", default=sorted(registry().table("inverse_methods")))
    parser.add_argument(
        "--write", help="page (without .md) into which to insert the table; writes its record"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    verdicts = []
    for name in arguments.methods:
        verdicts.append(verify(name))
        print(name, verdicts[-1].outcome, *verdicts[-1].failures, flush=True)
    text = table(verdicts)
    print(text)
    if arguments.write:
        insert_tables(Path(f"{arguments.write}.md"), text)
        records = [dataclasses.asdict(v) for v in verdicts]
        write_json(in_results(Path(f"{arguments.write}.json")), records)


if __name__ == "__main__":
    main()
