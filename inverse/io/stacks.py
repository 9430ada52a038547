"""TIFF files of measured numbers: images and stacks as they are stored, of any depth."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from inverse.io.files import atomic_write
from inverse.io.sizes import check_memory, reading


def is_tiff(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a TIFF file."""
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_tiff(path: Path) -> tuple[np.ndarray, str]:
    """The numbers of the first series of a TIFF file, not scaled, and the letters of its axes.

    The axes are those of tifffile: Z, Y, X, C (channel), T (time), S (sample), Q and I (unknown).

    Raises: InputError if the file cannot be read or does not fit into memory.
    """
    import tifffile

    # The error reports a damaged file; tifffile would log it as well.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    with reading(path, "a readable TIFF file"), tifffile.TiffFile(path) as file:
        series: Any = file.series[0]
        check_memory(path, series.shape)
        return series.asarray(), str(series.axes)


def write_tiff(path: Path, numbers: np.ndarray, **settings: Any) -> None:
    """Write numbers (..., height, width) as float32, atomically.

    Args:
        settings: of `tifffile.imwrite`, such as metadata.

    Raises: OSError.
    """
    import tifffile

    with atomic_write(path) as temporary:
        tifffile.imwrite(temporary, np.asarray(numbers, dtype=np.float32), **settings)
