"""Posterior sampling for inverse problems with a diffusion prior and a forward operator.

Every public name is an attribute of this package, imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from inverse import torchvision_import
from inverse.errors import InverseError

__version__ = "0.1.0"

torchvision_import.install()

MODULES = {
    "operator": "measurement.operators",
    "adjoint_error": "measurement.operators",
    "stack": "measurement.modalities",
    "stacked_noise": "measurement.modalities",
    "Prior": "priors.prior",
    "NetworkPrior": "priors.prior",
    "RescaledPrior": "priors.prior",
    "GaussianPrior": "priors.analytic",
    "LowRankPrior": "priors.analytic",
    "MixturePrior": "priors.analytic",
    "FieldPrior": "priors.field",
    "FlatPrior": "priors.analytic",
    "Exact": "priors.analytic",
    "VolumePrior": "priors.volume",
    "Noise": "measurement.noise",
    "GaussianNoise": "measurement.noise",
    "PoissonNoise": "measurement.noise",
    "LaplaceNoise": "measurement.noise",
    "Posterior": "posterior",
    "Execution": "execution",
    "CG": "execution",
    "Problem": "problem",
    "ImageProblem": "problem",
    "Method": "method",
    "Guidance": "method",
    "Weighted": "method",
    "ParticleMethod": "particles.cloud",
    "standard_normal": "method",
    "noise_levels": "method",
    "Generators": "seeding",
    "seeded": "seeding",
    "Result": "result",
    "Metric": "metrics.metric",
    "solve": "engine",
    "Interrupted": "engine",
    "fit_operator": "operator_fit",
    "compare": "evidence",
    "diagnose": "checks.calibration",
    "verify": "checks.claims",
    "hookimpl": "registry.hooks",
    "Count": "registry.types",
    "Fraction": "registry.types",
    "NonNegative": "registry.types",
    "Positive": "registry.types",
    "Range": "registry.types",
    "Seed": "registry.types",
    "get_method": "registry.discovery",
    "get_problem": "registry.discovery",
    "get_sampler": "sampling.options",
    "load_prior": "priors.loading",
    "read_image": "io.images",
    "read_mask": "io.images",
    "as_reconstructor": "deepinv_reconstructors",
    "from_reconstructor": "deepinv_reconstructors",
}
"""The module that defines each public name."""

__all__ = ["InverseError", "__version__", "physics", *MODULES]

if TYPE_CHECKING:
    from inverse.checks.calibration import diagnose
    from inverse.checks.claims import verify
    from inverse.deepinv_reconstructors import as_reconstructor, from_reconstructor
    from inverse.engine import Interrupted, solve
    from inverse.evidence import compare
    from inverse.execution import CG, Execution
    from inverse.io.images import read_image, read_mask
    from inverse.measurement.modalities import stack, stacked_noise
    from inverse.measurement.noise import GaussianNoise, LaplaceNoise, Noise, PoissonNoise
    from inverse.measurement.operators import adjoint_error, operator
    from inverse.method import Guidance, Method, Weighted, noise_levels, standard_normal
    from inverse.metrics.metric import Metric
    from inverse.operator_fit import fit_operator
    from inverse.particles.cloud import ParticleMethod
    from inverse.posterior import Posterior
    from inverse.priors.analytic import Exact, FlatPrior, GaussianPrior, LowRankPrior, MixturePrior
    from inverse.priors.field import FieldPrior
    from inverse.priors.loading import load_prior
    from inverse.priors.prior import NetworkPrior, Prior, RescaledPrior
    from inverse.priors.volume import VolumePrior
    from inverse.problem import ImageProblem, Problem
    from inverse.registry.discovery import get_method, get_problem
    from inverse.registry.hooks import hookimpl
    from inverse.registry.types import Count, Fraction, NonNegative, Positive, Range, Seed
    from inverse.result import Result
    from inverse.sampling.options import get_sampler
    from inverse.seeding import Generators, seeded

    physics: Any


def __getattr__(name: str) -> Any:
    if name == "physics":
        from inverse.measurement.deepinv_import import deepinv

        return deepinv("physics")
    if name in MODULES:
        value = getattr(importlib.import_module(f"inverse.{MODULES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'inverse' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
