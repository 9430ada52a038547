"""A seeded corpus of blurs to train on: camera shake, defocus, Gaussian and averaged frames.

    y = (k * x^g)^(1/g) + sigma n

with a kernel k of at most 31 x 31 pixels and sigma uniform. g is 1, except 2.2 for averaged frames:
a camera sums light and stores a power of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from inverse.errors import OptionError, suggestion
from inverse.measurement.kernels import disk_kernel, gaussian_kernel
from inverse.measurement.operators import motion_kernel
from inverse.seeding import seeded
from inverse.training.crops import random_crops

SIDE = 31
"""Side of the kernels (pixels)."""
MARGIN = SIDE // 2
"""Pixels that a kernel reaches beyond an image on each side."""
GAMMA = 2.2
"""Exponent g between stored intensities and light, for averaged frames."""


@dataclass(frozen=True)
class BlurCorpus:
    """Law of the blurs and the noise.

    Args:
        families: families of `MAKERS`, drawn equally often.
        noise: largest standard deviation sigma, intensities.
        reflected: share of the images that are reflected at their edges, as in `deblur`; the others
            are blurred with the pixels around them, as by a camera.
        kernels: number of different kernels.
        seed: random seed for the kernels.

    Raises: OptionError for an unknown family or a value out of range.
    """

    families: tuple[str, ...] = ("motion", "defocus", "gaussian", "frames")
    noise: float = 0.05
    reflected: float = 0.5
    kernels: int = 2048
    seed: int = 0

    def __post_init__(self):
        if not self.families:
            raise OptionError(
                f"blur corpus: name a family of blurs; known families: {', '.join(MAKERS)}"
            )
        if unknown := [name for name in self.families if name not in MAKERS]:
            raise OptionError(
                f"blur corpus: unknown family '{unknown[0]}'; {suggestion(unknown[0], MAKERS)}"
            )
        if not self.noise >= 0 or not 0 <= self.reflected <= 1 or self.kernels < 1:
            got = f"got {self.noise:g}, {self.reflected:g} and {self.kernels}"
            raise OptionError(
                "blur corpus: noise must be at least 0, reflected a share from 0 to 1, "
                f"and kernels at least 1, {got}"
            )

    @cached_property
    def bank(self) -> Tensor:
        """Kernels (kernels, 31, 31) of sum 1; those of family j are j, j + n, j + 2 n, ..."""
        names = [self.families[i % len(self.families)] for i in range(self.kernels)]
        return torch.stack(
            [MAKERS[name](seeded(self.seed, "blur", name, i)) for i, name in enumerate(names)]
        )

    def gamma(self, family: str) -> float:
        """The exponent g of a family: 1 if intensities are blurred."""
        return GAMMA if family == "frames" else 1.0

    def batch(
        self, sources: list[list[np.ndarray]], size: int, count: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Sharp crops and their blurry, noisy pictures: (count, C, size, size) each, intensities.

        Args:
            sources: lists of uint8 images (H, W, C), drawn equally often, see `random_crops`; their
                sides are at least size + 30.
            size: side of the crops (pixels).
            count: number of crops.
            generator: random stream for crops, blurs and noise.
        """
        wide = random_crops(sources, size + 2 * MARGIN, count, generator)
        inner = wide[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
        reflected = torch.rand(count, 1, 1, 1, generator=generator) < self.reflected
        drawn = torch.randint(len(self.bank), (count,), generator=generator)
        gamma = [self.gamma(self.families[i % len(self.families)]) for i in drawn.tolist()]
        sigma = self.noise * torch.rand(count, 1, 1, 1, generator=generator)
        x = torch.where(reflected, F.pad(inner, [MARGIN] * 4, mode="reflect"), wide)
        y = blurred(x, self.bank[drawn], torch.tensor(gamma)[:, None, None, None])
        return inner, y + sigma * torch.randn(y.shape, generator=generator)


def blurred(x: Tensor, kernels: Tensor, gamma: Tensor | float = 1.0) -> Tensor:
    """(k * x^gamma)^(1/gamma) where k lies inside x: (B, C, H - k + 1, W - k + 1).

    Args:
        x: (B, C, H, W), intensities in [0, 1].
        kernels: (B, k, k), sum 1.
        gamma: exponent, a number or (B, 1, 1, 1).
    """
    size, side = x.shape[-2:], kernels.shape[-1]
    spectrum = torch.fft.rfft2(x**gamma) * torch.fft.rfft2(kernels, s=size)[:, None]
    inside = torch.fft.irfft2(spectrum, s=size)[..., side - 1 :, side - 1 :]
    return inside.clamp(0, 1) ** (1 / gamma)


def embedded(kernel: Tensor) -> Tensor:
    """A kernel of odd sides, at most 31, normalised and centred in 31 x 31 pixels."""
    down, right = ((SIDE - n) // 2 for n in kernel.shape)
    return F.pad(kernel / kernel.sum(), (right, right, down, down))


def _motion(generator: torch.Generator) -> Tensor:
    """A random trajectory in a window of 9, 11, ..., 31 pixels."""
    side = 9 + 2 * int(torch.randint(12, (), generator=generator))
    return embedded(motion_kernel(side, int(torch.randint(1 << 31, (), generator=generator))))


def _defocus(generator: torch.Generator) -> Tensor:
    """Radius 1 to 7 pixels."""
    return embedded(disk_kernel(1 + 6 * float(torch.rand((), generator=generator)), MARGIN))


def _gaussian(generator: torch.Generator) -> Tensor:
    """Standard deviation 0.5 to 4 pixels."""
    return embedded(gaussian_kernel(0.5 + 3.5 * float(torch.rand((), generator=generator)), MARGIN))


def _frames(generator: torch.Generator) -> Tensor:
    """7 to 13 frames at equal times of a view that moves up to 30 pixels along a parabola."""
    length, angle, bend, count = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    t = torch.linspace(-0.5, 0.5, 7 + int(6.999 * count), dtype=torch.float64)
    along, across = 28 * length * t, 12 * length * (bend - 0.5) * (2 * t) ** 2
    cos, sin = math.cos(2 * math.pi * angle), math.sin(2 * math.pi * angle)
    position = torch.stack([cos * along - sin * across, sin * along + cos * across])
    position = (position - position.mean(1, keepdim=True) + MARGIN).clamp(0, SIDE - 1.001)
    kernel, corner = torch.zeros(SIDE, SIDE, dtype=torch.float64), position.floor().long()
    share = position - corner  # bilinear weights
    for i in (0, 1):
        for j in (0, 1):
            weight = (share[0] if i else 1 - share[0]) * (share[1] if j else 1 - share[1])
            kernel.index_put_((corner[0] + i, corner[1] + j), weight, accumulate=True)
    return embedded(kernel.float())


MAKERS = {"motion": _motion, "defocus": _defocus, "gaussian": _gaussian, "frames": _frames}
"""By family, a function that draws a kernel (31, 31) from a generator."""
