"""Labels of settings, contestants and budgets: the name, and the options that distinguish it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def setting_labels(settings: Sequence[str]) -> list[str]:
    """Labels of settings (canonical JSON): the problem, and what differs between its settings."""
    parts = [json.loads(setting) for setting in settings]
    priors = [part["prior"]["name"] for part in parts]
    extra = [
        {
            "crop": part["crop"],
            "prior": prior,
            "weights": (part["prior"]["sha256"] or "")[:8],
            "device": part["device"],
            "dtype": part["dtype"],
        }
        for part, prior in zip(parts, priors, strict=True)
    ]
    return _labels(
        [part["name"] for part in parts], [part["options"] or {} for part in parts], extra
    )


def contestant_labels(contestants: Sequence[str]) -> list[str]:
    """Labels of contestants (canonical JSON): the method, and the options that differ."""
    parts = [json.loads(contestant) for contestant in contestants]
    return _labels(
        [part["name"] for part in parts],
        [part["options"] for part in parts],
        [{"samples": part["samples"]} for part in parts],
    )


def _labels(
    names: list[str], options: list[dict[str, Any]], extra: list[dict[str, Any]]
) -> list[str]:
    labels = []
    for name, own, more in zip(names, options, extra, strict=True):
        namesakes = [i for i, other in enumerate(names) if other == name]
        differences = [
            f"{key}={_plain(own[key])}"
            for key in own
            if any(options[i].get(key) != own[key] for i in namesakes)
        ]
        differences += [
            f"{key}={_plain(value)}"
            for key, value in more.items()
            if value is not None and any(extra[i][key] != value for i in namesakes)
        ]
        labels.append(" ".join([name, *differences]))
    return labels


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)


def budget_label(budget: str) -> str:
    """The label of a budget (JSON): "100 evaluations + VJPs" for {"nfe": 100}."""
    forms = {"nfe": "{:g} evaluations + VJPs", "vjp": "{:g} VJPs", "seconds": "{:g} s"}
    limits = json.loads(budget) or {}
    parts = [forms.get(name, f"{name} {{:g}}").format(limit) for name, limit in limits.items()]
    return ", ".join(parts) or "no limit"


def budget_order(budget: str) -> tuple[Any, ...]:
    """Sort key of a budget (JSON): by limits, no limit last."""
    limits = json.loads(budget)
    return (
        limits is None,
        sorted(limits or {}),
        [limit for _, limit in sorted((limits or {}).items())],
    )
