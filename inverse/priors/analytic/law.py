"""The base of exact laws, the exact posterior of a measurement, and the flat prior."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inverse.priors.prior import Prior

LOG_2PI = math.log(2 * math.pi)


class AnalyticPrior(Prior):
    """Base of the exact laws, in model units and in the precision of the law's buffers."""

    exact = True
    mean: Tensor
    """Mean of x0: (*shape)."""

    @property
    @abstractmethod
    def covariance(self) -> Tensor:
        """Covariance of x0: (n, n), n the number of entries of one x."""

    @property
    def largest_variance(self) -> float:
        """Largest eigenvalue of the covariance."""
        return float(torch.linalg.eigvalsh(self.covariance)[-1])

    @property
    def covering_level(self) -> float:
        """At least sigma_max, and five times the root mean square of x0 in its widest direction."""
        square = self.largest_variance + float(self.mean.square().sum())
        return max(self.sigma_max, 5 * math.sqrt(square))

    @abstractmethod
    def log_density(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """log p_sigma(x), the density of x0 + sigma n, in nats.

        x (B, *shape), sigma () or (B,) -> (B,).
        """

    @abstractmethod
    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Independent draws of x0: (count, *shape)."""

    @property
    def units(self) -> dict[str, float]:
        """Units and noise levels, as keyword arguments of another law of the same x."""
        return {
            "shift": self.shift,
            "scale": self.scale,
            "sigma_min": self.sigma_min,
            "sigma_max": self.sigma_max,
        }


class FlatPrior(Prior):
    """A denoiser that returns its input: no prior information.

    It serves to use an operator alone, and to time a method without a network.
    """

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x


@dataclass(frozen=True)
class Exact:
    """The exact posterior of one measurement, in physical units.

    Args:
        law: law of x given y, model units; its `forward` is the exact posterior denoiser
            E[x0 | x, y].
        log_evidence: log p(y), nats.
    """

    law: Any
    log_evidence: float

    @property
    def mean(self) -> Tensor:
        """Posterior mean: (*shape)."""
        return self.law.decode(self.law.mean)

    @property
    def covariance(self) -> Tensor:
        """Posterior covariance: (n, n), n the number of entries of one x."""
        return self.law.scale**2 * self.law.covariance

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Independent draws of x given y: (count, *shape)."""
        return self.law.decode(self.law.sample(count, generator))
