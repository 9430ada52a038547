"""Methods as deepinv `Reconstructor`s, and deepinv reconstructors as methods.

model = inverse.as_reconstructor(inverse.get_method("red-diff"), prior)
x_hat = model(y, physics)                        # deepinv's call

method = inverse.from_reconstructor(deepinv_model)
result = inverse.solve(posterior, method)        # inverse's call
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inverse.engine import solve
from inverse.measurement import operators
from inverse.measurement.deepinv_import import deepinv
from inverse.measurement.noise import Noise
from inverse.method import Method
from inverse.posterior import Posterior
from inverse.priors.prior import Prior
from inverse.seeding import Generators


def as_reconstructor(
    method: Method, prior: Prior, *, samples: int = 1, seed: int = 0, noise: Noise | None = None
) -> Any:
    """A deepinv `Reconstructor` that returns the posterior mean of `method`.

    It is called as model(y, physics), y (B, *out_shape) -> (B, *shape), physical units.

    Args:
        samples: number of posterior samples for each measurement; the result is their mean.
        seed: random seed of the samples.
        noise: noise of the measurements; by default the likelihood of `physics.noise_model`.

    Raises: at each call, NoiseError without a known likelihood, UnsupportedError if the method
        cannot run on the posterior.
    """

    class Reconstructor(deepinv("models").Reconstructor):  # type: ignore[name-defined, misc]
        def forward(self, y: Tensor, physics: Any, **_: Any) -> Tensor:
            posterior = Posterior(prior, physics, y, noise, dtype=y.dtype)
            return solve(posterior, method, samples=samples, seed=seed).mean.to(y.device)

    return Reconstructor()


def from_reconstructor(reconstructor: Any) -> Method:
    """A method that calls a deepinv reconstructor or any callable.

    It is called as reconstructor(y, physics) -> x, physical units. Each row is solved separately,
    on copies of its measurement and operator and under a private seed, so that changes to the
    arguments and draws from the global generator affect nothing else. Evaluations of the networks
    inside the reconstructor are not counted in the cost.
    """
    return Reconstructed(reconstructor)


@dataclass(frozen=True)
class Reconstructed(Method):
    """A deepinv reconstructor as a method; see `from_reconstructor`."""

    name = "deepinv-reconstructor"
    reference = (
        "Tachella et al., DeepInverse: a Python package for solving imaging inverse problems "
        "with deep learning, 2025"
    )
    claim = "biased"

    reconstructor: Any

    def run(self, posterior: Posterior, samples: int, generator: Generators) -> Iterator[Tensor]:
        rows = [
            self._solve(posterior, y, row)
            for y, row in zip(posterior.y.split(1), generator.rows, strict=True)
        ]
        yield posterior.prior.encode(torch.cat(rows)).to(posterior.dtype)

    def _solve(self, posterior: Posterior, y: Tensor, row: torch.Generator) -> Tensor:
        physics = operators.clone(posterior.operator, posterior.device, posterior.dtype)
        with torch.random.fork_rng(
            devices=[posterior.device] if posterior.device.type == "cuda" else []
        ):
            torch.manual_seed(row.initial_seed())
            return self.reconstructor(y.clone(), physics)
