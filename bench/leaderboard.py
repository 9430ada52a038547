"""docs/leaderboard.md from the committed records: what stands above its tables is kept.

    inverse bench run exact --out bench/records/exact     run what is missing
    python bench/leaderboard.py                            write the page
"""

from __future__ import annotations

from pathlib import Path

from inverse.arena.markdown import markdown
from inverse.arena.record import read_records

ROOT = Path(__file__).parents[1]
START = "<!-- tables -->"


def tables() -> str:
    return "\n\n".join(f"## {path.name}\n\n{markdown(read_records(path))}" for path in sorted((ROOT / "bench" / "records").iterdir()))


if __name__ == "__main__":
    page = ROOT / "docs" / "leaderboard.md"
    page.write_text(page.read_text().split(START)[0] + f"{START}\n\n{tables().rstrip()}\n")
