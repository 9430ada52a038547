"""Deblurring: y = k * x + noise, with a kernel that is known or estimated from y."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

import inverse
from inverse.errors import InputError, OptionError, suggestion
from inverse.io.images import input_files, write_png
from inverse.measurement.kernel_check import kernel_mismatch
from inverse.measurement.noise_estimate import noise_level
from inverse.measurement.operators import clone, fft_blur, motion_kernel, separable_blur
from inverse.panel import panel
from inverse.result import stored_provenance
from inverse_problems.deblur.gamma import to_light, to_picture
from inverse_problems.deblur.kernel_estimation import (
    KernelEstimate,
    estimate_kernel,
    estimate_shared_kernel,
)
from inverse_problems.deblur.kernel_files import kernel_notes, read_kernel

UNKNOWN = "unknown"
"""The name of a kernel that is estimated from the measurement."""

KERNEL_ERROR = 0.05
"""Standard deviation (intensity) that the errors of an estimated kernel add to y.

A compromise: where the kernel is found well 0.03 is as good, and where it is not 0.08 loses less
(results/blind-noise.json).
"""

SEPARABLE_SIDE = 512
"""Largest image side (pixels) for which a rank-one kernel gets a singular value decomposition.

The decomposition uses dense matrices of that side; at 512 pixels it takes about a second.
"""

SURE = 80.0
"""Log-likelihood ratio (nats) above which a kernel counts as wrong.

