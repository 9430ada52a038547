"""The leaderboard as Markdown tables: a function of the records alone."""

from __future__ import annotations

import html
import math
import re
from collections import Counter

from inverse.arena.estimate import Estimate
from inverse.arena.groups import Group, grouped, observations_asked
from inverse.arena.labels import budget_label, budget_order, contestant_labels, setting_labels
from inverse.arena.record import Record
from inverse.arena.values import metric, metrics_of
from inverse.metrics.metric import Metric


def markdown(records: list[Record]) -> str:
    """A table for every setting and budget, with the best value of each column in bold.

    Contestants are sorted by their mean of the first metric that has a direction. A method that
    finished fewer cells than another is never in bold, because its mean is over other cells. The
    first metric has its 95 % interval over truths. `efficiency` is measured floor over wall time;
    `cells` is the number of cells that finished.
    """
    groups = grouped(records)
    settings, budgets = (
        list(dict.fromkeys(getattr(group, name) for group in groups))
        for name in ("setting", "budget")
    )
    contestants = list(dict.fromkeys(group.contestant for group in groups))
    names = dict(zip(contestants, contestant_labels(contestants), strict=True))
    parts = []
    for setting, label in zip(settings, setting_labels(settings), strict=True):
        for budget in sorted(budgets, key=budget_order):
            if rows := [
                group for group in groups if (group.setting, group.budget) == (setting, budget)
            ]:
                parts += [
                    f"**{_escaped(label)}**, {_escaped(budget_label(budget))}",
                    "",
                    *_table(rows, names),
                    "",
                ]
    unfinished = Counter(
        (r.method["name"], r.status, r.reason or "no reason given")
        for r in records
        if r.status != "ok"
    )
    parts += [
        f"- {count} of {_escaped(method)} {status}: {_escaped(reason)}"
        for (method, status, reason), count in sorted(unfinished.items())
    ]
    return "\n".join(parts).rstrip() + "\n"


def _table(rows: list[Group], names: dict[str, str]) -> list[str]:
    metrics = metrics_of(record for group in rows for record in group.records)
    columns = [
        name
        for name in (*metrics, "nfe", "vjp", "seconds")
        if any(group.estimate(name) for group in rows)
    ]
    ranked = [name for name in metrics if metric(name).better is not None and name in columns]
    means = {(id(group), name): group.estimate(name) for group in rows for name in columns}

    def loss(group: Group, name: str) -> float:
        return metric(name).loss(mean.mean) if (mean := means[id(group), name]) else math.inf

    largest = max(group.count("ok") for group in rows)
    asked = max(observations_asked(rows).values())
    complete = [group for group in rows if group.count("ok") == largest]
    best = {name: min(loss(group, name) for group in complete) for name in ranked}
    if ranked:
        rows = sorted(rows, key=lambda group: (loss(group, ranked[0]), names[group.contestant]))
    heads = [f"{metric(name).heading}{_arrow(metric(name))}" for name in columns]
    lines = [
        f"| method | {' | '.join(heads)} | efficiency | cells |",
        f"|---|{'---:|' * (len(columns) + 2)}",
    ]
    for group in rows:
        shown = []
        for name in columns:
            text = _number(means[id(group), name], name, interval=name == metrics[0])
            is_best = (
                group.count("ok") == largest
                and name in best
                and math.isfinite(best[name])
                and loss(group, name) == best[name]
            )
            shown.append(f"**{text}**" if is_best else text)
        count = group.count("ok")
        efficiency = "-" if group.efficiency is None else f"{100 * group.efficiency:.0f} %"
        cells = str(count) if count == asked else f"{count} of {asked}"
        label = _escaped(names[group.contestant])
        lines.append(f"| {label} | {' | '.join(shown)} | {efficiency} | {cells} |")
    return lines


def _arrow(metric: Metric) -> str:
    if metric.ideal is not None:
        return f" → {metric.ideal:g}"
    return {"higher": " ↑", "lower": " ↓"}.get(str(metric.better), "")


def _number(estimate: Estimate | None, name: str, interval: bool) -> str:
    if estimate is None:
        return "-"
    form = ".3g" if name == "seconds" else f".{metric(name).digits}f"
    mean, low, high = estimate.mean, estimate.low, estimate.high
    if interval and low is not None and high is not None:
        return f"{mean:{form}} [{low:{form}}, {high:{form}}]"
    return f"{mean:{form}}"


def _escaped(text: str) -> str:
    """Any text as one line of Markdown without effect."""
    return re.sub(r"([\\|*_`\[\]])", r"\\\1", html.escape(" ".join(text.split()), quote=False))
