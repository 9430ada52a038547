"""The arena's report: one HTML page that needs nothing else, and Markdown tables. Both are functions of the records alone.

plotly.js is carried compressed and is unpacked when the first plot comes into view: that makes the page 1.9 MB instead of
4.8 MB, and a reader of the table does not wait for it. The page's content security policy names its scripts by hash and allows
no connection at all, so that nothing in a record can run or be sent anywhere.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import importlib.resources
import json
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from inverse.arena import statistics
from inverse.arena.record import Record, read_records
from inverse.arena.statistics import COSTS, Comparison, Estimate, Group, metric
from inverse.errors import InputError
from inverse.result import replacing

TEMPLATES = importlib.resources.files("inverse.arena") / "templates"
AXES = ("seconds", "calls", "nfe", "vjp", "peak_memory")


# --- HTML -------------------------------------------------------------------------------------------------------------


def write(records_dir: Path, out: Path) -> Path:
    """Write the page of the records of a folder; `out` is a file, or a folder that gets a report.html.

    Raises: InputError if there are no records, or `out` cannot be written.
    """
    from inverse.arena.gallery import gallery

    folder, out = Path(records_dir), Path(out)
    records = read_records(folder)
    folder = folder if folder.is_dir() else folder.parent
    out = out / "report.html" if out.is_dir() or out.suffix.lower() not in (".html", ".htm") else out
    text = page(records, gallery(folder, records), os.path.relpath(folder, out.parent))
    return save(text, out)


def save(text: str, path: Path) -> Path:
    """Write a page under a temporary name and rename it; returns the path.

    Raises: InputError if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"report {path}: cannot be written ({error.strerror or error})") from error
    return path


def page(records: Sequence[Record], pictures: Any = None, artifacts: str = ".") -> str:
    """The page as text.

    Args:
        records: at least one.
        pictures: a `gallery.Gallery`, or None for no pictures.
        artifacts: the path from the page to the records' folder.

    Raises: InputError without records.
    """
    import jinja2

    if not records:
        raise InputError("report: no records to report on")
    script, style = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.js", "report.css"))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    template = environment.from_string((TEMPLATES / "report.html.j2").read_text(encoding="utf-8"))
    data = payload(records, artifacts)
    return template.render(
        data=data,
        pictures=_scenes(pictures, [cell["cell"] for cell in data["cells"]]),
        plotly=_plotly()[0],
        script=script,
        style=style,
        hashes=[_digest(script), _plotly()[1]],
    )


