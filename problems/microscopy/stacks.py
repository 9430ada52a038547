"""Files of microscope images: pictures and stacks with the sides of their voxels."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inverse.errors import InputError
from inverse.io.arrays import is_array, read_numbers
from inverse.io.stacks import is_tiff, read_tiff, write_tiff

NANOMETRES = {
    "nm": 1.0,
    "nanometer": 1.0,
    "um": 1e3,
    "µm": 1e3,
    "μm": 1e3,
    "micron": 1e3,
    "microns": 1e3,
    "micrometer": 1e3,
    "mm": 1e6,
    "cm": 1e7,
    "inch": 2.54e7,
    "å": 0.1,
    "angstrom": 0.1,
}
"""Length of each unit of a file (nm)."""


@dataclass(frozen=True)
class Voxel:
    """Sides of a voxel.

    Args:
        pixel: height and width (nm).
        step: distance of two planes (nm); that of the pixels in a picture.
    """

    pixel: float
    step: float

    def __str__(self) -> str:
        return f"{self.pixel:g} x {self.pixel:g} x {self.step:g} nm"

    def close_to(self, other: Voxel, axes: int) -> bool:
        """Whether the sides agree to 2 %; those of pictures only in the plane."""
        step = axes == 2 or math.isclose(self.step, other.step, rel_tol=0.02)
        return step and math.isclose(self.pixel, other.pixel, rel_tol=0.02)


@dataclass(frozen=True)
class Stack:
    """An image (height, width) or a stack (depth, height, width), with its voxel if stated."""

    numbers: np.ndarray
    voxel: Voxel | None


def read_stack(path: Path) -> Stack:
    """Read one channel of a TIFF file (also ImageJ's and OME's), or an array file.

    Raises: InputError if the file cannot be read, or holds other axes.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open("rb") as file:
        head = file.read(64)
    if is_tiff(head):
        numbers, axes = read_tiff(path)
        extra = [(letter, n) for letter, n in zip(axes, numbers.shape, strict=True) if n > 1]
        if refused := [f"{n} of axis {letter}" for letter, n in extra if letter in "CST"]:
            raise InputError(
                f"{path}: expected one channel at one time, found {refused[0]} ({axes}); "
                "extract one"
            )
        voxel = _tiff_voxel(path)
    elif is_array(head):
        numbers, voxel = read_numbers(path, head), None
    else:
        raise InputError(
            f"{path}: expected numbers in TIFF, .npy, .npz or HDF5, found another kind of file"
        )
    numbers = np.squeeze(numbers)
    if numbers.ndim not in (2, 3):
        raise InputError(
            f"{path}: expected a picture (y, x) or a stack (z, y, x), found shape {numbers.shape}"
        )
    if numbers.dtype.kind not in "buif":
        raise InputError(f"{path}: expected real numbers, found {numbers.dtype}")
    invalid = int((~np.isfinite(numbers)).sum())
    if invalid:
        raise InputError(f"{path}: {invalid} of {numbers.size} values are NaN or infinite")
    return Stack(numbers.astype(np.float64), voxel)


def _tiff_voxel(path: Path) -> Voxel | None:
    import tifffile

    with tifffile.TiffFile(path) as file:
        if file.ome_metadata:
            return _ome_voxel(file.ome_metadata)
        about: dict[str, Any] = file.imagej_metadata or {}
        unit = NANOMETRES.get(str(about.get("unit", "")).lower())
        resolution = file.pages[0].tags.get("XResolution")  # type: ignore[union-attr]
        if unit is None or resolution is None or not resolution.value[0]:
            return None
        pixel = resolution.value[1] / resolution.value[0] * unit
        return Voxel(pixel, float(about.get("spacing", 0)) * unit or pixel)


def _ome_voxel(xml: str) -> Voxel | None:
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        return None  # entities could expand without end
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return None
    pixels = next((item for item in root.iter() if item.tag.endswith("Pixels")), None)
    if pixels is None:
        return None

    def side(axis: str) -> float | None:
        value = pixels.get(f"PhysicalSize{axis}")
        unit = NANOMETRES.get(pixels.get(f"PhysicalSize{axis}Unit", "um").lower())
        try:
            return float(value) * unit if value and unit else None
        except ValueError:
            return None

    pixel = side("X")
    return Voxel(pixel, side("Z") or pixel) if pixel else None


def write_stack(path: Path, numbers: np.ndarray, voxel: Voxel | None) -> None:
    """Write a picture or stack as an ImageJ TIFF file of float32 with the sides of its voxels.

    Raises: OSError.
    """
    settings: dict[str, Any] = {"imagej": True}
    if voxel is not None:
        per_um = 1000 / voxel.pixel
        settings |= {
            "resolution": (per_um, per_um),
            "metadata": {
                "unit": "um",
                "axes": "ZYX" if numbers.ndim == 3 else "YX",
                **({"spacing": voxel.step / 1000} if numbers.ndim == 3 else {}),
            },
        }
    write_tiff(path, numbers, **settings)
