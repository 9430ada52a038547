"""A Gaussian image with the spectrum of photographs, whose posterior is known in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

import inverse
from inverse.errors import OptionError
from inverse.priors.analytic import GaussianPrior
from inverse.priors.field import FieldPrior
from inverse_problems._conjugate import Conjugate, circular_blur, photographic_spectrum


@dataclass(frozen=True)
class PhotoField(Conjugate):
    """x ~ N(0.5, C), C stationary with the power law of grey photographs on the card of `photo-64`.

    The power law is that of the card's first mixture of colours. The mean of an image, whose
    variance the law leaves open at this size, has the variance of the lowest frequency.

    Args:
        side: side of the image (pixels), a multiple of 4.
        view: reduction (means of 4x4 pixels), blur (5x5 mean on a torus) or pixels (a fifth of the
            pixels, chosen at random).

    Raises: OptionError if side is not 8, 12, ..., 64.
    """

    name = "photo-field"
    summary = (
        "Gaussian image with the spectrum of photographs, closed-form posterior: "
        "x4 reduction, a blur or a fifth of the pixels"
    )
    cases = {f"photo {view}": {"view": view} for view in ("reduction", "blur", "pixels")}
    photographic: ClassVar[bool] = True

    sigma_y: inverse.Positive = 0.05
    side: Annotated[int, inverse.Range(8, 64)] = 16
    view: Literal["reduction", "blur", "pixels"] = "reduction"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.side % 4:
            raise OptionError(f"photo-field: side must be a multiple of 4, got {self.side}")

    def law(self) -> GaussianPrior:
        """The Gaussian of images (1, side, side), float64."""
        spectrum = photographic_spectrum(self.side)
        zero = torch.zeros(1, self.side, self.side, dtype=torch.float64)
        field = FieldPrior(zero, lambda height, width: spectrum, (1, self.side, self.side))
        return GaussianPrior(zero, field.covariance, shift=0.5, scale=0.5)

    def matrix(self) -> Tensor:
        """The forward matrix (m, side^2), float64."""
        if self.view == "blur":
            return circular_blur(self.side, 5)
        if self.view == "reduction":
            line = torch.eye(self.side // 4, dtype=torch.float64).repeat_interleave(4, 1) / 4
            return torch.kron(line, line)
        n = self.side**2
        order = torch.randperm(n, generator=inverse.seeded("photo-field", "pixels"))
        return torch.eye(n, dtype=torch.float64)[order[: n // 5].sort().values]


@inverse.hookimpl
def inverse_problems():
    return [PhotoField]