@lru_cache(maxsize=1)
def _plotly() -> tuple[str, str]:
    """plotly.js compressed, in base64, and the hash of what it unpacks to."""
    text = (importlib.resources.files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode(), _digest(text)


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def payload(records: Sequence[Record], artifacts: str = ".") -> dict[str, Any]:
    """What the page shows, as JSON: names and tables once, everything else by index."""
    groups = statistics.groups(records)
    settings, contestants, budgets, families = (
        list(dict.fromkeys(getattr(group, name) for group in groups)) for name in ("setting", "contestant", "budget", "family")
    )
    budgets.sort(key=_budget_order)
    names = statistics.metrics_of(records)
    cells = [record for group in groups for record in group.records]
    place = {id(record): i for i, record in enumerate(cells)}
    tables: dict[str, list[Any]] = {name: [] for name in ("problem", "method", "prior", "versions", "budget")}
    rows, start, asked = [], 0, statistics.asked(groups)
    for group in groups:
        missing = asked[group.setting, group.budget] - len(group.records)
        rows.append(_row(group, start, names, (settings, contestants, budgets, families)) | {"missing": missing})
        start += len(group.records)
    return {
        "metrics": [{"name": name, **_reading(name)} for name in names],
        "costs": [{"name": name, **_reading(name)} for name in COSTS],
        "settings": setting_labels(settings),
        "contestants": contestant_labels(contestants),
        "families": contestant_labels(families),
        "methods": [json.loads(contestant)["name"] for contestant in contestants],
        "budgets": [budget_label(budget) for budget in budgets],
        "status": dict(Counter(record.status for record in records)),
        "started": [min((r.started for r in records if r.started), default=""), max((r.started for r in records if r.started), default="")],
        "rows": rows,
        "cells": [_cell(record, tables, artifacts) for record in cells],
        "tables": tables,
        "comparisons": _comparisons(groups, names, settings, contestants, budgets),
        "fronts": _fronts(groups, names, settings, budgets),
        "curves": {axis: statistics.curves(groups, axis) for axis in ("steps", "calls")},
        "solved": _solved(groups, names, families, place),
        "observations": [statistics.observations(g for g in groups if g.setting == setting) for setting in settings],
    }


def _reading(name: str) -> dict[str, Any]:
    read = metric(name)
    within = [f"{100 * w:g} %" if read.relative else f"{w:g} {read.unit}".strip() for w in read.within]
    return {"label": read.label, "better": read.better, "unit": read.unit, "digits": read.digits, "within": within}


def _row(group: Group, start: int, names: Sequence[str], lists: tuple[list[str], ...]) -> dict[str, Any]:
    settings, contestants, budgets, families = lists
    return {
        "s": settings.index(group.setting),
        "m": contestants.index(group.contestant),
        "b": budgets.index(group.budget),
        "f": families.index(group.family),
        "at": start,
        "n": [group.count(status) for status in ("ok", "failed", "skipped")],
        "est": {name: _numbers(found) for name in (*names, *COSTS) if (found := group.estimate(name))},
        "eff": _short(group.efficiency),
        "steps": statistics.position(group, "steps"),
    }


def _numbers(found: Estimate) -> list[float | int | None]:
    return [_short(found.mean), _short(found.low), _short(found.high), found.truths]


def _short(number: float | None) -> float | None:
    """Six significant digits are more than anybody measures."""
    return None if number is None or not math.isfinite(number) else float(f"{number:.6g}")


def _cell(record: Record, tables: dict[str, list[Any]], artifacts: str) -> dict[str, Any]:
    """A record with its tables by index and without what is empty."""
    found: dict[str, Any] = {}
    plain = json.loads(json.dumps(vars(record), default=str), parse_constant=lambda name: None)
    for name, item in plain.items():
        if name in tables:
            if item not in tables[name]:
                tables[name].append(item)
            found[name] = tables[name].index(item)
        elif name in ("metrics", "cost"):
            found[name] = {key: _short(number) for key, number in item.items()}
        elif item not in (None, ""):
            found[name] = _short(item) if isinstance(item, float) else item
    if record.artifact:
        found["href"] = quote(f"{Path(artifacts).as_posix()}/{record.artifact}")
    return found


def _comparisons(groups: Sequence[Group], names: Sequence[str], settings: list[str], contestants: list[str], budgets: list[str]) -> list[dict[str, Any]]:
    """By metric, budget and setting; setting -1 is all of them together."""
    found = []
    for b, budget in enumerate(budgets):
        of_budget = [group for group in groups if group.budget == budget]
        scopes = [(s, [group for group in of_budget if group.setting == setting]) for s, setting in enumerate(settings)]
        for s, scope in [*scopes, *([(-1, of_budget)] if len(settings) > 1 else [])]:
            for name in names:
                if (compared := statistics.compare(scope, name)) is not None:
                    found.append({"metric": name, "s": s, "b": b, **_compared(compared, contestants)})
    return found


def _compared(compared: Comparison, contestants: list[str]) -> dict[str, Any]:
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
        "left": [[contestants.index(contestant), count] for contestant, count in compared.left_out.items()],
    }


