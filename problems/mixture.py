"""A mixture of 25 Gaussians on a lattice, measured by a few noisy projections."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

import inverse
from inverse.errors import OptionError
from inverse.priors.analytic import MixturePrior
from inverse.registry.options import check_options
from inverse_problems._conjugate import Conjugate


@dataclass(frozen=True)
class Mixture(Conjugate):
    """25 Gaussians of unit covariance with means (8i, 8j, 8i, 8j, ...), i, j in {-2, ..., 2}.

    The weights are proportional to squares of standard normals. The operator is A = U diag(s) V^T
    with U, V from the SVD of a Gaussian matrix and s sorted draws of Uniform(0, 1); sigma_y is a
    draw of Uniform(0, 1) max(s). Each instance has its own draws. Model units are x / sqrt(129),
    where sqrt(129) is the standard deviation of the mixture under equal weights. In these units
    sigma_min and sigma_max are the ends 0.01 and 157 of the published schedule (999 betas, linear
    from 0.02 down to 1e-4). The paper uses 20 instances of d = 8, 80, 800 and d_y = 1, 2, 4, with
    20 steps at eta = 0.6 and 100 steps at eta = 0.85, and reports the sliced W1 distance.

    Args:
        sigma_y: standard deviation of the noise; by default the draw of the instance.
        d: dimension of x, even.
        d_y: number of projections, at most d.
        instance: random seed of the weights, operator, noise level and truths.

    Raises: OptionError if d or d_y is out of range.
    """

    name = "mixture"
    summary = (
        "25 Gaussians in 8, 80 or 800 dimensions, 1, 2 or 4 projections; closed-form posterior"
    )
    cases = {f"mixture 8/{d_y}": {"d": 8, "d_y": d_y} for d_y in (1, 4)}
    reference = (
        "Cardoso, Janati, Le Corff, Moulines, Monte Carlo guided Diffusion for Bayesian linear "
        "inverse problems, ICLR 2024, https://arxiv.org/abs/2308.07983"
    )

    sigma_y: inverse.Positive | None = None  # type: ignore[assignment]
    d: Annotated[int, inverse.Range(2, 2000)] = 8
    d_y: Annotated[int, inverse.Range(1, 2000)] = 1
    instance: inverse.Seed = 0

    def __post_init__(self) -> None:
        check_options(self)
        if self.d % 2:
            raise OptionError(f"mixture: d must be even, got {self.d}")
        if self.d_y > self.d:
            raise OptionError(f"mixture: d_y must lie between 1 and d = {self.d}, got {self.d_y}")
        if self.sigma_y is None:
            largest = float(self._singular_values().max())
            u = torch.rand((), generator=self._stream("noise"), dtype=torch.float64)
            object.__setattr__(self, "sigma_y", largest * float(u))
        super().__post_init__()

    def law(self) -> MixturePrior:
        """The mixture in model units, float64."""
        lattice = torch.arange(-2.0, 3.0, dtype=torch.float64)
        scale = math.sqrt(129)
        means = 8 * torch.cartesian_prod(lattice, lattice).repeat(1, self.d // 2)
        weights = torch.randn(25, generator=self._stream("weights"), dtype=torch.float64) ** 2
        variance = torch.full((1,), 1 / scale**2, dtype=torch.float64)
        units = {"scale": scale, "sigma_min": 0.01 / scale, "sigma_max": 157.4 / scale}
        return MixturePrior(weights, means / scale, variance, **units)

    def matrix(self) -> Tensor:
        """A = U diag(s) V^T of the instance: (d_y, d), float64."""
        generator = self._stream("operator")
        normals = torch.randn(self.d_y, self.d, generator=generator, dtype=torch.float64)
        U, _, Vh = torch.linalg.svd(normals, full_matrices=False)
        return (U * self._singular_values()) @ Vh

    def truths(self) -> list[Tensor]:
        """Draws from the law with the seed of the instance, (d,) each, physical units."""
        law = self.law()
        return list(law.decode(law.sample(self.truth_count, self._stream("truths"))))

    def _singular_values(self) -> Tensor:
        generator = self._stream("singular values")
        u = torch.rand(self.d_y, generator=generator, dtype=torch.float64)
        return u.sort(descending=True).values

    def _stream(self, purpose: str) -> torch.Generator:
        return inverse.seeded(self.instance, "mixture", self.d, self.d_y, purpose)


@inverse.hookimpl
def inverse_problems():
    return [Mixture]
