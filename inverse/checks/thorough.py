"""Long verifications: an estimate of their time, and the cases that an interrupted one has done."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from inverse.checks.exact_cases import Figure, all_cases, reference
from inverse.checks.trials import Measured, draw
from inverse.engine import versions
from inverse.errors import InverseError
from inverse.io.files import strict_json, write_text
from inverse.method import Method
from inverse.registry.options import values

TRIAL_SAMPLES = 2
"""Samples of the trial that an estimate is made from."""


def estimated_seconds(method: Method, samples: int, seed: int = 0) -> float:
    """About how long the thorough cases take, from a trial of a few samples on each.

    It is an upper bound for a method whose samples share overhead.
    """
    total, particles = 0.0, getattr(method, "particles", None)
    for case in (case for case in all_cases() if case.thorough):
        made = reference(case.name, samples)
        wanted = made.samples
        if isinstance(particles, int):
            wanted = max(particles, made.particles)
            method = replace(method, **{"particles": TRIAL_SAMPLES})
        started_at = time.perf_counter()
        try:
            draw(method, made.posterior, TRIAL_SAMPLES, seed)
        except InverseError:
            continue  # skipped or failed, in as little time, when its turn comes
        except Exception:  # of a plug-in, which the verification reports
            continue
        total += (time.perf_counter() - started_at) * wanted / TRIAL_SAMPLES
    return total


class Progress:
    """The cases that a verification has measured, in a file, until it ends.

    Args:
        path: of the file, JSON lines.
        methods, samples, seed: what is verified; a file of another request is replaced.
    """

    def __init__(self, path: Path, methods: Sequence[Method], samples: int, seed: int):
        self.path = path
        request: dict[str, Any] = {"methods": [[m.name, values(m)] for m in methods]}
        request |= {"samples": samples, "seed": seed, "versions": versions()}
        self._lines = [strict_json(request)]
        try:
            found = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            found = []
        if found[:1] == self._lines:
            self._lines = found

    def known(self, method: Method) -> dict[str, Measured]:
        """The cases of a method that are done, by name."""
        rows = [json.loads(line) for line in self._lines[1:]]
        return {
            row["case"]["case"]: measured(row["case"])
            for row in rows
            if row["method"] == method.name
        }

    def add(self, method: Method, case: Measured) -> None:
        """Store a case.

        Raises: InputError if the file cannot be written.
        """
        row = {"method": method.name, "case": asdict(case)}
        self._lines.append(strict_json(row))
        write_text(self.path, "\n".join(self._lines) + "\n")

    def finish(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)


def measured(record: dict[str, Any]) -> Measured:
    """`Measured` from its record in JSON."""
    shown = {name: Figure(**figure) for name, figure in record["figures"].items()}
    path = {float(level): distance for level, distance in record["path"].items()}
    return Measured(**{**record, "figures": shown, "path": path})
