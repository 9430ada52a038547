"""Write the tables of docs/leaderboard.md from the committed records.

    inverse bench run photo --out results/records/photo
    python bench/leaderboard.py

The first command runs the missing cells of a suite; the other suites are exact and atmosphere. The
second writes the tables.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from options import new_parser
from output import insert_tables

from inverse.arena.groups import grouped
from inverse.arena.labels import contestant_labels, setting_labels
from inverse.arena.markdown import markdown
from inverse.arena.record import read_records

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "results" / "records"


def tables() -> str:
    """One table of PSNR for the photographs, then all scores of every suite."""
    suites = [
        f"## {path.name}\n\n{markdown(read_records(path))}" for path in sorted(RECORDS.iterdir())
    ]
    return "\n\n".join([f"## PSNR of `photo`\n\n{photo_table()}", *suites])


def photo_table() -> str:
    """Mean PSNR of methods by problems of the suite `photo`, with the best of each problem in bold.

    Methods are ordered by mean PSNR; those that do not run on every problem come last. The last row
    gives the number of photographs (a square of each).
    """
    groups = [
        group
        for group in grouped(read_records(RECORDS / "photo"))
        if group.count("ok") == len(group.records)
    ]
    by_key = {(group.contestant, group.setting): group for group in groups}
    contestants, settings = (list(dict.fromkeys(names)) for names in zip(*by_key, strict=True))
    psnr = {key: group.estimate("psnr").mean for key, group in by_key.items()}
    best = {s: max(psnr[key] for key in psnr if key[1] == s) for s in settings}
    labels = dict(zip(contestants, contestant_labels(contestants), strict=True))

    def mean(contestant: str, metric: str) -> float:
        groups = (by_key[key] for key in by_key if key[0] == contestant)
        return statistics.fmean(group.estimate(metric).mean for group in groups)

    def cell(contestant: str, setting: str) -> str:
        value = psnr.get((contestant, setting))
        if value is None:
            return "-"
        return f"**{value:.2f}**" if value == best[setting] else f"{value:.2f}"

    missing = {c: sum((c, s) not in by_key for s in settings) for c in contestants}
    lines = [
        f"| PSNR (dB) | {' | '.join(setting_labels(settings))} | calls |",
        f"|---|{'---:|' * (len(settings) + 1)}",
    ]
    for c in sorted(contestants, key=lambda c: (missing[c], -mean(c, "psnr"))):
        cells = " | ".join(cell(c, s) for s in settings)
        lines.append(f"| {labels[c]} | {cells} | {mean(c, 'calls'):.0f} |")
    counts = (
        max(by_key[key].estimate("psnr").truths for key in by_key if key[1] == s) for s in settings
    )
    return "\n".join([*lines, f"| *photographs* | {' | '.join(map(str, counts))} | |"]) + "\n"


def main() -> None:
    new_parser(__doc__).parse_args()
    insert_tables(ROOT / "docs" / "leaderboard.md", tables())


if __name__ == "__main__":
    main()
