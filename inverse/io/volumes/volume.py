"""A volume as a stack of slices, with what its file needs to be written again."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from pathlib import Path
from types import ModuleType

import numpy as np

from inverse.errors import InputError
from inverse.io import brightness

LIMITS = "not for diagnosis"
"""Written into every file that has room for a description."""


class Volume(ABC):
    """Slices of physical values, (slices, height, width), float32, upright as a viewer shows them.

    Args:
        path: of the file or folder.
        slices: physical values, with the file's slope and intercept applied.
        spacing: distance of slices, rows and columns (mm, or the file's unit).
    """

    def __init__(self, path: Path, slices: np.ndarray, spacing: tuple[float, float, float]):
        self.path, self.slices, self.spacing = path, slices, spacing
        self.low, self.high = _window(path, slices)

    @property
    def suffix(self) -> str:
        """Of the file that `write` writes; "" for a folder."""
        return ".nii"

    def intensities(self) -> np.ndarray:
        """The slices with `low` as 0 and `high` as 1."""
        return (self.slices - self.low) / (self.high - self.low)

    def values(self, intensities: np.ndarray) -> np.ndarray:
        """Physical values of intensities, the inverse of `intensities`."""
        return intensities * (self.high - self.low) + self.low

    @abstractmethod
    def write(self, path: Path, slices: np.ndarray, description: str) -> None:
        """Write values in place of the volume's own, with its geometry, under a temporary name.

        Args:
            slices: (slices, height, width); finer slices than the volume's keep its extent.
            description: of how they were made, for the header.

        Raises: InputError if they cannot be written.
        """


def _window(path: Path, slices: np.ndarray) -> tuple[float, float]:
    """The values that become intensities 0 and 1.

    Raises: InputError if all values are equal, or any is not finite.
    """
    if invalid := int((~np.isfinite(slices)).sum()):
        raise InputError(f"{path}: {invalid} of {slices.size} values are NaN or infinite")
    lowest = float(slices.min())
    low = min(0.0, lowest)
    high = max(low + brightness.unit(slices, low), float(slices.max()))
    if not high > low or lowest == float(slices.max()):
        raise InputError(f"{path}: all values are {lowest:g}; there is nothing to restore")
    return low, high


def package(path: Path, name: str) -> ModuleType:
    """The package that reads a format. Raises: InputError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f'{path}: needs {name}; `pip install {name}`, or `pip install ".[medical]"`'
        ) from error
