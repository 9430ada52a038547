"""Write what a script measured: Markdown tables, JSON records, and the tables of a page."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from inverse.io.files import write_text

START, END = "<!-- tables -->", "<!-- end -->"


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table without a final newline; every row has a cell (str) for each head."""
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def write_json(path: Path, record: Any) -> None:
    """Write a record as JSON; values that JSON does not know are written as their `str`."""
    write_text(path, json.dumps(record, indent=1, default=str) + "\n")


def write_table(stem: Path, table: str, record: Any) -> None:
    """Write a table to STEM.md and its record to STEM.json."""
    write_text(stem.with_suffix(".md"), table.rstrip("\n") + "\n")
    write_json(stem.with_suffix(".json"), record)


def in_results(path: Path) -> Path:
    """The path of a page's record: `results/NAME` for `docs/NAME`, any other path as it is."""
    return path.parents[1] / "results" / path.name if path.parent.name == "docs" else path


def insert_tables(page: Path, tables: str) -> None:
    """Replace the text of a page between the lines `START` and `END` (or its end); keep the rest.

    Raises: SystemExit if the page has no line `START`.
    """
    before, start, rest = page.read_text().partition(START)
    if not start:
        raise SystemExit(f"{page}: no line {START} that says where the tables go; add one")
    after = END + rest.partition(END)[2] if END in rest else ""
    page.write_text(f"{before}{start}\n{tables.strip()}\n{after}")


def command_line() -> str:
    """The command that runs this script, for the record."""
    return shlex.join(["python", *sys.argv])
