"""Base class and matrices of the problems with closed-form posteriors."""

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
from inverse.priors.field import power_law
from inverse.priors.loading import PriorCard


@dataclass(frozen=True)
class Conjugate(inverse.Problem):
    """y = matrix x + Gaussian noise, with x drawn from a known mixture of Gaussians.

    A subclass implements `law` and `matrix`. y has as many dimensions as x; all but the last have
    size 1.

    Class attributes:
        truth_count: number of shipped truths.

    Raises: OptionError if sigma_y is not positive.
    """

    prior: ClassVar[str] = ""
    truth_count: ClassVar[int] = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma_y == 0:
            raise OptionError(
                f"{self.name}: sigma_y must be positive, got 0; "
                "without noise the exact posterior has no density"
            )

    @abstractmethod
    def law(self) -> MixturePrior:
        """The law of x, float64; every call returns a new object."""

    @abstractmethod
    def matrix(self) -> Tensor:
        """The forward matrix (m, n) in physical units, float64."""

    def make_prior(self) -> MixturePrior:
        """The law of x."""
        return self.law()

    def operator(self, shape: tuple[int, ...]) -> Any:
        """The forward matrix as an operator: (B, *shape) -> (B, *out_shape)."""
        return dense(self.matrix(), shape)

    def signal_shape(self, y_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of x; a free dimension of the law has size 1."""
        return tuple(n or 1 for n in self.law().shape)

    def truths(self) -> list[Tensor]:
        """Draws from the law with a fixed seed, each (*shape) in physical units."""
        law = self.law()
        return list(law.decode(law.sample(self.truth_count, inverse.seeded(self.name, "truths"))))

    def exact(self, y: Tensor) -> Exact:
        """The posterior of one measurement y (*out_shape) or (1, *out_shape), and its evidence.

        Raises: InputError if y does not have m entries.
        """
        law, A = self.law(), self.matrix()
        y = single_measurement(self.name, y, len(A))
        return Exact(law.given(A, self.sigma_y, y), float(law.log_evidence(A, self.sigma_y, y)))


def single_measurement(name: str, y: Tensor, size: int) -> Tensor:
    """One measurement of the problem `name` as a float64 vector (size,) on the CPU.

    Raises: InputError if y has another number of entries.
    """
    if y.numel() != size:
        raise InputError(
            f"{name}: a measurement has {size} entries, got {y.numel()}; pass one measurement"
        )
    return y.flatten().double().cpu()


def squared_exponential(side: int, std: float, length: float) -> Tensor:
    """Covariance (side^2, side^2) of a smooth field: std^2 exp(-distance^2 / (2 length^2)).

    Args:
        side: side of the square grid (pixels).
        std: standard deviation of a pixel.
        length: correlation length (pixels).
    """
    t = torch.arange(side, dtype=torch.float64)
    line = torch.exp(-0.5 * ((t[:, None] - t) / length) ** 2)
    return std**2 * torch.kron(line, line)


def circular_blur(side: int, width: int = 3) -> Tensor:
    """Mean over width x width pixels (width odd) on a torus, as a matrix (side^2, side^2)."""
    first = torch.zeros(side, dtype=torch.float64)
    first[[i % side for i in range(-(width // 2), width // 2 + 1)]] = 1 / width
    line = torch.stack([first.roll(i) for i in range(side)])
    return torch.kron(line, line)


def photographic_spectrum(side: int) -> Tensor:
    """Spectrum of grey photographs on a torus, for `FieldPrior`: (1, side, side), model units.

    It is the power law of the first mixture of colours on the card of `photo-64`. The mean of an
    image, whose variance the law leaves open at this size, has that of the lowest frequency.
    """
    fitted = PriorCard.read("photo-64").power_law
    power, corner, exponent = (
        torch.tensor(fitted[name][:1], dtype=torch.float64)
        for name in ("power", "corner", "exponent")
    )
    spectrum = power_law(power, corner, exponent)(side, side)
    spectrum[..., 0, 0] = spectrum[..., 0, 1]
    return spectrum


def gaussian_matrix(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Matrix (rows, columns) of independent N(0, 1 / columns) entries, float64."""
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64) / math.sqrt(columns)
