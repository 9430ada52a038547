"""Phase retrieval: the modulus of an oversampled Fourier transform, for each colour.

The operator of DPS and RED-diff: Chung, Kim, Mccann, Klasky, Ye, Diffusion Posterior Sampling for
General Noisy Inverse Problems, ICLR 2023, https://arxiv.org/abs/2209.14687.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch

import inverse


@dataclass(frozen=True)
class PhaseRetrieval(inverse.ImageProblem):
    """y = |F(x padded with zeros)|, F the unitary transform; the sign and a flip of x are lost.

    Args:
        oversampling: side of the padded image in sides of x, less 1, at least 0; the paper's 0.5
            pads 256 pixels to 384.
        sigma_y: standard deviation of the noise (units of y, whose scale is that of x).
    """

    name = "phase-retrieval"
    summary = "the modulus of the Fourier transform of a photograph"
    measured_role = "numbers"

    oversampling: Annotated[float, inverse.Range(0, 16)] = 0.5
    sigma_y: inverse.NonNegative = 0.02

    def operator(self, shape: tuple[int, ...]):
        """The modulus of the transform of the padded image."""
        sides = [round(n * (1 + self.oversampling)) for n in shape[-2:]]

        @inverse.operator(shape=shape, linear=False)
        def modulus(x):
            return torch.fft.fft2(x, s=sides, norm="ortho").abs()

        return modulus

    def signal_shape(self, y_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The image before padding."""
        return (*y_shape[:-2], *(round(n / (1 + self.oversampling)) for n in y_shape[-2:]))


@inverse.hookimpl
def inverse_problems():
    return [PhaseRetrieval]
