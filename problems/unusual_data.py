"""A smooth Gaussian image under data that are weak, sharp, absent, redundant or uneven."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

import inverse
from inverse.errors import OptionError
from inverse.measurement.noise import GaussianNoise
from inverse.priors.analytic import Exact, GaussianPrior
from inverse_problems._conjugate import (
    Conjugate,
    gaussian_matrix,
    single_measurement,
    squared_exponential,
)


@dataclass(frozen=True)
class UnusualData(Conjugate):
    """The image of `gaussian`, measured by random projections of any rank and noise.

    Half as many projections as pixels are measured. The noise has its own standard deviation in
    each, spaced evenly in logarithm from sigma_y to sigma_y * spread.

    Args:
        side: side of the image (pixels).
        rank: rank of the operator: the projections are combinations of so many; 0 for A = 0.
        spread: largest over smallest standard deviation of the noise.
    """

    name = "unusual-data"
    summary = (
        "smooth Gaussian image, closed-form posterior: weak, sharp, absent, rank-deficient or "
        "uneven data"
    )
    cases: ClassVar[dict[str, dict[str, Any]]] = {
        "weak 1": {"sigma_y": 0.5},
        "weak 10": {"sigma_y": 5.0},
        "sharp": {"sigma_y": 5e-7},
        "no data": {"rank": 0},
        "deficient": {"rank": 4},
        "uneven": {"sigma_y": 0.02, "spread": 25.0},
    }

    sigma_y: inverse.Positive = 0.05
    side: Annotated[int, inverse.Range(3, 64)] = 4
    rank: Annotated[int, inverse.Range(0, 2048)] | None = None
    spread: Annotated[float, inverse.Range(1, 1e6)] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank is not None and self.rank > (rows := self.side**2 // 2):
            raise OptionError(f"{self.name}: rank must be at most {rows}, got {self.rank}")

    def law(self) -> GaussianPrior:
        """The Gaussian of images (1, side, side), float64, that of `gaussian`."""
        zero = torch.zeros(1, self.side, self.side, dtype=torch.float64)
        return GaussianPrior(zero, squared_exponential(self.side, 0.24, 2.0), shift=0.5, scale=0.5)

    def matrix(self) -> Tensor:
        """The forward matrix (side^2 / 2, side^2), float64."""
        n, generator = self.side**2, inverse.seeded("unusual-data")
        A = gaussian_matrix(n // 2, n, generator)
        if self.rank is None:
            return A
        mixing = gaussian_matrix(n // 2, n // 2, generator)[:, : self.rank] * (n / 2) ** 0.5
        return mixing @ A[: self.rank] / max(self.rank, 1) ** 0.5

    def noise(self, shape: tuple[int, ...]) -> GaussianNoise:
        """Gaussian noise of one standard deviation, or of one for each projection."""
        if self.spread == 1:
            return GaussianNoise(self.sigma_y)
        return GaussianNoise(self._sigmas()[None, None])

    def exact(self, y: Tensor) -> Exact:
        """The posterior of one measurement y, (1, 1, m), and its evidence.

        Raises: InputError if y has another number of entries.
        """
        law, A, sigmas = self.law(), self.matrix(), self._sigmas()
        y = single_measurement(self.name, y, len(A))
        return Exact(law.given(A, sigmas, y), float(law.log_evidence(A, sigmas, y)))

    def _sigmas(self) -> Tensor:
        """Standard deviation of the noise of each projection: (side^2 / 2,)."""
        share = torch.linspace(0, 1, self.side**2 // 2, dtype=torch.float64)
        return self.sigma_y * self.spread**share


@inverse.hookimpl
def inverse_problems():
    return [UnusualData]
