"""Symmetric laws of one increment, as scale mixtures of Gaussians."""

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
        scale: of u, > 0.
    """

    scale: float = 1.0

    @property
    def std(self) -> float:
        """Standard deviation of u; infinite where it does not exist."""
        return self.scale

    @property
    def spike(self) -> float:
        """P(u = 0)."""
        return 0.0

    @property
    def jumps(self) -> bool:
        """Whether u now and then dwarfs its neighbours, so that chains must be helped to move a jump in time."""
        return False

    @abstractmethod
    def density(self, u: Tensor) -> Tensor:
        """p(u), given that u is not the spike: any shape -> same."""

    @abstractmethod
    def prior_variances(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Draws of w in the shape and dtype of a tensor."""

    @abstractmethod
    def variances(self, u: Tensor, generator: torch.Generator) -> Tensor:
        """Draws of w given u: any shape -> same."""

    def scaled(self, factor: float) -> Increments:
        """The law of factor u."""
        return replace(self, scale=factor * self.scale)

    def sample(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Independent increments in the shape and dtype of a tensor."""
        u = self.prior_variances(like, generator).sqrt() * normal(like, generator)
        return (
            torch.where(uniform(like, generator) < self.spike, torch.zeros_like(u), u)
            if self.spike
            else u
        )


@dataclass(frozen=True)
class GaussianIncrements(Increments):
    """N(0, scale^2)."""

    def density(self, u: Tensor) -> Tensor:
        return torch.exp(-0.5 * (u / self.scale) ** 2) / (self.scale * math.sqrt(2 * math.pi))

    def prior_variances(self, like: Tensor, generator: torch.Generator) -> Tensor:
        return torch.full_like(like, self.scale**2)

    def variances(self, u: Tensor, generator: torch.Generator) -> Tensor:
        return self.prior_variances(u, generator)


@dataclass(frozen=True)
class LaplaceIncrements(Increments):
    """p(u) = exp(-|u| / scale) / (2 scale), with w ~ Exponential of mean 2 scale^2.

    1 / w given u is inverse-Gaussian of mean 1 / (scale |u|) and shape 1 / scale^2: Park, Casella, The Bayesian Lasso, JASA 2008;
    drawn as in Michael, Schucany, Haas, Generating Random Variates Using Transformations with Multiple Roots, 1976, for w itself
    and without cancellation as u -> 0.
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
    """u = 0 with probability 1 - rate, else Laplace.

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
    """Student's t: w = df scale^2 / chi^2_df, and given u (df scale^2 + u^2) / chi^2_(df + 1).

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
        constant = math.gamma((self.df + 1) / 2) / (
            math.gamma(self.df / 2) * math.sqrt(self.df * math.pi) * self.scale
        )
        return constant * (1 + (u / self.scale) ** 2 / self.df) ** (-(self.df + 1) / 2)

    def prior_variances(self, like: Tensor, generator: torch.Generator) -> Tensor:
        return self.df * self.scale**2 / _chi_square(like, self.df, generator)

    def variances(self, u: Tensor, generator: torch.Generator) -> Tensor:
        return (self.df * self.scale**2 + u**2) / _chi_square(u, self.df + 1, generator)


def _chi_square(like: Tensor, df: int, generator: torch.Generator) -> Tensor:
    """Sums of df squared normals."""
    return (
        torch.randn(df, *like.shape, generator=generator, dtype=like.dtype, device=like.device)
        .square()
        .sum(0)
    )


def normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normals in the shape and dtype of a tensor."""
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)


def uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """Of [0, 1), in the shape and dtype of a tensor."""
    return torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)
