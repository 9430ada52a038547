"""A mixture of Gaussians with full covariances of unequal size, measured by a few projections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

import inverse
from inverse.priors.analytic import MixturePrior
from inverse_problems._conjugate import Conjugate, gaussian_matrix


@dataclass(frozen=True)
class UnevenMixture(Conjugate):
    """Components N(m_k, C_k) of equal weight: m_k ~ N(0, I), C_k = s_k^2 W_k.

    W_k is a Wishart matrix of 2 d degrees of freedom over 2 d. The sizes s_k are spaced evenly in
    logarithm from 0.1 to 1. Unlike those of `mixture`, the components differ in shape and size, and
    the noise level at which a component separates from the others differs with it.

    Args:
        d: dimension of x.
        d_y: number of projections.
        components: number of components.
    """

    name = "uneven-mixture"
    summary = "Gaussians with unequal full covariances in 50 dimensions; closed-form posterior"
    cases: ClassVar[dict[str, dict[str, Any]]] = {"uneven mixture": {}}

    sigma_y: inverse.Positive = 0.1
    d: Annotated[int, inverse.Range(2, 500)] = 50
    d_y: Annotated[int, inverse.Range(1, 500)] = 3
    components: Annotated[int, inverse.Range(2, 100)] = 8

    def law(self) -> MixturePrior:
        """The mixture, float64."""
        generator = inverse.seeded("uneven-mixture", self.d, self.components)
        means = gaussian_matrix(self.components, self.d, generator) * self.d**0.5
        sizes = torch.logspace(-1, 0, self.components, dtype=torch.float64)
        factors = [size * gaussian_matrix(self.d, 2 * self.d, generator) for size in sizes.tolist()]
        weights = torch.ones(self.components, dtype=torch.float64)
        return MixturePrior(weights, means, torch.stack([F @ F.T for F in factors]))

    def matrix(self) -> Tensor:
        """Random projections with N(0, 1 / d) entries: (d_y, d), float64."""
        return gaussian_matrix(self.d_y, self.d, inverse.seeded("uneven-mixture", "matrix"))


@inverse.hookimpl
def inverse_problems():
    return [UnevenMixture]