def _fronts(groups: Sequence[Group], names: Sequence[str], settings: list[str], budgets: list[str]) -> dict[str, list[int]]:
    """Rows on the front by "metric|cost|setting|budget"; budget -1 is all of them."""
    found = {}
    for s, setting in enumerate(settings):
        for b in range(-1, len(budgets)):
            scope = [(i, group) for i, group in enumerate(groups) if group.setting == setting and (b < 0 or group.budget == budgets[b])]
            for name in names:
                for axis in AXES:
                    if front := statistics.front([group for _, group in scope], name, axis):
                        found[f"{name}|{axis}|{s}|{b}"] = [scope[i][0] for i in front]
    return found


def _solved(groups: Sequence[Group], names: Sequence[str], families: list[str], place: dict[int, int]) -> dict[str, list[list[int]]]:
    """Cells that reached the target, cheapest first, for every family, by "metric|level|cost"."""
    found = {}
    for name in names:
        for level, within in enumerate(metric(name).within):
            for axis in ("calls", "seconds"):
                cells = statistics.solved(groups, name, within, axis)
                found[f"{name}|{level}|{axis}"] = [[place[id(record)] for record in cells.get(family, [])] for family in families]
    return found


def _scenes(pictures: Any, cells: list[str]) -> dict[str, Any]:
    if pictures is None:
        return {"scenes": [], "beyond": 0, "unusable": {}}
    place = {cell: i for i, cell in enumerate(cells)}
    scenes = [
        {
            "y": scene.y, "truth": scene.truth, "window": [_short(bound) for bound in scene.window], "high": _short(scene.std_high), "channels": scene.channels,
            "items": [[place[record.cell], mean, std] for record, mean, std in zip(scene.records, scene.means, scene.stds, strict=True)],
        }
        for scene in pictures.scenes
    ]  # fmt: skip
    return {"scenes": scenes, "beyond": pictures.beyond, "unusable": {str(place[cell]): reason for cell, reason in pictures.unusable.items()}}


# --- names ------------------------------------------------------------------------------------------------------------


def setting_labels(settings: Sequence[str]) -> list[str]:
    """The problem's name, and what tells it from the others."""
    parts = [json.loads(setting) for setting in settings]
    priors = [part["prior"]["name"] for part in parts]
    extra = [
        {"crop": part["crop"], "prior": prior, "weights": (part["prior"]["sha256"] or "")[:8], "device": part["device"], "dtype": part["dtype"]}
        for part, prior in zip(parts, priors, strict=True)
    ]
    return _labels([part["name"] for part in parts], [part["options"] or {} for part in parts], extra)


def contestant_labels(contestants: Sequence[str]) -> list[str]:
    """The method's name, and those options in which it differs from its namesakes."""
    parts = [json.loads(contestant) for contestant in contestants]
    return _labels([part["name"] for part in parts], [part["options"] for part in parts], [{"samples": part["samples"]} for part in parts])


def _labels(names: list[str], options: list[dict[str, Any]], extra: list[dict[str, Any]]) -> list[str]:
    labels = []
    for name, own, more in zip(names, options, extra, strict=True):
        namesakes = [i for i, other in enumerate(names) if other == name]
        told = [f"{key}={_plain(own[key])}" for key in own if any(options[i].get(key) != own[key] for i in namesakes)]
        told += [f"{key}={_plain(value)}" for key, value in more.items() if value is not None and any(extra[i][key] != value for i in namesakes)]
        labels.append(" ".join([name, *told]))
    return labels


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def budget_label(budget: str) -> str:
    """ "100 evaluations + VJPs" for {"nfe": 100}."""
    words = {"nfe": "{:g} evaluations + VJPs", "vjp": "{:g} VJPs", "seconds": "{:g} s"}
    limits = json.loads(budget) or {}
    return ", ".join(words.get(name, f"{name} {{:g}}").format(limit) for name, limit in limits.items()) or "no limit"


def _budget_order(budget: str) -> tuple[Any, ...]:
    limits = json.loads(budget)
    return (limits is None, sorted(limits or {}), [limit for _, limit in sorted((limits or {}).items())])


