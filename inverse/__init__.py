"""Posterior sampling for inverse problems: a diffusion prior, a forward operator, methods that compete and are checked.

Everything public hangs on this name and is imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from inverse.errors import InverseError

__version__ = "0.1.0"

_HOME = {
    "operator": "operators",
    "adjoint_error": "operators",
    "stack": "modalities",
    "stacked_noise": "modalities",
    "Prior": "prior",
    "NetworkPrior": "prior",
    "RescaledPrior": "prior",
    "GaussianPrior": "analytic",
    "LowRankPrior": "analytic",
    "MixturePrior": "analytic",
    "FieldPrior": "field",
    "FlatPrior": "analytic",
    "Exact": "analytic",
    "Noise": "noise",
    "GaussianNoise": "noise",
    "PoissonNoise": "noise",
    "LaplaceNoise": "noise",
    "Posterior": "posterior",
    "Execution": "evaluation.execution",
    "CG": "linalg",
    "Problem": "problem",
    "ImageProblem": "problem",
    "Method": "method",
    "Guidance": "method",
    "Weighted": "method",
    "ParticleMethod": "smc",
    "standard_normal": "method",
    "noise_levels": "method",
    "Generators": "seeding",
    "seeded": "seeding",
    "Result": "result",
    "solve": "engine",
    "Interrupted": "engine",
    "diagnose": "checks.calibration",
    "verify": "checks.referee",
    "hookimpl": "hookspecs",
    "get_method": "plugins",
    "get_problem": "plugins",
    "get_sampler": "plugins",
    "load_prior": "assets",
    "read_image": "images",
    "as_reconstructor": "bridge",
    "from_reconstructor": "bridge",
}

__all__ = ["InverseError", "__version__", "physics", *_HOME]

if TYPE_CHECKING:
    from inverse.analytic import Exact, FlatPrior, GaussianPrior, LowRankPrior, MixturePrior
    from inverse.assets import load_prior
    from inverse.bridge import as_reconstructor, from_reconstructor
    from inverse.checks.calibration import diagnose
    from inverse.checks.referee import verify
    from inverse.engine import Interrupted, solve
    from inverse.evaluation.execution import Execution
    from inverse.field import FieldPrior
    from inverse.hookspecs import hookimpl
    from inverse.images import read_image
    from inverse.linalg import CG
    from inverse.method import Guidance, Method, Weighted, noise_levels, standard_normal
    from inverse.modalities import stack, stacked_noise
    from inverse.noise import GaussianNoise, LaplaceNoise, Noise, PoissonNoise
    from inverse.operators import adjoint_error, operator
    from inverse.plugins import get_method, get_problem, get_sampler
    from inverse.posterior import Posterior
    from inverse.prior import NetworkPrior, Prior, RescaledPrior
    from inverse.problem import ImageProblem, Problem
    from inverse.result import Result
    from inverse.seeding import Generators, seeded
    from inverse.smc import ParticleMethod

    physics: Any


def __getattr__(name: str) -> Any:
    if name == "physics":
        from inverse._deepinv import deepinv

        return deepinv("physics")
    if name in _HOME:
        value = getattr(importlib.import_module(f"inverse.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'inverse' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
