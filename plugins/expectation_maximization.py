"""OSEM and Richardson-Lucy: maximum likelihood of Poisson counts by expectation maximisation.

Shepp, Vardi, Maximum Likelihood Reconstruction for Emission Tomography, IEEE TMI 1982; Hudson,
Larkin, Accelerated Image Reconstruction Using Ordered Subsets of Projection Data, IEEE TMI 1994,
https://doi.org/10.1109/42.363108; Richardson, JOSA 1972; Lucy, Astronomical Journal 1974.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

import inverse

DARK = 1e-12
"""Least expected count by which a count is divided, relative to the largest."""


@dataclass(frozen=True)
class RichardsonLucy(inverse.Method):
    """Multiply x by A^T (y / A x) / A^T 1; from a uniform image. x stays at or above 0.

    Stopping early regularises. A background in A x is kept. For a linear operator without
    background every step keeps the total: sum A x = sum y.

    Args:
        steps: iterations.
    """

    name = "richardson-lucy"
    group = "baselines"
    reference = (
        "Richardson, Bayesian-Based Iterative Method of Image Restoration, JOSA 1972; Lucy, An "
        "Iterative Technique for the Rectification of Observed Distributions, AJ 1974"
    )
    equation = "x' = x A^T (y / A x) / A^T 1"
    claim = "none"
    units = "y are counts, whose Poisson law has no other units"

    steps: inverse.Count = 50

    def unsupported(self, posterior: inverse.Posterior) -> str | None:
        if isinstance(posterior.noise, inverse.PoissonNoise):
            return super().unsupported(posterior)
        return (
            f"{self.name} needs Poisson noise, this posterior has {posterior.noise!r}; "
            "state likelihood=poisson for pet and microscopy"
        )

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        prior, parts = posterior.prior, self.parts(posterior.y)
        intensity = torch.ones(
            len(posterior), *posterior.shape, dtype=posterior.dtype, device=posterior.device
        )
        scale = posterior.y.clamp_min(0).sum() / posterior.A(prior.encode(intensity)).sum()
        intensity = intensity * float(scale.clamp(1e-6, 1e6))
        sensitivity = [posterior.A_vjp(prior.encode(intensity), part) for part in parts]
        for _ in range(self.steps):
            for part, seen in zip(parts, sensitivity, strict=True):
                x = prior.encode(intensity)
                expected = posterior.A(x)
                ratio = posterior.y.clamp_min(0) / expected.clamp_min(DARK * expected.max())
                least = 1e-6 * seen.max()
                gain = posterior.A_vjp(x, part * ratio) / seen.clamp_min(least)
                intensity = intensity * torch.where(seen > least, gain.clamp_min(0), 0.0)
            yield prior.encode(intensity)

    def parts(self, y: Tensor) -> list[Tensor]:
        """Indicators of the subsets of the measurements, each like y."""
        return [torch.ones_like(y)]


@dataclass(frozen=True)
class OSEM(RichardsonLucy):
    """Expectation maximisation over subsets of the views in turn; x stays at or above 0.

    One subset is MLEM. Subsets do not converge to the maximum, but pass near it sooner.

    Args:
        steps: passes over all subsets.
        subsets: number of subsets; each takes every subsets-th view.
    """

    name = "osem"
    group = "baselines"
    reference = (
        "Hudson, Larkin, Accelerated Image Reconstruction Using Ordered Subsets of Projection "
        "Data, IEEE TMI 1994, https://doi.org/10.1109/42.363108"
    )
    equation = "x' = x A_s^T (y_s / A_s x) / A_s^T 1 for each subset s of the views"

    steps: inverse.Count = 8
    subsets: Annotated[int, inverse.Range(1, 1000)] = 4

    def parts(self, y: Tensor) -> list[Tensor]:
        count = min(self.subsets, y.shape[-2]) if y.ndim == 4 else 1
        indicators = []
        for subset in range(count):
            part = torch.zeros_like(y)
            part[..., subset::count, :] = 1
            indicators.append(part if y.ndim == 4 else torch.ones_like(y))
        return indicators


@inverse.hookimpl
def inverse_methods():
    return [OSEM, RichardsonLucy]
