"""The leaderboard as comma-separated values: one row for each setting, budget and method."""

from __future__ import annotations

import csv
import io

from inverse.arena.groups import grouped
from inverse.arena.labels import budget_label, contestant_labels, setting_labels
from inverse.arena.record import Record
from inverse.arena.values import COSTS, metrics_of

STATUSES = ("ok", "failed", "skipped")


def csv_table(records: list[Record]) -> str:
    """Means over truths with the ends of their 95 % intervals, costs, and counts of cells.

    An empty field is a value that no cell has. Text that a spreadsheet would compute is quoted.
    """
    groups = grouped(records)
    settings = list(dict.fromkeys(group.setting for group in groups))
    contestants = list(dict.fromkeys(group.contestant for group in groups))
    setting = dict(zip(settings, setting_labels(settings), strict=True))
    contestant = dict(zip(contestants, contestant_labels(contestants), strict=True))
    names = [
        name
        for name in (*metrics_of(records), *COSTS)
        if any(group.estimate(name) for group in groups)
    ]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    numbers = [f"{name}{end}" for name in names for end in ("", "_low", "_high", "_truths")]
    writer.writerow(["problem", "budget", "method", *numbers, "efficiency", *STATUSES])
    for group in groups:
        labels = (setting[group.setting], budget_label(group.budget), contestant[group.contestant])
        row: list[object] = [_inert(label) for label in labels]
        for name in names:
            mean = group.estimate(name)
            row += (
                ["", "", "", ""] if mean is None else [mean.mean, mean.low, mean.high, mean.truths]
            )
        writer.writerow([*row, group.efficiency, *(group.count(status) for status in STATUSES)])
    return out.getvalue()


def _inert(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
