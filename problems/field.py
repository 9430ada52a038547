"""Deblurring a stationary Gaussian field on a torus: a closed-form posterior at the size of a photograph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

import inverse
from inverse.errors import OptionError
from inverse.measurement import operators
from inverse.priors.analytic import Exact
from inverse.priors.field import FieldPrior, matern


@dataclass(frozen=True)
class Field(inverse.Problem):
    """A Matern field around mid-grey, in intensities, blurred circularly by a Gaussian; prior, operator and posterior are diagonal in Fourier.

    Args:
        size: side of the shipped truths (pixels); files of any size will do.
        width: standard deviation of the blur (pixels).
        std: standard deviation of a pixel of the field (intensity).
        length: correlation length of the field (pixels).
        smoothness: of the field, in derivatives.
    """

    name = "field"
    summary = "stationary Gaussian field, circular Gaussian blur; closed-form posterior at any size"
    cases = {"field": {"size": 8, "width": 1.0, "length": 3.0, "sigma_y": 0.05}}
    prior: ClassVar[str] = ""

    sigma_y: float = 0.02
    size: int = 64
    width: float = 2.0
    std: float = 0.12
    length: float = 6.0
    smoothness: float = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("size", "width", "std", "length", "smoothness", "sigma_y"):
            if not getattr(self, name) > 0:
                raise OptionError(f"field: {name} must be positive, got {getattr(self, name):g}")

    def make_prior(self) -> FieldPrior:
        return FieldPrior(
            torch.zeros((), dtype=torch.float64),
            matern(2 * self.std, self.length, self.smoothness),
            shift=0.5,
            scale=0.5,
        )

    def operator(self, shape: tuple[int, ...]) -> Any:
        reach = min(int(4 * self.width + 1), (min(shape[-2:]) - 1) // 2)
        g = torch.exp(
            -0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / self.width) ** 2
        )
        return inverse.physics.BlurFFT(
            img_size=shape, filter=torch.outer(g, g)[None, None] / g.sum() ** 2
        )

    def truths(self) -> list[Tensor]:
        """Four draws of the field, the same ones always."""
        law = self.make_prior().sized(self.size, self.size)
        return list(law.decode(law.sample(4, inverse.seeded("field", "truths"))))

    def exact(self, y: Tensor) -> Exact:
        """The posterior of one measurement (1, height, width) or (1, 1, height, width)."""
        y = y.reshape(1, *y.shape[-2:]).double().cpu()
        impulse = torch.zeros_like(y)[None]
        impulse[..., 0, 0] = 1
        transfer = torch.fft.fft2(
            operators.clone(self.operator(tuple(y.shape)), "cpu", torch.float64).A(impulse)
        )[0, 0]
        law = self.make_prior()
        return Exact(
            law.given(transfer, self.sigma_y, y), float(law.log_evidence(transfer, self.sigma_y, y))
        )


@inverse.hookimpl
def inverse_problems():
    return [Field]
