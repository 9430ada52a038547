"""docs/leaderboard.md and the README's table from the committed records: the text around the tables is kept.

    inverse bench run photo --out bench/records/photo     run what is missing; likewise exact and atmosphere
    python bench/leaderboard.py                            write both
"""

from __future__ import annotations

from pathlib import Path

from pages import put

from inverse.arena.groups import Group, grouped
from inverse.arena.labels import contestant_labels, setting_labels
from inverse.arena.markdown import markdown
from inverse.arena.record import read_records
from inverse.arena.scores import metric

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "bench" / "records"
README_START, README_END = "<!-- photo: written by bench/leaderboard.py -->\n", "<!-- /photo -->"


def tables() -> str:
    return "\n\n".join(f"## {path.name}\n\n{markdown(read_records(path))}" for path in sorted(RECORDS.iterdir()))


def photo_table(score: str = "psnr") -> str:
    """Methods by problems of the suite `photo`: mean scores, the best of each problem in bold, best average first; cost and seconds are means too."""
    groups, read = grouped(read_records(RECORDS / "photo")), metric(score)
    settings, contestants = (list(dict.fromkeys(getattr(group, name) for group in groups)) for name in ("setting", "contestant"))
    found = {(g.contestant, g.setting): g for g in groups if g.estimate(score) and g.count("ok") == len(g.records)}
    best = {s: max(found[c, t].estimate(score).mean for c, t in found if t == s) for s in settings}
    labels = dict(zip(contestants, contestant_labels(contestants), strict=True))

    def mean(contestant: str, name: str) -> float:
        scores = [found[c, s].estimate(name).mean for c, s in found if c == contestant]
        return sum(scores) / len(scores)

    def shown(group: Group | None) -> str:
        if group is None:
            return "-"
        value = group.estimate(score).mean
        return f"**{value:.{read.digits}f}**" if value == best[group.setting] else f"{value:.{read.digits}f}"

    everywhere = {c: sum((c, s) in found for s in settings) for c in contestants}
    rows = sorted((c for c in contestants if everywhere[c]), key=lambda c: (everywhere[c] < len(settings), -mean(c, score), labels[c]))
    lines = [f"| {read.label} ({read.unit}) | {' | '.join(setting_labels(settings))} | calls | seconds |", f"|---|{'---:|' * (len(settings) + 2)}"]
    for c in rows:
        scores = " | ".join(shown(found.get((c, s))) for s in settings)
        lines.append(f"| {labels[c]} | {scores} | {mean(c, 'calls'):.0f} | {mean(c, 'seconds'):.2g} |")
    return "\n".join(lines) + "\n"


def readme(text: str) -> str:
    """The README with its table as the records have it."""
    head, _, rest = text.partition(README_START)
    return f"{head}{README_START}\n{photo_table()}\n{README_END}{rest.partition(README_END)[2]}"


if __name__ == "__main__":
    put(ROOT / "docs" / "leaderboard.md", tables())
    (ROOT / "README.md").write_text(readme((ROOT / "README.md").read_text()))
