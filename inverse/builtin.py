"""The core's own registrations, through the same hooks and entry points as a plug-in's."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inverse.metrics.metric import Metric
from inverse.metrics.shipped import METRICS
from inverse.priors.analytic import LowRankPrior
from inverse.priors.catalogue import fetched_folder
from inverse.priors.foreign.architecture import Architecture
from inverse.priors.foreign.denoisers import RAM, DRUNet, GSDRUNet, SCUNet
from inverse.priors.foreign.edm import EDM, EDMWithADM
from inverse.priors.foreign.edm2 import EDM2
from inverse.priors.foreign.guided_diffusion import GuidedDiffusion
from inverse.priors.loading import load_low_rank
from inverse.registry.hooks import hookimpl
from inverse.sampling import samplers

DATA = Path(str(importlib.resources.files("inverse_data")))


@hookimpl
def inverse_samplers() -> dict[str, samplers.Sampler]:
    return samplers.SAMPLERS


@hookimpl
def inverse_metrics() -> dict[str, Metric]:
    return METRICS


@hookimpl
def inverse_laws() -> dict[str, Callable[..., Any]]:
    return {LowRankPrior.kind: load_low_rank}


@hookimpl
def inverse_architectures() -> list[type[Architecture]]:
    return [GuidedDiffusion, EDM, EDMWithADM, EDM2, DRUNet, GSDRUNet, SCUNet, RAM]


@hookimpl
def inverse_priors() -> list[Path]:
    return [*sorted(DATA.glob("*.json")), *sorted(fetched_folder().glob("[!.]*.json"))]


@hookimpl
def inverse_suites() -> list[Path]:
    return sorted((DATA / "suites").glob("*.toml"))
