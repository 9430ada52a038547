"""NIfTI files (.nii, .nii.gz): affine, spacing and codes are kept."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np

from inverse.errors import InputError
from inverse.io.files import atomic_write
from inverse.io.sizes import check_memory, reading
from inverse.io.volumes.volume import LIMITS, Volume, package

MAGIC = (b"n+1\0", b"n+2\0", b"ni1\0", b"ni2\0")
"""At byte 344 of NIfTI-1, or at byte 4 of NIfTI-2."""

ANISOTROPIC = 1.2
"""Ratio of spacings from which the widest separates the slices; else the slices are axial."""


def recognises(path: Path) -> bool:
    """Whether a file is NIfTI, compressed or not."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if compressed else path.open("rb") as file:
            head = file.read(348)
    except (OSError, EOFError):
        return False
    return head[344:348] in MAGIC or head[4:8] in MAGIC


def read(path: Path) -> NIfTI:
    """Read a volume.

    Raises: InputError if it cannot be read, or has more than three axes.
    """
    nibabel = package(path, "nibabel")
    with reading(path, "a readable NIfTI file"):
        image = nibabel.load(path)
        shape = image.shape
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        check_memory(path, shape)
        if len(shape) != 3:
            raise InputError(
                f"{path}: expected a volume of three axes, found {'x'.join(map(str, image.shape))};"
                " extract one volume, e.g. with fslroi or nibabel's slicer"
            )
        numbers = image.get_fdata(dtype=np.float32).reshape(shape)
    return NIfTI(path, image, numbers)


class NIfTI(Volume):
    """A NIfTI volume; the rows of its slices run from front or top to back or bottom."""

    def __init__(self, path: Path, image: Any, numbers: np.ndarray):
        self._image = image
        self._turn = _turn(path, image)
        turned = package(path, "nibabel").orientations.apply_orientation(numbers, self._turn)
        zooms = np.abs(np.linalg.norm(image.affine[:3, :3], axis=0))
        ordered = [float(zooms[int(axis)]) for axis in np.argsort(self._turn[:, 0])]
        self._across = int(np.argmax(ordered)) if max(ordered) > ANISOTROPIC * min(ordered) else 2
        rows, columns = self._plane
        spacing = (ordered[self._across], ordered[rows], ordered[columns])
        super().__init__(path, self._as_slices(turned), spacing)

    @property
    def suffix(self) -> str:
        return ".nii.gz" if self.path.name.endswith(".gz") else ".nii"

    def write(self, path: Path, slices: np.ndarray, description: str) -> None:
        nibabel = package(path, "nibabel")
        turned = self._as_turned(slices)
        numbers = nibabel.orientations.apply_orientation(
            turned, nibabel.orientations.ornt_transform(_upright(), self._turn)
        )
        before = np.array(self._image.shape[:3])
        affine = self._image.affine.copy()
        ratio = before / np.array(numbers.shape)
        if (ratio != 1).any():  # the corners of the volume stay, so that centres move
            affine[:3, 3] += affine[:3, :3] @ (0.5 * (ratio - 1))
            affine[:3, :3] = affine[:3, :3] * ratio
        header = self._image.header.copy()
        header.set_data_dtype(np.float32)
        header.set_slope_inter(1, 0)
        header["descrip"] = f"{description}, {LIMITS}"[:79].encode("ascii", "replace")
        image = type(self._image)(np.ascontiguousarray(numbers, np.float32), affine, header)
        if (ratio == 1).all():
            image.header.set_qform(self._image.get_qform(), int(header["qform_code"]))
            image.header.set_sform(self._image.get_sform(), int(header["sform_code"]))
        with atomic_write(path) as temporary:
            named = temporary.with_name(temporary.name + self.suffix)
            nibabel.save(image, named)
            named.replace(temporary)

    @property
    def _plane(self) -> tuple[int, int]:
        """The axes of rows and columns of a slice, among right, front and top."""
        return {0: (2, 1), 1: (2, 0), 2: (1, 0)}[self._across]

    def _as_slices(self, turned: np.ndarray) -> np.ndarray:
        stacked = turned.transpose(self._across, *self._plane)
        return np.ascontiguousarray(stacked[:, ::-1])

    def _as_turned(self, slices: np.ndarray) -> np.ndarray:
        return slices[:, ::-1].transpose(np.argsort((self._across, *self._plane)))


def _upright() -> np.ndarray:
    return np.array([[0.0, 1], [1, 1], [2, 1]])


def _turn(path: Path, image: Any) -> np.ndarray:
    """The orientation of the axes, as nibabel's (axis, flip).

    Raises: InputError if the affine has no inverse.
    """
    turn = package(path, "nibabel").io_orientation(image.affine)
    if np.isnan(turn).any() or not np.isfinite(image.affine).all():
        raise InputError(f"{path}: its affine gives two axes one direction; set a valid one")
    return turn
