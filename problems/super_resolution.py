"""Super-resolution: reconstruction of an image reduced by an integer factor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

import inverse
from inverse.errors import OptionError
from inverse.measurement.operators import separable


@dataclass(frozen=True)
class SuperResolution(inverse.ImageProblem):
    """Reduction by antialiased bicubic interpolation or by block means.

    Both filters have closed-form solves.

    Args:
        factor: reduction of each side, e.g. 2 or 4; an image is cropped to multiples of it.
        filter: bicubic (antialiased, reflecting at the edges, as MATLAB's imresize) or area (block
            mean).

    Raises: OptionError if factor is less than 2.
    """

    name = "super-resolution"
    summary = "reduction by x2, x4, ...: bicubic or area"
    reference = "bicubic as in Chung et al., ICLR 2023; area as in Kawar et al., NeurIPS 2022"

    factor: Annotated[int, inverse.Range(2, 1024)] = 4
    filter: Literal["bicubic", "area"] = "bicubic"

    def prepare(self, truth: Tensor) -> Tensor:
        """A truth (C, H, W) cropped to multiples of the factor."""
        height, width = (n - n % self.factor for n in truth.shape[-2:])
        return truth[..., :height, :width]

    def operator(self, shape: tuple[int, ...]):
        """The reduction of an image (C, H, W) -> (C, H / factor, W / factor).

        Raises: OptionError if the factor does not divide the sides, or they are too short.
        """
        if any(n % self.factor or n < 4 * self.factor for n in shape[-2:]):
            raise OptionError(
                f"super-resolution: sides must be multiples of {self.factor} "
                f"and at least {4 * self.factor}, got {shape[-2]}x{shape[-1]}"
            )
        return separable(self._matrix(shape[-2]), self._matrix(shape[-1]))

    def signal_shape(self, y_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the image, (C, factor H, factor W)."""
        return (y_shape[0], y_shape[1] * self.factor, y_shape[2] * self.factor)

    def _matrix(self, n: int) -> Tensor:
        """The reduction of a signal of n pixels as a matrix (n / factor, n)."""
        if self.filter == "area":
            blocks = torch.eye(n // self.factor, dtype=torch.float64)
            return blocks.repeat_interleave(self.factor, dim=1) / self.factor
        basis = torch.eye(n, dtype=torch.float64)[:, None, :, None].expand(n, 1, n, 4 * self.factor)
        reduced = inverse.physics.functional.imresize_matlab(
            basis.clone(),
            scale=1 / self.factor,
            kernel="cubic",
            padding_type="reflect",
            antialiasing=True,
        )
        return reduced[:, 0, :, 0].T


@inverse.hookimpl
def inverse_problems():
    return [SuperResolution]
