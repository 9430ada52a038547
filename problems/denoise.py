"""Denoising: y = x + noise."""

from __future__ import annotations

from dataclasses import dataclass

import inverse
from inverse.measurement.noise_estimate import noise_level


@dataclass(frozen=True)
class Denoise(inverse.ImageProblem):
    """White Gaussian noise on a photograph of any size.

    Args:
        sigma_y: standard deviation of the noise (intensities in [0, 1]); the default is 25 / 255.
    """

    name = "denoise"
    summary = "white Gaussian noise on a photograph"

    sigma_y: inverse.NonNegative = 25 / 255

    def operator(self, shape: tuple[int, ...]):
        """The identity."""
        return inverse.physics.Denoising()

    def estimated_sigma_y(self, y):
        """The noise level of the picture; see `noise_level`."""
        return noise_level(y)


@inverse.hookimpl
def inverse_problems():
    return [Denoise]
