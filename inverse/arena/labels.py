"""What settings, contestants and budgets are called: their names, and what tells them from their namesakes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def setting_labels(settings: Sequence[str]) -> list[str]:
    """The problem's name, and what tells it from the others."""
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
    """The method's name, and those options in which it differs from its namesakes."""
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
        told = [
            f"{key}={_plain(own[key])}"
            for key in own
            if any(options[i].get(key) != own[key] for i in namesakes)
        ]
        told += [
            f"{key}={_plain(value)}"
            for key, value in more.items()
            if value is not None and any(extra[i][key] != value for i in namesakes)
        ]
        labels.append(" ".join([name, *told]))
    return labels


def _plain(value: Any) -> str:
    return (
        f"{value:g}"
        if isinstance(value, float)
        else value
        if isinstance(value, str)
        else json.dumps(value)
    )


def budget_label(budget: str) -> str:
    """ "100 evaluations + VJPs" for {"nfe": 100}."""
    words = {"nfe": "{:g} evaluations + VJPs", "vjp": "{:g} VJPs", "seconds": "{:g} s"}
    limits = json.loads(budget) or {}
    return (
        ", ".join(words.get(name, f"{name} {{:g}}").format(limit) for name, limit in limits.items())
        or "no limit"
    )


def budget_order(budget: str) -> tuple[Any, ...]:
    limits = json.loads(budget)
    return (
        limits is None,
        sorted(limits or {}),
        [limit for _, limit in sorted((limits or {}).items())],
    )
