"""Symmetric laws of one increment u, as scale mixtures of Gaussians.

u | w ~ N(0, w) or u = 0, where the variance w has a law of its own.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Increments(ABC):
    """A symmetric law of one increment u, a scale mixture of Gaussians.

    Args:
        scale: scale parameter of u, units of x, > 0.
    """

    scale: float = 1.0

    @property
    def std(self) -> float:
        """Standard deviation of u, units of x; infinite if it does not exist."""
        return self.scale

    @property
    def spike(self) -> float:
        """P(u = 0)."""
        return 0.0

    @property
    def jumps(self) -> bool:
        """Whether u has rare large jumps, which chains can move in time only by exchanges of w."""
        return False

    @abstractmethod
    def density(self, u: Tensor) -> Tensor:
        """p(u | u is not the spike) at u, any shape -> same shape."""

    @abstractmethod
    def prior_variances(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Draws of w from its prior, in the shape, dtype and device of `like`."""

    @abstractmethod
    def variances(self, u: Tensor, generator: torch.Generator) -> Tensor:
        """Draws of w given u: any shape -> same shape."""

    def scaled(self, factor: float) -> Increments:
        """The law of factor * u."""
        return replace(self, scale=factor * self.scale)

    def sample(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Independent increments in the shape, dtype and device of `like`."""
        u = self.prior_variances(like, generator).sqrt() * normal(like, generator)
        if not self.spike:
            return u
        return torch.where(uniform(like, generator) < self.spike, torch.zeros_like(u), u)


@dataclass(frozen=True)
class GaussianIncrements(Increments):
    """u ~ N(0, scale^2); w = scale^2."""

    def density(self, u: Tensor) -> Tensor:
        return torch.exp(-0.5 * (u / self.scale) ** 2) / (self.scale * math.sqrt(2 * math.pi))

    def prior_variances(self, like: Tensor, generator: torch.Generator) -> Tensor:
        return torch.full_like(like, self.scale**2)

    def variances(self, u: Tensor, generator: torch.Generator) -> Tensor:
        return self.prior_variances(u, generator)


@dataclass(frozen=True)
class LaplaceIncrements(Increments):
    """p(u) = exp(-|u| / scale) / (2 scale); w is exponential with mean 2 scale^2.

    Given u, 1 / w is inverse-Gaussian with mean 1 / (scale |u|) and shape 1 / scale^2. The draw is
    of w itself, without cancellation as u -> 0.

    Sources: Park, Casella, The Bayesian Lasso, JASA 2008 (the conditional law); Michael, Schucany,
    Haas, Generating Random Variates Using Transformations with Multiple Roots, The American
    Statistician 1976 (the draw).
    """

    @property
    def std(self) -> float:
        return math.sqrt(2) * self.scale

    def density(self, u: Tensor) -> Tensor:
        return torch.exp(-u.abs() / self.scale) / (2 * self.scale)

    def prior_variances(self, like: Tensor, generator: torch.Generator) -> Tensor:
        return -2 * self.scale**2 * torch.log1p(-uniform(like, generator))

    def variances(self, u: Tensor, generator: torch.Generator) -> Tensor:
        inverse_mean, half = self.scale * u.abs(), 0.5 * self.scale**2 * normal(u, generator) ** 2
        root = inverse_mean + half + (half * (2 * inverse_mean + half)).sqrt()
        return torch.where(
            uniform(u, generator) * (root + inverse_mean) <= root, root, inverse_mean**2 / root
        )


@dataclass(frozen=True)
class BernoulliLaplaceIncrements(LaplaceIncrements):
    """u = 0 with probability 1 - rate, otherwise Laplace.

    Args:
        rate: P(u != 0), in (0, 1).
    """

    rate: float = 0.1

    @property
    def std(self) -> float:
        return math.sqrt(2 * self.rate) * self.scale

    @property
    def spike(self) -> float:
        return 1 - self.rate

    def variances(self, u: Tensor, generator: torch.Generator) -> Tensor:
        return torch.where(
            u == 0, self.prior_variances(u, generator), super().variances(u, generator)
        )


@dataclass(frozen=True)
class StudentIncrements(Increments):
    """Student's t: w = df scale^2 / chi^2_df; given u, w = (df scale^2 + u^2) / chi^2_(df + 1).

    Args:
        df: degrees of freedom, a positive integer.
    """

    df: int = 1

    @property
    def std(self) -> float:
        return self.scale * math.sqrt(self.df / (self.df - 2)) if self.df > 2 else math.inf

    @property
    def jumps(self) -> bool:
        return True

    def density(self, u: Tensor) -> Tensor:
        normalisation = math.gamma(self.df / 2) * math.sqrt(self.df * math.pi) * self.scale
        constant = math.gamma((self.df + 1) / 2) / normalisation
        return constant * (1 + (u / self.scale) ** 2 / self.df) ** (-(self.df + 1) / 2)

    def prior_variances(self, like: Tensor, generator: torch.Generator) -> Tensor:
        return self.df * self.scale**2 / _chi_square(like, self.df, generator)

    def variances(self, u: Tensor, generator: torch.Generator) -> Tensor:
        return (self.df * self.scale**2 + u**2) / _chi_square(u, self.df + 1, generator)


def _chi_square(like: Tensor, df: int, generator: torch.Generator) -> Tensor:
    """Sums of df squared standard normals, in the shape, dtype and device of `like`."""
    return normal(like.expand(df, *like.shape), generator).square().sum(0)


def normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normals in the shape, dtype and device of `like`."""
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)


def uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draws of Uniform[0, 1) in the shape, dtype and device of `like`."""
    return torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)
