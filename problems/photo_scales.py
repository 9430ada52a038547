"""Images whose octaves have random contrast: heavy tails, as in wavelets of photographs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

import inverse
from inverse.priors.analytic import MixturePrior
from inverse_problems._conjugate import Conjugate, photographic_spectrum

SIDE = 8
"""Side of the image (pixels)."""


@dataclass(frozen=True)
class PhotoScales(Conjugate):
    """The image of `photo-field` with a contrast for each octave of frequencies.

    The contrast of an octave is sqrt(4) = 2 with probability `strong` and otherwise below 1, such
    that its variance is that of `photo-field` on average. A coefficient then has three times the
    kurtosis of a Gaussian. The law is a mixture of 2^3 Gaussians, one for each choice of contrasts.

    Args:
        view: reduction (means of 4x4 pixels) or pixels (a fifth of the pixels, chosen at random).
        strong: probability of the higher contrast, below 1/4.
    """

    name = "photo-scales"
    summary = "image with random contrast of its octaves, heavy tails; closed-form posterior"
    cases: ClassVar[dict[str, dict[str, Any]]] = {
        f"scales {view}": {"view": view} for view in ("reduction", "pixels")
    }
    photographic: ClassVar[bool] = True

    sigma_y: inverse.Positive = 0.05
    view: Literal["reduction", "pixels"] = "reduction"
    strong: Annotated[float, inverse.Range(above=0, below=0.25)] = 0.2

    def law(self) -> MixturePrior:
        """The mixture of images (1, 8, 8) in model units, float64."""
        basis, k = _fourier_basis(SIDE)
        spectrum, f = photographic_spectrum(SIDE).flatten()[k], _octaves(SIDE)[k]
        weak = (1 - 4 * self.strong) / (1 - self.strong)
        choices = list(product((weak, 4.0), repeat=int(f.max()) + 1))
        weights = [
            math.prod(self.strong if power == 4 else 1 - self.strong for power in choice)
            for choice in choices
        ]
        powers = torch.tensor(choices, dtype=torch.float64)
        variances = torch.where(f < 0, 1.0, powers[:, f.clamp_min(0)]) * spectrum
        means = torch.zeros(len(choices), 1, SIDE, SIDE, dtype=torch.float64)
        shares = torch.tensor(weights, dtype=torch.float64)
        return MixturePrior.along(basis, shares, means, variances, shift=0.5, scale=0.5)

    def matrix(self) -> Tensor:
        """The forward matrix (m, 64) in physical units, float64."""
        if self.view == "reduction":
            line = torch.eye(SIDE // 4, dtype=torch.float64).repeat_interleave(4, 1) / 4
            return torch.kron(line, line)
        order = torch.randperm(SIDE**2, generator=inverse.seeded("photo-scales", "pixels"))
        return torch.eye(SIDE**2, dtype=torch.float64)[order[: SIDE**2 // 5].sort().values]


def _octaves(side: int) -> Tensor:
    """The octave of each frequency, 0 for 1 cycle per image; -1 for the mean: (side^2,)."""
    line = torch.fft.fftfreq(side, 1 / side, dtype=torch.float64)
    f = (line[:, None] ** 2 + line**2).sqrt().flatten()
    return torch.where(f == 0, -1, f.clamp_min(1).log2().floor().long())


def _fourier_basis(side: int) -> tuple[Tensor, Tensor]:
    """Real Fourier waves of an image as columns (n, n), and the frequency of each (n,)."""
    n = side**2
    waves = torch.fft.ifft2(torch.eye(n, dtype=torch.complex128).reshape(n, side, side))
    waves = waves.flatten(1) * side
    index = torch.arange(n)
    opposite = (-(index // side)) % side * side + (-index) % side
    own, pair = index[index == opposite], index[index < opposite]
    columns = [waves[own].real, 2**0.5 * waves[pair].real, 2**0.5 * waves[pair].imag]
    return torch.cat(columns).T.contiguous(), torch.cat([own, pair, pair])


@inverse.hookimpl
def inverse_problems():
    return [PhotoScales]
