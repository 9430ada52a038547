"""A smooth Gaussian image measured linearly: the conjugate problem, whose posterior is Gaussian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

import inverse
from inverse.measurement.noise import GaussianNoise
from inverse.priors.analytic import Exact, GaussianPrior
from inverse_problems._conjugate import (
    Conjugate,
    circular_blur,
    gaussian_matrix,
    single_measurement,
    squared_exponential,
)


@dataclass(frozen=True)
class Gaussian(Conjugate):
    """x ~ N(0.5, C) with squared-exponential C, intensities; model units are those of photographs.

    Args:
        side: side of the image (pixels).
        view: inpainting (half of the pixels, chosen at random), blur (3x3 mean on a torus) or
            random (half as many Gaussian projections as pixels).
        view_seed: random seed of inpainting and random.
        std: standard deviation of a pixel (intensity).
        length: correlation length (pixels).

    Raises: OptionError if side is not in 3, ..., 64, or std or length is not positive.
    """

    name = "gaussian"
    summary = (
        "smooth Gaussian image, closed-form posterior: "
        "half the pixels, a blur or random projections"
    )
    cases = {view: {"side": 4, "view": view} for view in ("inpainting", "blur", "random")}

    sigma_y: inverse.Positive = 0.05
    side: Annotated[int, inverse.Range(3, 64)] = 8
    view: Literal["inpainting", "blur", "random"] = "inpainting"
    view_seed: inverse.Seed = 0
    std: Annotated[float, inverse.Range(above=0, high=1e6)] = 0.12
    length: Annotated[float, inverse.Range(above=0, high=1e6)] = 2.0

    def law(self) -> GaussianPrior:
        """The Gaussian of images (1, side, side), float64."""
        zero = torch.zeros(1, self.side, self.side, dtype=torch.float64)
        return GaussianPrior(
            zero, squared_exponential(self.side, 2 * self.std, self.length), shift=0.5, scale=0.5
        )

    def matrix(self) -> Tensor:
        """The forward matrix (m, side^2), float64."""
        n, generator = self.side**2, inverse.seeded(self.view_seed, "gaussian", self.view)
        if self.view == "blur":
            return circular_blur(self.side)
        if self.view == "random":
            return gaussian_matrix(n // 2, n, generator)
        return torch.eye(n, dtype=torch.float64)[self._observed().flatten()]

    def operator(self, shape: tuple[int, ...]) -> Any:
        """The forward operator; y of inpainting is an image with zeros for missing pixels."""
        if self.view == "inpainting":
            return inverse.physics.Inpainting(img_size=shape, mask=self._observed().double())
        return super().operator(shape)

    def noise(self, shape: tuple[int, ...]) -> GaussianNoise:
        """White Gaussian noise of the observed entries."""
        observed = self._observed() if self.view == "inpainting" else None
        return GaussianNoise(self.sigma_y, observed=observed)

    def exact(self, y: Tensor) -> Exact:
        """The posterior of one measurement y, (1, 1, m); for inpainting the image, (1, side, side).

        Raises: InputError if y has another number of entries.
        """
        if self.view == "inpainting":
            y = single_measurement(self.name, y, self.side**2)[self._observed().flatten()]
        return super().exact(y)

    def _observed(self) -> Tensor:
        """The pixels that inpainting observes, half of them: boolean (1, side, side)."""
        n = self.side**2
        generator = inverse.seeded(self.view_seed, "gaussian", "inpainting")
        order = torch.randperm(n, generator=generator)
        return (order.argsort() < n // 2).reshape(1, self.side, self.side)


@inverse.hookimpl
def inverse_problems():
    return [Gaussian]