# --- Markdown ---------------------------------------------------------------------------------------------------------


def markdown(records: list[Record]) -> str:
    """A table for every setting and budget: contestants by their mean of the first metric that has a direction, the best of each column in bold.

    A method that finished fewer cells than another is never in bold: its mean is over other cells.
    The first metric carries its 95 % interval over truths; `cells` says how many of those asked for finished.
    """
    groups = statistics.groups(records)
    settings, budgets = (list(dict.fromkeys(getattr(group, name) for group in groups)) for name in ("setting", "budget"))
    contestants = list(dict.fromkeys(group.contestant for group in groups))
    names = dict(zip(contestants, contestant_labels(contestants), strict=True))
    parts = []
    for setting, label in zip(settings, setting_labels(settings), strict=True):
        for budget in sorted(budgets, key=_budget_order):
            if rows := [group for group in groups if (group.setting, group.budget) == (setting, budget)]:
                parts += [f"**{_md(label)}**, {_md(budget_label(budget))}", "", *_table(rows, names), ""]
    unfinished = Counter((r.method["name"], r.status, r.reason or "no reason given") for r in records if r.status != "ok")
    parts += [f"- {count} of {_md(method)} {status}: {_md(reason)}" for (method, status, reason), count in sorted(unfinished.items())]
    return "\n".join(parts).rstrip() + "\n"


def _table(rows: list[Group], names: dict[str, str]) -> list[str]:
    metrics = statistics.metrics_of(record for group in rows for record in group.records)
    columns = [name for name in (*metrics, "nfe", "vjp", "seconds") if any(group.estimate(name) for group in rows)]
    ranked = [name for name in metrics if metric(name).better is not None and name in columns]
    found = {(id(group), name): group.estimate(name) for group in rows for name in columns}

    def loss(group: Group, name: str) -> float:
        return metric(name).loss(mean.mean) if (mean := found[id(group), name]) else math.inf

    most, asked = max(group.count("ok") for group in rows), max(statistics.asked(rows).values())
    best = {name: min(loss(group, name) for group in rows if group.count("ok") == most) for name in ranked}
    if ranked:
        rows = sorted(rows, key=lambda group: (loss(group, ranked[0]), names[group.contestant]))
    heads = [f"{metric(name).label}{f' ({metric(name).unit})' if metric(name).unit else ''}{_arrow(metric(name).better)}" for name in columns]
    lines = [f"| method | {' | '.join(heads)} | cells |", f"|---|{'---:|' * (len(columns) + 1)}"]
    for group in rows:
        shown = []
        for name in columns:
            text = _figure(found[id(group), name], name, interval=name == metrics[0])
            first = group.count("ok") == most and name in best and math.isfinite(best[name]) and loss(group, name) == best[name]
            shown.append(f"**{text}**" if first else text)
        count = group.count("ok")
        lines.append(f"| {_md(names[group.contestant])} | {' | '.join(shown)} | {count if count == asked else f'{count} of {asked}'} |")
    return lines


def _arrow(better: str | float | None) -> str:
    return {"higher": " ↑", "lower": " ↓", None: ""}.get(better) if not isinstance(better, float) else f" → {better:g}"  # type: ignore[return-value]


def _figure(found: Estimate | None, name: str, interval: bool) -> str:
    if found is None:
        return "-"
    form = (lambda number: f"{number:.3g}") if name == "seconds" else (lambda number: f"{number:.{metric(name).digits}f}")
    return f"{form(found.mean)} [{form(found.low)}, {form(found.high)}]" if interval and found.low is not None and found.high is not None else form(found.mean)


def _md(text: str) -> str:
    """Any text as one line of inert Markdown."""
    return re.sub(r"([\\|*_`\[\]])", r"\\\1", html.escape(" ".join(text.split()), quote=False))
