"""Gaussians of fields, whose covariance is known by its eigenvalues: laws that a prior's card can name and a network can correct."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from inverse.priors.analytic.law import AnalyticPrior


class FieldLaw(AnalyticPrior):
    """A Gaussian N(mean, C) of fields (channels, H, W) whose covariance is diagonal in a basis that is not pixels.

    Class attributes: `kind` (the name under which `inverse_laws` registers the loader), `circular` (whether the last column
    adjoins the first), and `single_precision` (the entries of its state that must not be rounded to half precision).
    """

    kind: ClassVar[str]
    circular: ClassVar[bool] = False
    single_precision: ClassVar[tuple[str, ...]] = ("mean", "variances", "floor")
    variances: Tensor
    """Eigenvalues of C, model units squared."""

    @property
    @abstractmethod
    def eigenvalues(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues of C, and the share of the n directions that has each; both (k,)."""

    @property
    @abstractmethod
    def spread(self) -> Tensor:
        """Standard deviation of each entry of x0: (*shape)."""

    @abstractmethod
    def spectral(self, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        """f(C) x, f applied to the eigenvalues of C: (B, *shape) -> same."""

    @property
    def deviation(self) -> float:
        """Root mean square standard deviation of the entries of x0."""
        values, share = self.eigenvalues
        return float((values * share).sum().sqrt())

    def admissible(self, x: Tensor) -> Tensor:
        """The part of x (B, *shape) that a field of this law can have; all of it, unless a law says otherwise."""
        return x

    def card_fields(self) -> dict[str, Any]:
        """What a card says of this law beside its arrays, in JSON types."""
        return {"shape": list(self.shape), "rank": self.variances.shape[-1]}
