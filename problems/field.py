"""Deblurring a stationary Gaussian field on a torus: closed-form posterior at any image size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

import inverse
from inverse.measurement import operators
from inverse.priors.analytic import Exact
from inverse.priors.field import FieldPrior, matern


@dataclass(frozen=True)
class Field(inverse.Problem):
    """A Matern field around mid-grey (intensities), blurred by a Gaussian kernel on the torus.

    The Fourier transform diagonalises prior, operator and posterior.

    Args:
        size: side of the shipped truths (pixels); a file may have any size.
        width: standard deviation of the blur kernel (pixels).
        std: standard deviation of a pixel of the field (intensity).
        length: correlation length of the field (pixels).
        smoothness: Matern smoothness nu of the field.

    Raises: OptionError if an option is not positive.
    """

    name = "field"
    summary = "stationary Gaussian field, circular Gaussian blur; closed-form posterior at any size"
    cases = {"field": {"size": 8, "width": 1.0, "length": 3.0, "sigma_y": 0.05}}
    prior: ClassVar[str] = ""

    sigma_y: inverse.Positive = 0.02
    size: Annotated[int, inverse.Range(1, 4096)] = 64
    width: Annotated[float, inverse.Range(above=0, high=1000)] = 2.0
    std: Annotated[float, inverse.Range(above=0, high=1e6)] = 0.12
    length: Annotated[float, inverse.Range(above=0, high=1e6)] = 6.0
    smoothness: Annotated[float, inverse.Range(above=0, high=100)] = 1.5

    def make_prior(self) -> FieldPrior:
        """The Matern field, float64, for images of any size."""
        return FieldPrior(
            torch.zeros((), dtype=torch.float64),
            matern(2 * self.std, self.length, self.smoothness),
            shift=0.5,
            scale=0.5,
        )

    def operator(self, shape: tuple[int, ...]) -> Any:
        """The circular blur of an image (1, H, W)."""
        reach = min(int(4 * self.width + 1), (min(shape[-2:]) - 1) // 2)
        offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
        g = torch.exp(-0.5 * (offsets / self.width) ** 2)
        kernel = torch.outer(g, g)[None, None] / g.sum() ** 2
        return inverse.physics.BlurFFT(img_size=shape, filter=kernel)

    def truths(self) -> list[Tensor]:
        """Four draws of the field with a fixed seed, (1, size, size) each, intensities."""
        law = self.make_prior().sized(self.size, self.size)
        return list(law.decode(law.sample(4, inverse.seeded("field", "truths"))))

    def exact(self, y: Tensor) -> Exact:
        """The posterior of one measurement y (1, H, W) or (1, 1, H, W), and its evidence."""
        y = y.reshape(1, *y.shape[-2:]).double().cpu()
        impulse = torch.zeros_like(y)[None]
        impulse[..., 0, 0] = 1
        blur = operators.clone(self.operator(tuple(y.shape)), "cpu", torch.float64)
        transfer = torch.fft.fft2(blur.A(impulse))[0, 0]
        law = self.make_prior()
        return Exact(
            law.given(transfer, self.sigma_y, y), float(law.log_evidence(transfer, self.sigma_y, y))
        )


@inverse.hookimpl
def inverse_problems():
    return [Field]
