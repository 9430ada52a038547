"""docs/leaderboard.md and the README's table from the committed records: the text around the tables is kept.

inverse bench run photo --out bench/records/photo     run what is missing; likewise exact and atmosphere
python bench/leaderboard.py                            write both
"""

from __future__ import annotations

import statistics
from pathlib import Path

from pages import put

from inverse.arena.groups import grouped
from inverse.arena.labels import contestant_labels, setting_labels
from inverse.arena.markdown import markdown
from inverse.arena.record import read_records

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "bench" / "records"


def tables() -> str:
    return "\n\n".join(
        f"## {path.name}\n\n{markdown(read_records(path))}" for path in sorted(RECORDS.iterdir())
    )


def photo_table() -> str:
    """Methods by problems of the suite `photo`: mean PSNR, the best of each problem in bold, best average first, then who does not run everywhere;
    in the last row how many squares, each of another photograph, the means are over.
    """
    groups = [
        group
        for group in grouped(read_records(RECORDS / "photo"))
        if group.count("ok") == len(group.records)
    ]
    found = {(group.contestant, group.setting): group for group in groups}
    contestants, settings = (list(dict.fromkeys(names)) for names in zip(*found, strict=True))
    psnr = {key: group.estimate("psnr").mean for key, group in found.items()}
    best = {
        setting: max(value for (_, where), value in psnr.items() if where == setting)
        for setting in settings
    }
    labels = dict(zip(contestants, contestant_labels(contestants), strict=True))

    def mean(contestant: str, name: str) -> float:
        return statistics.fmean(
            group.estimate(name).mean for (who, _), group in found.items() if who == contestant
        )

    def shown(contestant: str, setting: str) -> str:
        value = psnr.get((contestant, setting))
        return (
            "-"
            if value is None
            else f"**{value:.2f}**"
            if value == best[setting]
            else f"{value:.2f}"
        )

    missing = {c: sum((c, s) not in found for s in settings) for c in contestants}
    lines = [
        f"| PSNR (dB) | {' | '.join(setting_labels(settings))} | calls |",
        f"|---|{'---:|' * (len(settings) + 1)}",
    ]
    for c in sorted(contestants, key=lambda c: (missing[c], -mean(c, "psnr"))):
        lines.append(
            f"| {labels[c]} | {' | '.join(shown(c, s) for s in settings)} | {mean(c, 'calls'):.0f} |"
        )
    truths = (
        max(
            group.estimate("psnr").truths for (_, where), group in found.items() if where == setting
        )
        for setting in settings
    )
    return "\n".join([*lines, f"| *photographs* | {' | '.join(map(str, truths))} | |"]) + "\n"


if __name__ == "__main__":
    put(ROOT / "docs" / "leaderboard.md", tables())
    put(ROOT / "README.md", photo_table())
