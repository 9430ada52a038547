"""Write docs/gallery.md: registered methods, problems, samplers and metrics, by their own words.

python bench/gallery.py
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from output import insert_tables

from inverse.method import NEEDS
from inverse.registry.discovery import registry

PAGE = Path(__file__).parents[1] / "docs" / "gallery.md"
FIRST_PARTY = ("inverse", "inverse_plugins", "inverse_problems")


def first_sentence(text: str | None) -> str:
    """The first sentence of a docstring on one line, with a final full stop."""
    paragraph = " ".join((text or "").split("\n\n")[0].split())
    return paragraph.split(". ")[0].rstrip(".:") + "."


def method_entry(name: str, cls: Any) -> str:
    needs = "; ".join(NEEDS[need][0] for need in cls.needs) or "nothing particular"
    return (
        f"### `{name}`\n\n{first_sentence(cls.__doc__)}\n\n```\n{cls.equation}\n```\n\n"
        f"Claim: {cls.claim}. Needs: {needs}.\n\n{cls.reference}\n"
    )


def problem_entry(name: str, cls: Any) -> str:
    return f"- `{name}`: {cls.summary}"


def sampler_entry(name: str, sampler: Any) -> str:
    return f"- `{name}`: {first_sentence(sampler.__doc__)}"


def metric_entry(name: str, metric: Any) -> str:
    best = {"higher": "Higher is better.", "lower": "Lower is better."}
    ideal = "" if metric.better is None else f"The ideal is {metric.better}."
    return f"- `{name}`: {metric.label}. {best.get(metric.better, ideal)}".rstrip()


SECTIONS: dict[str, Callable[[str, Any], str]] = {
    "Methods": method_entry,
    "Problems": problem_entry,
    "Samplers": sampler_entry,
    "Metrics": metric_entry,
}


def entries(section: str) -> dict[str, str]:
    """Name to text of every entry of a section that this repository registers."""
    table = registry().table(f"inverse_{section.lower()}")
    return {
        name: SECTIONS[section](name, entry.thing)
        for name, entry in table.items()
        if entry.module.split(".")[0] in FIRST_PARTY
    }


def gallery() -> str:
    return "\n".join(
        f"## {section}\n\n" + "\n".join(entries(section).values()) + "\n" for section in SECTIONS
    )


if __name__ == "__main__":
    insert_tables(PAGE, gallery())
