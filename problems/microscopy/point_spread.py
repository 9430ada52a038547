"""Point spread functions, from optics or from a file; sum 1, odd sides, centred."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inverse.errors import InputError, OptionError
from inverse_problems.microscopy.stacks import Stack, Voxel, read_stack

REACH = 4.0
"""Extent of a computed point spread function to each side, in resolutions (Rayleigh)."""

OFF_CENTRE = 1.0
"""Largest distance (voxels) of the centre of mass from the middle voxel."""


@dataclass(frozen=True)
class Optics:
    """A widefield microscope.

    Args:
        wavelength: of the emitted light in vacuum (nm).
        na: numerical aperture.
        immersion, specimen: refractive indices.
        depth: of the focus below the cover glass (um).
    """

    wavelength: float
    na: float
    immersion: float
    specimen: float
    depth: float

    @property
    def lateral(self) -> float:
        """Rayleigh's distance of two points in focus (nm)."""
        return 0.61 * self.wavelength / self.na

    @property
    def aberrated(self) -> bool:
        """Whether light from the focus passes through two media."""
        return self.specimen != self.immersion and self.depth > 0

    @property
    def cone(self) -> float:
        """Radius over height of the cone of light that the objective accepts."""
        return math.tan(math.asin(self.na / self.immersion))

    @property
    def axial(self) -> float:
        """Rayleigh's distance along the axis (nm)."""
        return 2 * self.wavelength * self.immersion / self.na**2


def optical_psf(optics: Optics, voxel: Voxel, size: tuple[int, ...]) -> Tensor:
    """The scalar point spread function: Airy's disk for a picture, Gibson's and Lanni's otherwise.

    With one index and no depth the latter is that of Born and Wolf. It extends `REACH` resolutions
    to each side, in a stack around the cone of light, at most as far as the image.

    Args:
        voxel: sides of a voxel, or of a pixel.
        size: of the image, (height, width) or (depth, height, width).

    Returns: (h, w), of the focal plane, or (d, h, w).

    Raises: OptionError if the package for it is missing.
    """
    reach = REACH * optics.lateral
    planes = 1
    if len(size) == 3:
        planes = _odd(REACH * optics.axial / voxel.step, 2 * size[0] - 1)
        reach += optics.cone * (planes // 2) * voxel.step
    side = _odd(reach / voxel.pixel, min(size[-2:]))
    if planes == 1 and not optics.aberrated:
        return airy_disk(optics, voxel.pixel, side)
    try:
        import psfmodels
    except ImportError as error:
        raise OptionError(
            "microscopy: the point spread function of a stack, or of two refractive indices, needs "
            "psfmodels; `pip install psfmodels`, or give one as a file: psf=..."
        ) from error
    z = (np.arange(planes) - planes // 2) * voxel.step / 1000
    psf = psfmodels.make_psf(
        z,
        nx=side,
        dxy=voxel.pixel / 1000,
        NA=optics.na,
        wvl=optics.wavelength / 1000,
        ni=optics.immersion,
        ni0=optics.immersion,
        ns=optics.specimen,
        pz=optics.depth,
        model="scalar",
    )
    found = torch.from_numpy(np.ascontiguousarray(psf, dtype=np.float64)).clamp_min(0)
    found = found / found.sum()
    return found if len(size) == 3 else found[0] / found[0].sum()


def airy_disk(optics: Optics, pixel: float, side: int) -> Tensor:
    """(2 J1(v) / v)^2 with v = 2 pi na r / wavelength, at the centres of pixels: (side, side)."""
    line = (torch.arange(side, dtype=torch.float64) - side // 2) * pixel
    v = 2 * math.pi * optics.na / optics.wavelength * torch.hypot(line[:, None], line)
    v = v.clamp_min(1e-6)
    disk = (2 * torch.special.bessel_j1(v) / v).square()
    return disk / disk.sum()


def _odd(reach: float, largest: int) -> int:
    """The odd number of voxels that hold the reach to each side, at most `largest`."""
    return min(2 * math.ceil(reach) + 1, largest - (largest + 1) % 2)


def measured_psf(path: Path, voxel: Voxel | None, size: tuple[int, ...]) -> Tensor:
    """The point spread function of a file: a stack, or a picture.

    Args:
        voxel: of the image, if known.
        size: of the image, (height, width) or (depth, height, width). Of a stack with one image in
            focus, the plane of largest sum of squares is taken for a picture.

    Raises: InputError if the file is unusable, or does not suit the image.
    """
    stack: Stack = read_stack(path)
    psf = torch.from_numpy(stack.numbers)
    if psf.ndim == 3 and len(size) == 2:
        psf = psf[int(psf.square().sum((1, 2)).argmax())]
    if psf.ndim != len(size):
        raise InputError(
            f"{path}: a stack needs a point spread function of three axes, found {_by(psf.shape)}"
        )
    if stack.voxel and voxel and not stack.voxel.close_to(voxel, psf.ndim):
        raise InputError(
            f"{path}: its voxels are {stack.voxel}, those of the image {voxel}; resample it"
        )
    if even := [n for n in psf.shape if n % 2 == 0]:
        raise InputError(
            f"{path}: a point spread function has odd sides, found {_by(psf.shape)}; crop or pad "
            f"the side of {even[0]} by one"
        )
    limits = [n if axis or psf.ndim == 2 else 2 * n for axis, n in enumerate(size)]
    if any(n > most for n, most in zip(psf.shape, limits, strict=True)):
        raise InputError(
            f"{path}: the point spread function of {_by(psf.shape)} voxels is larger than the "
            f"image of {_by(size)}; crop it"
        )
    if float(psf.min()) < -0.05 * float(psf.max()) or float(psf.sum()) <= 0:
        raise InputError(
            f"{path}: a point spread function is positive, found values from "
            f"{float(psf.min()):.4g} to {float(psf.max()):.4g}; subtract its background"
        )
    psf = psf.clamp_min(0) / psf.clamp_min(0).sum()
    for axis, n in enumerate(psf.shape):
        line = psf.sum([a for a in range(psf.ndim) if a != axis])
        off = float((line * (torch.arange(n) - n // 2)).sum())
        if abs(off) > OFF_CENTRE:
            raise InputError(
                f"{path}: the point spread function is not centred: along axis {axis} its centre "
                f"of mass is {off:+.1f} voxels from the middle; crop it around its centre"
            )
    return psf


def _by(sides: tuple[int, ...]) -> str:
    return "x".join(map(str, sides))
