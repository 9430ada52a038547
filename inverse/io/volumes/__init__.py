"""Volumes in the files of their trades: NIfTI, DICOM series and MRC, read and written alike."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from inverse.errors import InputError
from inverse.io.volumes.volume import Volume

FORMATS = ("nifti", "mrc", "dicom")
"""The modules of this package that read and write a format each."""


def format_of(path: Path) -> ModuleType | None:
    """The module for a file, or for a folder that holds a series; None for anything else."""
    for name in FORMATS:
        module = importlib.import_module(f"{__name__}.{name}")
        if module.recognises(path):
            return module
    return None


def read_volume(path: Path) -> Volume:
    """Read a volume of any of the formats.

    Raises: InputError if the file is of another kind, cannot be read, or its package is missing.
    """
    if (module := format_of(path)) is None:
        raise InputError(f"{path}: expected a volume in NIfTI, DICOM or MRC")
    return module.read(path)


__all__ = ["Volume", "format_of", "read_volume"]
