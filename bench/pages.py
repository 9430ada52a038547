"""Where a benchmark's tables go in a page of prose: between two marks, or from the one to the end of the page."""

from __future__ import annotations

from pathlib import Path

START, END = "<!-- tables -->", "<!-- end -->"


def put(page: Path, text: str, start: str = START) -> None:
    """Replace what stands between `start` and `END` in a page, or from `start` on where it has no `END`; the prose stays."""
    prose, found, rest = page.read_text().partition(start)
    if not found:
        raise SystemExit(f"{page}: no place for the tables, it has no line {start}")
    after = END + rest.partition(END)[2] if END in rest else ""
    page.write_text(f"{prose}{start}\n{text.strip()}\n{after}")
