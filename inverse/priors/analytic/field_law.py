"""Gaussians of fields with a covariance that is known by its eigenvalues.

The card of a prior can name such a law, and a network can correct it (`CorrectedPrior`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from inverse.priors.analytic.law import AnalyticPrior


class FieldLaw(AnalyticPrior):
    """A Gaussian N(mean, C) of fields (channels, H, W) with C diagonal in a known basis.

    Class attributes: `kind` is the name of its loader in the hook `inverse_laws`; `circular` says
    whether the last column adjoins the first; `single_precision` names the entries of its state
    that are not rounded to half precision.
    """

    kind: ClassVar[str]
    circular: ClassVar[bool] = False
    single_precision: ClassVar[tuple[str, ...]] = ("mean", "variances", "floor")
    variances: Tensor
    """Eigenvalues of C, model units squared."""

    @property
    @abstractmethod
    def eigenvalues(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues of C, and the fraction of the n directions that has each; both (k,)."""

    @property
    @abstractmethod
    def spread(self) -> Tensor:
        """Standard deviation of each entry of x0: (*shape)."""

    @abstractmethod
    def spectral(self, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        """f(C) x, with f applied to the eigenvalues of C: (B, *shape) -> same."""

    @property
    def largest_variance(self) -> float:
        return float(self.eigenvalues[0].max())

    @property
    def deviation(self) -> float:
        """Root mean square standard deviation of the entries of x0."""
        values, share = self.eigenvalues
        return float((values * share).sum().sqrt())

    def admissible(self, x: Tensor) -> Tensor:
        """The projection of x on the support of the law: (B, *shape) -> same; x by default."""
        return x

    def card_fields(self) -> dict[str, Any]:
        """The `law` field of a card, in JSON types."""
        return {"shape": list(self.shape), "rank": self.variances.shape[-1]}
