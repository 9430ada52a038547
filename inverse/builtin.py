"""What the core itself registers, through the same hooks as everybody."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable
from pathlib import Path

from inverse import metrics, perceptual, sampler
from inverse.hookspecs import hookimpl
from inverse.result import Result


@hookimpl
def inverse_samplers() -> dict[str, sampler.Sampler]:
    return sampler.SAMPLERS


@hookimpl
def inverse_metrics() -> dict[str, Callable[[Result], float | None]]:
    return {**metrics.METRICS, **perceptual.METRICS}


@hookimpl
def inverse_priors() -> list[Path]:
    folder = Path(str(importlib.resources.files("inverse_data")))
    return sorted(card for card in folder.glob("*.json") if not card.stem.startswith(("circuit-", "codec-", "structure-")))
