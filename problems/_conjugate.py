"""What the problems with closed-form answers share: a known law seen through a matrix, with Gaussian noise."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

import inverse
from inverse.errors import InputError, OptionError
from inverse.measurement.operators import dense
from inverse.priors.analytic import Exact, MixturePrior


@dataclass(frozen=True)
class Conjugate(inverse.Problem):
    """y = matrix x + noise for x from a known mixture; a subclass says `law` and `matrix`, everything else follows.

    y has as many dimensions as x, all but the last of size 1.
    """

    prior: ClassVar[str] = ""
    shipped: ClassVar[int] = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma_y == 0:
            raise OptionError(
                f"{self.name}: sigma_y must be positive, the exact posterior has no density without noise"
            )

    @abstractmethod
    def law(self) -> MixturePrior:
        """The law of x, float64, made anew at every call."""

    @abstractmethod
    def matrix(self) -> Tensor:
        """(m, n), on physical units, float64."""

    def make_prior(self) -> MixturePrior:
        return self.law()

    def operator(self, shape: tuple[int, ...]) -> Any:
        return dense(self.matrix(), shape)

    def signal_shape(self, y_shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(n or 1 for n in self.law().shape)

    def truths(self) -> list[Tensor]:
        """Draws from the law, the same ones always."""
        law = self.law()
        return list(law.decode(law.sample(self.shipped, inverse.seeded(self.name, "truths"))))

    def exact(self, y: Tensor) -> Exact:
        """The posterior of one measurement (*out_shape) or (1, *out_shape)."""
        law, A, flat = self.law(), self.matrix(), y.flatten().double().cpu()
        if len(flat) != len(A):
            raise InputError(
                f"{self.name}: a measurement has {len(A)} entries, got {len(flat)}; ask for one measurement at a time"
            )
        return Exact(
            law.given(A, self.sigma_y, flat), float(law.log_evidence(A, self.sigma_y, flat))
        )


def squared_exponential(side: int, std: float, length: float) -> Tensor:
    """Covariance (side^2, side^2) of a smooth field on a square grid: std^2 exp(-distance^2 / (2 length^2)), pixels."""
    t = torch.arange(side, dtype=torch.float64)
    line = torch.exp(-0.5 * ((t[:, None] - t) / length) ** 2)
    return std**2 * torch.kron(line, line)


def circular_blur(side: int, width: int = 3) -> Tensor:
    """Mean over width x width neighbours on a torus, as a matrix (side^2, side^2)."""
    first = torch.zeros(side, dtype=torch.float64)
    first[[i % side for i in range(-(width // 2), width // 2 + 1)]] = 1 / width
    line = torch.stack([first.roll(i) for i in range(side)])
    return torch.kron(line, line)


def gaussian_matrix(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Independent N(0, 1 / columns) entries: (rows, columns)."""
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64) / math.sqrt(columns)
