"""High dynamic range: a picture at twice the exposure, clipped to the range of the sensor.

The operator of RED-diff: Mardani, Song, Kautz, Vahdat, A Variational Perspective on Solving Inverse
Problems with Diffusion Models, ICLR 2024, https://arxiv.org/abs/2305.04391.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import inverse


@dataclass(frozen=True)
class HDR(inverse.ImageProblem):
    """Contrast multiplied about the middle grey and clipped: y = clip(gain (x - 1/2) + 1/2, 0, 1).

    In the paper's units [-1, 1] this is clip(2 x, -1, 1).

    Args:
        gain: factor on the contrast, at least 1; the paper's 2.
        sigma_y: standard deviation of the noise (intensities in [0, 1]).
    """

    name = "hdr"
    summary = "a photograph whose dark and bright parts are clipped"

    gain: Annotated[float, inverse.Range(1, 1e6)] = 2.0
    sigma_y: inverse.NonNegative = 0.02

    def operator(self, shape: tuple[int, ...]):
        """Scaled and clipped intensities."""

        @inverse.operator(shape=shape, linear=False)
        def clipped(x):
            return (self.gain * (x - 0.5) + 0.5).clamp(0, 1)

        return clipped


@inverse.hookimpl
def inverse_problems():
    return [HDR]
