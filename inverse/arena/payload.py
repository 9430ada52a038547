"""The data of the HTML page as JSON: a function of the records alone."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from inverse.arena.estimate import Estimate
from inverse.arena.groups import Group, grouped, observations, observations_asked
from inverse.arena.labels import budget_label, budget_order, contestant_labels, setting_labels
from inverse.arena.ranking import MIN_TRUTHS, Comparison, compare, leaders
from inverse.arena.record import Record
from inverse.arena.tradeoffs import curves, front, position, solved
from inverse.arena.values import COSTS, metric, metrics_of
from inverse.io.files import strict_json

AXES = ("seconds", "calls", "nfe", "vjp", "peak_memory")


def payload(records: Sequence[Record], artifacts: str = ".") -> dict[str, Any]:
    """The data of the page as JSON: names and tables once, everything else by index.

    Args:
        artifacts: path from the page to the folder of the records.
    """
    groups = grouped(records)
    settings, contestants, budgets, families = (
        list(dict.fromkeys(getattr(group, name) for group in groups))
        for name in ("setting", "contestant", "budget", "family")
    )
    budgets.sort(key=budget_order)
    names = metrics_of(records)
    cells = [record for group in groups for record in group.records]
    place = {id(record): i for i, record in enumerate(cells)}
    tables: dict[str, list[Any]] = {
        name: [] for name in ("problem", "method", "prior", "versions", "budget")
    }
    started = [record.started for record in records if record.started]
    rows, start, asked = [], 0, observations_asked(groups)
    for group in groups:
        missing = asked[group.setting, group.budget] - len(group.records)
        rows.append(
            _row(group, start, names, (settings, contestants, budgets, families))
            | {"missing": missing}
        )
        start += len(group.records)
    return {
        "metrics": [{"name": name, **_metric_entry(name)} for name in names],
        "costs": [{"name": name, **_metric_entry(name)} for name in COSTS],
        "settings": setting_labels(settings),
        "contestants": contestant_labels(contestants),
        "families": contestant_labels(families),
        "methods": [json.loads(contestant)["name"] for contestant in contestants],
        "budgets": [budget_label(budget) for budget in budgets],
        "status": dict(Counter(record.status for record in records)),
        "started": [min(started, default=""), max(started, default="")],
        "rows": rows,
        "cells": [_cell(record, tables, artifacts) for record in cells],
        "tables": tables,
        "least": MIN_TRUTHS,
        "leaders": _by_scope(groups, names, settings, budgets, leaders),
        "comparisons": _comparisons(groups, names, settings, contestants, budgets),
        "fronts": _fronts(groups, names, settings, budgets),
        "curves": {axis: curves(groups, axis) for axis in ("steps", "calls")},
        "solved": _solved(groups, names, families, place),
        "observations": [
            observations(g for g in groups if g.setting == setting) for setting in settings
        ],
    }


def _metric_entry(name: str) -> dict[str, Any]:
    read = metric(name)
    within = [
        f"{100 * w:g} %" if read.relative else f"{w:g} {read.unit}".strip() for w in read.within
    ]
    return {
        "label": read.label,
        "better": read.better,
        "unit": read.unit,
        "digits": read.digits,
        "within": within,
    }


def _row(
    group: Group, start: int, names: Sequence[str], lists: tuple[list[str], ...]
) -> dict[str, Any]:
    settings, contestants, budgets, families = lists
    return {
        "s": settings.index(group.setting),
        "m": contestants.index(group.contestant),
        "b": budgets.index(group.budget),
        "f": families.index(group.family),
        "at": start,
        "n": [group.count(status) for status in ("ok", "failed", "skipped")],
        "est": {
            name: _numbers(found) for name in (*names, *COSTS) if (found := group.estimate(name))
        },
        "eff": _short(group.efficiency),
        "steps": position(group, "steps"),
    }


def _numbers(found: Estimate) -> list[float | int | None]:
    return [_short(found.mean), _short(found.low), _short(found.high), found.truths]


def _short(number: float | None) -> float | None:
    """A number with six significant digits; None if it is not finite."""
    return None if number is None or not math.isfinite(number) else float(f"{number:.6g}")


def _cell(record: Record, tables: dict[str, list[Any]], artifacts: str) -> dict[str, Any]:
    """A record without empty fields, its tables replaced by indices."""
    cell: dict[str, Any] = {}
    plain = json.loads(strict_json(vars(record)))
    for name, item in plain.items():
        if name in tables:
            if item not in tables[name]:
                tables[name].append(item)
            cell[name] = tables[name].index(item)
        elif name in ("metrics", "cost"):
            cell[name] = {key: _short(number) for key, number in item.items()}
        elif item not in (None, ""):
            cell[name] = _short(item) if isinstance(item, float) else item
    if record.artifact:
        cell["href"] = quote(f"{Path(artifacts).as_posix()}/{record.artifact}")
    return cell


def _comparisons(
    groups: Sequence[Group],
    names: Sequence[str],
    settings: list[str],
    contestants: list[str],
    budgets: list[str],
) -> list[dict[str, Any]]:
    """Comparisons by metric, budget and setting; setting -1 is all settings together."""
    comparisons = []
    for b, budget in enumerate(budgets):
        of_budget = [group for group in groups if group.budget == budget]
        scopes = [
            (s, [group for group in of_budget if group.setting == setting])
            for s, setting in enumerate(settings)
        ]
        for s, scope in [*scopes, *([(-1, of_budget)] if len(settings) > 1 else [])]:
            for name in names:
                if (comparison := compare(scope, name)) is not None:
                    indices = {"metric": name, "s": s, "b": b}
                    comparisons.append(indices | _comparison(comparison, contestants))
    return comparisons


def _comparison(compared: Comparison, contestants: list[str]) -> dict[str, Any]:
    k = len(compared.contestants)
    return {
        "order": [contestants.index(contestant) for contestant in compared.contestants],
        "ranks": [round(rank, 3) for rank in compared.ranks],
        "blocks": compared.blocks,
        "common": [compared.observations, compared.possible],
        "p": [float(f"{compared.p[i, j]:.2g}") for i in range(k) for j in range(i + 1, k)],
        "friedman": None if compared.friedman is None else float(f"{compared.friedman:.2g}"),
        "cd": round(compared.critical_difference, 3),
        "cliques": compared.cliques,
        "nemenyi": compared.nemenyi,
        "left": [
            [contestants.index(contestant), count]
            for contestant, count in compared.left_out.items()
        ],
    }


def _fronts(
    groups: Sequence[Group], names: Sequence[str], settings: list[str], budgets: list[str]
) -> dict[str, list[int]]:
    """Rows on the Pareto front, by "metric|cost|setting|budget"."""
    fronts = {}
    for axis in AXES:
        on_front = _by_scope(groups, names, settings, budgets, partial(front, cost=axis))
        for key, indices in on_front.items():
            name, *scope = key.rsplit("|", 2)
            fronts["|".join([name, axis, *scope])] = indices
    return fronts


def _by_scope(
    groups: Sequence[Group],
    names: Sequence[str],
    settings: list[str],
    budgets: list[str],
    choose: Callable[[list[Group], str], list[int]],
) -> dict[str, list[int]]:
    """Rows that `choose` selects, by "metric|setting|budget"; budget -1 is all budgets."""
    chosen = {}
    for s, setting in enumerate(settings):
        for b in range(-1, len(budgets)):
            scope = [
                (i, group)
                for i, group in enumerate(groups)
                if group.setting == setting and (b < 0 or group.budget == budgets[b])
            ]
            for name in names:
                if indices := choose([group for _, group in scope], name):
                    chosen[f"{name}|{s}|{b}"] = [scope[i][0] for i in indices]
    return chosen


def _solved(
    groups: Sequence[Group], names: Sequence[str], families: list[str], place: dict[int, int]
) -> dict[str, list[list[int]]]:
    """Cells that reach the target, cheapest first, for every family, by "metric|level|cost"."""
    reached = {}
    for name in names:
        for level, within in enumerate(metric(name).within):
            for axis in ("calls", "seconds"):
                cells = solved(groups, name, within, axis)
                reached[f"{name}|{level}|{axis}"] = [
                    [place[id(record)] for record in cells.get(family, [])] for family in families
                ]
    return reached


def scenes(pictures: Any, cells: list[str]) -> dict[str, Any]:
    """The pictures of a gallery as JSON, cells by index; `pictures` is a `Gallery` or None."""
    if pictures is None:
        return {"scenes": [], "beyond": 0, "unusable": {}}
    place = {cell: i for i, cell in enumerate(cells)}
    scenes = [
        {
            "y": scene.y,
            "truth": scene.truth,
            "window": [_short(bound) for bound in scene.window],
            "high": _short(scene.std_high),
            "channels": scene.channels,
            "items": [
                [place[record.cell], mean, std]
                for record, mean, std in zip(scene.records, scene.means, scene.stds, strict=True)
            ],
        }
        for scene in pictures.scenes
    ]
    return {
        "scenes": scenes,
        "beyond": pictures.beyond,
        "unusable": {str(place[cell]): reason for cell, reason in pictures.unusable.items()},
    }
