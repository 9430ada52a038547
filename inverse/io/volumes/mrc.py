"""MRC files of electron microscopy: voxel size, origin and start are kept."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from inverse.errors import InputError
from inverse.io.files import atomic_write
from inverse.io.sizes import check_memory, reading
from inverse.io.volumes.volume import LIMITS, Volume, package

KEPT = ("nxstart", "nystart", "nzstart", "origin", "cellb", "mapc", "mapr", "maps", "ispg")
"""Fields of the header that are copied."""


def recognises(path: Path) -> bool:
    """Whether a file is MRC."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(212)[208:212] in (b"MAP ", b"MAP\0")
    except OSError:
        return False


def read(path: Path) -> MRC:
    """Read a volume.

    Raises: InputError if it cannot be read, or is no volume of real numbers.
    """
    mrcfile = package(path, "mrcfile")
    with (
        reading(path, "a readable MRC file"),
        warnings.catch_warnings(action="ignore"),
        mrcfile.mmap(path, mode="r", permissive=False) as file,
    ):
        header, shape = file.header.copy(), file.data.shape
        check_memory(path, shape)
        if len(shape) != 3 or file.data.dtype.kind == "c":
            raise InputError(
                f"{path}: expected a volume of three axes of real numbers, found "
                f"{'x'.join(map(str, shape))} {file.data.dtype}"
            )
        numbers = np.array(file.data, dtype=np.float32)
    return MRC(path, header, numbers)


class MRC(Volume):
    """An MRC volume, its sections as slices; spacing in angstroms."""

    def __init__(self, path: Path, header: np.recarray, numbers: np.ndarray):
        self._header = header
        cell = [float(header.cella[name]) for name in ("z", "y", "x")]
        lengths = [max(int(header[name]), 1) for name in ("mz", "my", "mx")]
        first, second, third = (c / n for c, n in zip(cell, lengths, strict=True))
        super().__init__(path, numbers, (first, second, third))

    @property
    def suffix(self) -> str:
        return ".mrc"

    def write(self, path: Path, slices: np.ndarray, description: str) -> None:
        mrcfile = package(path, "mrcfile")
        ratio = [a / b for a, b in zip(self.slices.shape, slices.shape, strict=True)]
        z, y, x = (s * r for s, r in zip(self.spacing, ratio, strict=True))
        with (
            warnings.catch_warnings(action="ignore"),
            atomic_write(path) as temporary,
            mrcfile.new(temporary, overwrite=True) as file,
        ):
            file.set_data(np.ascontiguousarray(slices, np.float32))
            file.voxel_size = (x, y, z)
            for name in KEPT:
                file.header[name] = self._header[name]
            file.add_label(f"{description}, {LIMITS}"[:79])