On 24 photographs of BSDS500 it speaks for 4 % of right kernels; for Gaussians that are 0.8 to 1
pixel too narrow or too wide, for 71 to 92 % at sigma_y = 0.01 (results/kernel-check.json)."""


@dataclass(frozen=True)
class Deblur(inverse.ImageProblem):
    """Blur of a photograph of any size, by a known kernel or by one that y itself tells.

    A measurement without a stated kernel has an unknown one. It is estimated before the picture is
    restored (`kernel_estimation`). The reconstruction then does not average over kernels.

    Args:
        kernel: gaussian, motion (a random camera-shake trajectory), defocus (a disk), unknown
            (estimated from the measurement), the path of a kernel file (picture or .npy, odd sides;
            it is divided by its sum), the path of a result.h5 whose kernel was estimated, or a
            folder of blurred pictures that share one unknown kernel.
        width: standard deviation of gaussian, radius of defocus (pixels).
        kernel_size: side of a generated kernel (pixels, odd); by default 31 for motion, otherwise
            the smallest side that holds the kernel of this width. For an unknown kernel the window
            that must hold it; by default the best of 15, 21 and 31.
        kernel_seed: random seed of the motion trajectory.
        boundary: extension of the image beyond its edges: reflect, replicate, circular, zeros, or
            valid (no extension; the measurement is smaller by the kernel's side minus one). With an
            estimated kernel reflect is read as valid, since nothing reflects beyond a photograph.
        linear: whether to blur light: the curve of sRGB is undone in pictures that are read, and
            applied in those that are written. result.h5 and y= in Python hold linear light.
    """

    name = "deblur"
    summary = "deblurring: Gaussian, motion, defocus, a kernel file, or an unknown kernel"
    reference = (
        "boundary 'reflect' as in Chung et al., ICLR 2023; "
        "trajectories of deepinv's MotionBlurGenerator"
    )
    when_restoring = {"kernel": UNKNOWN}

    kernel: str = "gaussian"
    width: Annotated[float, inverse.Range(above=0, high=1000)] = 2.0
    kernel_size: Annotated[int, inverse.Range(3, 4097)] | None = None
    kernel_seed: inverse.Seed = 0
    boundary: Literal["reflect", "replicate", "circular", "zeros", "valid"] = "reflect"
    linear: bool = False

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
        if self.kernel == UNKNOWN:
            raise InputError(
                "deblur: an unknown kernel is estimated from a measurement; there is none. Give it "
                "with --restore (y= in Python), or state the kernel that a simulation uses"
            )
        if self.kernel not in makers and not Path(self.kernel).exists():
            raise InputError(
                f"deblur: kernel '{self.kernel}' is neither a file nor a known kernel; "
                f"{suggestion(self.kernel, makers)}"
            )
        if self.kernel not in makers and self.kernel_is_shared:
            raise InputError(
                f"deblur: the kernel that the pictures of {self.kernel} share is for restoring "
                "(--restore, y= in Python); state the kernel that a simulation uses"
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
        """The noise of the picture and, in quadrature, what errors of an estimated kernel add."""
        level = noise_level(y)
        if level is None or not self.kernel_is_estimated:
            return level
        return math.hypot(level, KERNEL_ERROR)

    @property
    def kernel_is_estimated(self) -> bool:
        """Whether the kernel was estimated from a picture, now or by an earlier solve."""
        if self.kernel == UNKNOWN or self.kernel in self.sides:
            return self.kernel == UNKNOWN
        if self.kernel_is_shared:
            return True
        return estimated_earlier(Path(self.kernel)) is not None

    @property
    def kernel_is_shared(self) -> bool:
        """Whether the kernel is that of all pictures of a folder."""
        return Path(self.kernel).is_dir() and Path(self.kernel).suffix != ".zarr"

    def checks(self, y):
        """Of a picture, and whether its blur is that of the kernel; see `kernel_mismatch`."""
        found = kernel_mismatch(y, self.filter()[0, 0], self.sigma_y) if y.ndim == 3 else None
        if found is None or found.gain < SURE or not found.variance:
            return super().checks(y)
        pixels = abs(found.variance) ** 0.5
        more, kernel = ("more", "wider") if found.variance > 0 else ("less", "narrower")
        return [
            *super().checks(y),
            f"by its spectrum the measurement is blurred {more} than the kernel says "
            f"(by about {pixels:.1f} pixels): the kernel is probably wrong; try a {kernel} one",
        ]

    def file_notes(self) -> list[str]:
        """The notes from reading the kernel file."""
        if self.kernel in self.sides or self.kernel_is_estimated:
            return []
        if not Path(self.kernel).is_file():
            return []
        return [f"kernel: {note}" for note in kernel_notes(self.kernel)]

    def open(
        self, file: Path, prior: inverse.Prior, measured: bool
    ) -> tuple[inverse.Problem, Tensor, list[str]]:
        """Read a picture; estimate the kernel of a measurement where it is unknown.

        Raises: InputError if the file cannot be read, or does not tell its kernel.
        """
        _, values, notes = super().open(file, prior, measured)
        values = to_light(values) if self.linear else values
        posed = self.informed_by(values) if measured else self
        if isinstance(posed, DeblurEstimated):
            notes = [*notes, *posed.estimation_notes()]
        return posed, values, notes

    def informed_by(self, y: Tensor) -> Deblur:
        """The problem with the kernel of a measurement y (C, H, W), where it is unknown."""
        if self.kernel != UNKNOWN and not self.kernel_is_shared:
            return self
        if self.kernel == UNKNOWN:
            estimate = estimate_kernel(y, self.kernel_size)
        else:
            contents = _contents(Path(self.kernel))
            estimate = _shared_kernel(contents, self.kernel_size, self.linear)
        own = {f.name: getattr(self, f.name) for f in fields(Deblur)}
        boundary = "valid" if self.boundary == "reflect" else self.boundary
        return DeblurEstimated(**own | {"boundary": boundary}, estimate_=estimate)

    def truths_for(self, prior: inverse.Prior) -> list[Tensor]:
        """As `ImageProblem.truths_for`, in linear light where `linear` says so."""
        truths = super().truths_for(prior)
        return [to_light(x) for x in truths] if self.linear else truths

    def export(self, result: inverse.Result, folder: Path) -> None:
        """As `Problem.export`; light is written as the pictures that were read."""
        if not self.linear:
            return super().export(result, folder)
        operator = clone(self.operator(tuple(result.samples.shape[2:])), "cpu", result.y.dtype)
        residual = result.y - operator.A(result.mean.to(result.y.dtype))
        stored = replace(
            result,
            samples=to_picture(result.samples),
            y=to_picture(result.y),
            truth=None if result.truth is None else to_picture(result.truth),
        )
        write_png(folder / "reconstruction.png", to_picture(result.mean[0]))
        write_png(folder / "panel.png", panel(stored, residual=residual))

    def _gaussian(self) -> Tensor:
        from inverse.measurement.kernels import gaussian_kernel

        return gaussian_kernel(self.width, self.sides["gaussian"] // 2)

    def _defocus(self) -> Tensor:
        from inverse.measurement.kernels import disk_kernel

        return disk_kernel(self.width, self.sides["defocus"] // 2)

    def _motion(self) -> Tensor:
        return motion_kernel(self.sides["motion"], self.kernel_seed)

    def _from_file(self) -> Tensor:
        if (found := estimated_earlier(Path(self.kernel))) is not None:
            return found.kernel
        return read_kernel(self.kernel)

    def _check_fits(self, sides: tuple[int, int], shape: tuple[int, ...]) -> None:
        if max(sides) > min(shape[-2:]):
            kernel, image = f"{sides[0]}x{sides[1]}", f"{shape[-2]}x{shape[-1]}"
            raise OptionError(
                f"deblur: the kernel is {kernel} pixels, the image only {image}; "
                "use a smaller kernel or a larger image"
            )


@dataclass(frozen=True)
class DeblurEstimated(Deblur):
    """Deblurring with a kernel that was estimated from the measurement.

    Args:
        estimate_: the kernel.
    """

    exports = ("reconstruction.png", "panel.png", "kernel.png")

    estimate_: KernelEstimate | None = None

    def informed_by(self, y: Tensor) -> Deblur:
        """The problem itself."""
        return self

    def estimation_notes(self) -> list[str]:
        """What was found, for the user."""
        assert self.estimate_ is not None
        if self.estimate_.sharp:
            return [
                "no blur wider than about a pixel was found: the picture counts as sharp, and only "
                "its noise is removed"
            ]
        height, width = self.estimate_.extent
        doubt = [
            f"warning: {reason}; the kernel is probably wrong, and the result may be worse than "
            "the picture: state kernel=... or kernel_size=..., or give a larger picture"
            for reason in self.estimate_.doubts
        ]
        source = f"all pictures of {self.kernel}" if self.kernel_is_shared else "the picture"
        return [
            *doubt,
            f"kernel of {height}x{width} pixels estimated from {source}: kernel.png; "
            "--problem-option kernel=result.h5 uses it again",
        ]

    def filter(self) -> Tensor:
        """The estimated kernel (1, 1, side, side)."""
        assert self.estimate_ is not None
        return self.estimate_.kernel[None, None]

    def posterior(self, truth: Tensor | int = 0, **settings: Any) -> inverse.Posterior:
        """As `Problem.posterior`; the provenance records the kernel."""
        assert self.estimate_ is not None
        posterior = super().posterior(truth, **settings)
        posterior.provenance["problem"]["options"]["estimate"] = repr(self.estimate_)
        posterior.provenance["kernel_estimate"] = self.estimate_.record()
        return posterior

    def export(self, result: inverse.Result, folder: Path) -> None:
        """As `Problem.export`, cropped to the frame of the measurement; and kernel.png.

        kernel.png shows the kernel beside its standard deviation, both divided by the largest entry
        of the kernel.
        """
        assert self.estimate_ is not None
        super().export(result, folder)
        r = self.estimate_.kernel.shape[0] // 2
        if self.boundary == "valid":
            mean = result.mean[0][..., r:-r, r:-r]
            mean = to_picture(mean) if self.linear else mean
            write_png(folder / "reconstruction.png", mean)
        shown = torch.cat([self.estimate_.kernel, self.estimate_.std], 1)
        shown = (shown / self.estimate_.kernel.max()).clamp(0, 1)
        write_png(
            folder / "kernel.png", shown.repeat_interleave(8, 0).repeat_interleave(8, 1)[None]
        )


def estimated_earlier(file: Path) -> KernelEstimate | None:
    """The kernel that an earlier solve estimated and stored; None for a file that is no result.

    Raises: InputError for a result without an estimated kernel.
    """
    if (provenance := stored_provenance(file)) is None:
        return None
    try:
        return KernelEstimate.from_record(provenance["kernel_estimate"])
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"deblur: {file} is not a result with an estimated kernel; "
            "kernel=unknown estimates one, a picture or .npy states one"
        ) from None


def _contents(folder: Path) -> tuple[tuple[Path, int], ...]:
    """The pictures of a folder, and when each was written.

    Raises: InputError if there is none.
    """
    return tuple((file, file.stat().st_mtime_ns) for file in input_files([folder]))


@functools.lru_cache(maxsize=4)
def _shared_kernel(
    contents: tuple[tuple[Path, int], ...], side: int | None, linear: bool
) -> KernelEstimate:
    pictures = [inverse.read_image(file, channels=1).pixels for file, _ in contents]
    names = [file.name for file, _ in contents]
    light = [to_light(y) for y in pictures] if linear else pictures
    return estimate_shared_kernel(light, side, names)


def _rank_one(k: Tensor) -> tuple[Tensor, Tensor] | None:
    """Factors (f, g) with k = outer(f, g) to float32 rounding, or None if the rank is higher."""
    U, s, Vh = torch.linalg.svd(k.double())
    higher = bool((s[1:] > 1e-6 * s[0]).any())
    return None if higher else (U[:, 0] * s[0], Vh[0])
