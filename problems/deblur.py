"""Deblurring with a known kernel: y = k * x + noise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import Tensor

import inverse
from inverse.errors import InputError, OptionError, suggestion
from inverse.measurement.kernel_check import kernel_mismatch
from inverse.measurement.noise_estimate import noise_level
from inverse.measurement.operators import fft_blur, motion_kernel, separable_blur

SEPARABLE_SIDE = 512
"""Largest image side (pixels) for which a rank-one kernel gets a singular value decomposition.

The decomposition uses dense matrices of that side; at 512 pixels it takes about a second.
"""

SURE = 60.0
"""Log-likelihood ratio (nats) from which a kernel counts as wrong (bench/kernel_check.py)."""


@dataclass(frozen=True)
class Deblur(inverse.ImageProblem):
    """Blur of a photograph of any size by a known kernel.

    Args:
        kernel: gaussian, motion (a random camera-shake trajectory), defocus (a disk), or the path
            of a kernel file (picture or .npy, odd sides; it is divided by its sum).
        width: standard deviation of gaussian, radius of defocus (pixels).
        kernel_size: side of a generated kernel (pixels, odd); by default 31 for motion, otherwise
            the smallest side that holds the kernel of this width.
        kernel_seed: random seed of the motion trajectory.
        boundary: extension of the image beyond its edges: reflect, replicate, circular, zeros, or
            valid (no extension; the measurement is smaller by the kernel's side minus one).
    """

    name = "deblur"
    summary = "known-kernel deblurring: Gaussian, motion, defocus or a kernel file"
    reference = (
        "boundary 'reflect' as in Chung et al., ICLR 2023; "
        "trajectories of deepinv's MotionBlurGenerator"
    )
    needed_to_restore = ("kernel",)

    kernel: str = "gaussian"
    width: Annotated[float, inverse.Range(above=0, high=1000)] = 2.0
    kernel_size: Annotated[int, inverse.Range(3, 4097)] | None = None
    kernel_seed: inverse.Seed = 0
    boundary: Literal["reflect", "replicate", "circular", "zeros", "valid"] = "reflect"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel_size is not None and self.kernel_size % 2 == 0:
            raise OptionError(
                f"deblur: kernel_size must be odd, got {self.kernel_size}; "
                f"try {self.kernel_size + 1}"
            )

    @property
    def sides(self) -> dict[str, int]:
        """Name -> side of each generated kernel (pixels)."""
        sides = {
            "gaussian": 2 * int(3 * self.width + 0.999) + 1,
            "motion": 31,
            "defocus": 2 * int(self.width + 0.999) + 1,
        }
        return {name: self.kernel_size or side for name, side in sides.items()}

    def filter(self) -> Tensor:
        """The kernel (1, 1, h, w), sum 1.

        Raises: InputError if the kernel is unknown or its file is unusable.
        """
        makers = {"gaussian": self._gaussian, "motion": self._motion, "defocus": self._defocus}
        if self.kernel not in makers and not Path(self.kernel).exists():
            raise InputError(
                f"deblur: kernel '{self.kernel}' is neither a file nor a known kernel; "
                f"{suggestion(self.kernel, makers)}"
            )
        k = makers[self.kernel]() if self.kernel in makers else self._from_file()
        return (k / k.sum())[None, None]

    def operator(self, shape: tuple[int, ...]):
        """The blur of an image (C, H, W).

        Its linear solves are closed-form for circular boundaries, and for kernels of rank one up to
        `SEPARABLE_SIDE` pixels.

        Raises: OptionError if the kernel is larger than the image.
        """
        if self.kernel in self.sides:
            self._check_fits((self.sides[self.kernel],) * 2, shape)  # before generating it
        k = self.filter()
        self._check_fits((k.shape[-2], k.shape[-1]), shape)
        if self.boundary == "circular":
            return inverse.physics.BlurFFT(img_size=shape, filter=k)
        if max(shape[-2:]) <= SEPARABLE_SIDE and (factors := _rank_one(k[0, 0])):
            return separable_blur(factors, shape, self.boundary)
        return fft_blur(k[0, 0], shape, self.boundary)

    def signal_shape(self, y_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the image (C, H, W); larger than y for valid boundaries."""
        if self.boundary != "valid":
            return y_shape
        height, width = self.filter().shape[-2:]
        return (y_shape[0], y_shape[1] + height - 1, y_shape[2] + width - 1)

    def estimated_sigma_y(self, y):
        """The noise level of the picture; see `noise_level`."""
        return noise_level(y)

    def checks(self, y):
        """Of a picture, and whether its blur is that of the kernel; see `kernel_mismatch`."""
        found = kernel_mismatch(y, self.filter()[0, 0], self.sigma_y) if y.ndim == 3 else None
        if found is None or found.gain < SURE or not found.variance:
            return super().checks(y)
        pixels = abs(found.variance) ** 0.5
        more, kernel = ("more", "wider") if found.variance > 0 else ("less", "narrower")
        return [
            *super().checks(y),
            f"the residual still has structure: by its spectrum the measurement is blurred {more} "
            f"than the kernel says (by about {pixels:.1f} pixels); try a {kernel} kernel",
        ]

    def file_notes(self) -> list[str]:
        """The notes from reading the kernel file."""
        if self.kernel in self.sides or not Path(self.kernel).is_file():
            return []
        notes = inverse.read_image(self.kernel, channels=1, role="kernel").notes
        return [f"kernel: {note}" for note in notes]

    def _gaussian(self) -> Tensor:
        from inverse.measurement.kernels import gaussian_kernel

        return gaussian_kernel(self.width, self.sides["gaussian"] // 2)

    def _defocus(self) -> Tensor:
        from inverse.measurement.kernels import disk_kernel

        return disk_kernel(self.width, self.sides["defocus"] // 2)

    def _motion(self) -> Tensor:
        return motion_kernel(self.sides["motion"], self.kernel_seed)

    def _from_file(self) -> Tensor:
        k = inverse.read_image(self.kernel, channels=1, role="kernel").pixels[0]
        if k.shape[0] % 2 == 0 or k.shape[1] % 2 == 0:
            raise InputError(
                f"deblur: kernel must have odd sides, {self.kernel} has {k.shape[0]}x{k.shape[1]}; "
                "crop or pad it by one pixel"
            )
        if not bool(torch.isfinite(k).all()):
            raise InputError(f"deblur: kernel {self.kernel} holds NaN or infinity")
        if abs(float(k.sum())) < 1e-6 * float(k.abs().sum()) or not bool(k.any()):
            raise InputError(
                f"deblur: kernel {self.kernel} sums to zero and cannot be normalised; "
                "give a kernel with a non-zero sum"
            )
        return k

    def _check_fits(self, sides: tuple[int, int], shape: tuple[int, ...]) -> None:
        if max(sides) > min(shape[-2:]):
            kernel, image = f"{sides[0]}x{sides[1]}", f"{shape[-2]}x{shape[-1]}"
            raise OptionError(
                f"deblur: the kernel is {kernel} pixels, the image only {image}; "
                "use a smaller kernel or a larger image"
            )


def _rank_one(k: Tensor) -> tuple[Tensor, Tensor] | None:
    """Factors (f, g) with k = outer(f, g) to float32 rounding, or None if the rank is higher."""
    U, s, Vh = torch.linalg.svd(k.double())
    higher = bool((s[1:] > 1e-6 * s[0]).any())
    return None if higher else (U[:, 0] * s[0], Vh[0])


@inverse.hookimpl
def inverse_problems():
    return [Deblur]
