"""MATLAB files to numbers: version 5 through scipy, version 7.3 as the HDF5 that it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from inverse.errors import InputError
from inverse.io.sizes import check_memory

V5, V73 = b"MATLAB 5.0", b"MATLAB 7.3"
"""The first bytes of a MAT-file."""
NUMERIC = {"double", "single", "logical", *(f"{s}int{n}" for s in ("", "u") for n in (8, 16, 32))}
"""MATLAB's classes of arrays of numbers; not text, cells, structures and sparse matrices."""


def numeric_variables(path: Path) -> list[str]:
    """Names of the full arrays of numbers in a MAT-file of version 5."""
    from scipy.io import whosmat

    with path.open("rb") as file:
        return [name for name, _, kind in whosmat(file) if kind in NUMERIC]


def variable(path: Path, name: str) -> np.ndarray:
    """An array of a MAT-file of version 5; a vector keeps MATLAB's two axes.

    Raises: InputError if it does not fit into memory.
    """
    from scipy.io import loadmat, whosmat

    with path.open("rb") as file:
        shape = next(shape for found, shape, _ in whosmat(file) if found == name)
        check_memory(path, shape)
        file.seek(0)
        array = loadmat(file, variable_names=[name])[name]
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "buifc":
        raise InputError(f"{path}: '{name}' is no array of numbers")
    return array


def from_matlab(dataset: Any) -> bool:
    """Whether MATLAB wrote an HDF5 dataset, which then holds the columns first."""
    return "MATLAB_class" in dataset.attrs and dataset.file.userblock_size >= 512


def as_matlab_shows(dataset: Any) -> np.ndarray:
    """The numbers of a dataset of MATLAB, with the axes that MATLAB shows."""
    array = dataset[()].T
    return array.astype(bool) if dataset.attrs["MATLAB_class"] == b"logical" else array
