"""Image files in their roles: pictures, masks, kernels and measured numbers; PNG files."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from inverse.errors import InputError, OptionError
from inverse.io.arrays import is_array, read_numbers
from inverse.io.files import atomic_write
from inverse.io.pictures import KINDS, PICTURES, check_intensities, is_picture, read_raster

ARRAYS = {".npy", ".npz", ".h5", ".hdf5", ".mat"}
Role = Literal["picture", "kernel", "numbers"]
"""What an image is to a problem: intensities, weights, or numbers of any range."""
LUMA = np.array([[0.299], [0.587], [0.114]], dtype=np.float32)


@dataclass(frozen=True)
class Picture:
    """An image that was read from a file.

    Args:
        pixels: (C, H, W) float32; intensity in [0, 1] for a picture, stored values for an array.
        notes: the conversions made while reading.
    """

    pixels: Tensor
    notes: tuple[str, ...] = ()


def read_image(
    path: str | Path, channels: int = 3, role: Role = "picture", margin: float = 0.0
) -> Picture:
    """Read a picture (PNG, JPEG, TIFF, ...) or an array (.npy, .npz, .h5, .mat), by content.

    Pictures may have any depth, grey or colour, and alpha: transparency is white paper, but 0 in a
    kernel. Unsigned integers of an array are scaled as in a picture, except in the role "numbers".
    An array is (H, W), or has its channels first or last.

    Args:
        channels: of the result. Where it is 3, grey is repeated; where it is 1, colours are
            averaged with luma weights; but not numbers.
        role: picture, whose numbers lie in [0, 1]; kernel and numbers, of any range.
        margin: how far the numbers of a picture in an array may lie outside [0, 1], for noise.

    A kernel is read once, as long as its file does not change.

    Raises: InputError if the file is missing, empty, not an image, has other channels or another
        range, or does not fit into memory.
    """
    if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
        raise OptionError(f"read_image: channels must be a whole number, got {channels!r:.80}")
    path = _path(path)
    if role == "kernel":
        pixels, notes = _kernel(path, channels, margin, _version(path))
        return Picture(pixels.clone(), notes)
    return _image(path, channels, role, margin)


def _path(path: Any) -> Path:
    try:
        return Path(path)
    except TypeError as error:
        raise InputError(f"image: expected a path, got {type(path).__name__}") from error


def _version(path: Path) -> tuple[int, int] | None:
    """What changes with a file: its time and size; None for a file that cannot be read."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=8)
def _kernel(
    path: Path, channels: int, margin: float, version: object
) -> tuple[Tensor, tuple[str, ...]]:
    picture = _image(path, channels, "kernel", margin)
    return picture.pixels, picture.notes


def _image(path: Path, channels: int, role: Role, margin: float) -> Picture:
    path, head = _head(path)
    if is_array(head):
        return _array_picture(read_numbers(path, head), channels, path, role, margin)
    raster = read_raster(path, head)
    values, notes = raster.values, list(raster.notes)
    if raster.alpha is not None:
        paper = 0.0 if role == "kernel" else 1.0
        values = values * raster.alpha + paper * (1 - raster.alpha)
        notes.append("transparency taken as 0" if paper == 0 else "transparency laid on white")
    return _with_channels(values, channels, notes)


def _with_channels(values: np.ndarray, channels: int, notes: list[str]) -> Picture:
    """The picture of values (H, W, C): grey repeated, or colours averaged, as `channels` asks."""
    if values.shape[2] == 1 and channels == 3:
        values, notes = np.repeat(values, 3, axis=2), [*notes, "grey repeated to three channels"]
    elif values.shape[2] == 3 and channels == 1:
        values, notes = values @ LUMA, [*notes, "colour converted to grey"]
    pixels = np.ascontiguousarray(values.transpose(2, 0, 1), dtype=np.float32)
    return Picture(torch.from_numpy(pixels), tuple(notes))


def read_mask(path: str | Path) -> tuple[Tensor, tuple[str, ...]]:
    """Read a mask: boolean (H, W), true where a pixel is observed, and notes.

    A picture or array of two values: the larger is observed. In a picture with transparency the
    opaque pixels are observed. Up to a twentieth of the pixels may lie between the two values, as
    at smoothed edges; they are observed above the middle. The file is read once, as long as it does
    not change.

    Raises: InputError if the file is unreadable or has more values, as a photograph has.
    """
    path = _path(path)
    observed, notes = _mask(path, _version(path))
    return observed.clone(), notes


@functools.lru_cache(maxsize=8)
def _mask(path: Path, version: object) -> tuple[Tensor, tuple[str, ...]]:
    path, head = _head(path)
    if is_array(head):
        array = read_numbers(path, head)
        array = array.reshape([n for n in array.shape if n > 1] or [1])
        if array.ndim == 3 and len(array) in (1, 3) and (array == array[:1]).all():
            array = array[0]
        if array.ndim == 3 and array.shape[2] == 3 and (array == array[..., :1]).all():
            array = array[..., 0]
        if array.ndim != 2 or array.dtype.kind not in "buif":
            raise InputError(f"mask {path}: expected (height, width), found shape {array.shape}")
        return _two_valued(path, array.astype(np.float32))
    raster = read_raster(path, head)
    if raster.alpha is not None and (raster.alpha < 1).any():
        return torch.from_numpy(raster.alpha[..., 0] == 1), ("transparent pixels are holes",)
    values = raster.values
    return _two_valued(path, values[..., 0] if values.shape[2] == 1 else (values @ LUMA)[..., 0])


def _two_valued(path: Path, values: np.ndarray) -> tuple[Tensor, tuple[str, ...]]:
    if not np.isfinite(values).all():
        raise InputError(f"mask {path}: holds NaN or infinity; use 0 for holes and 1 elsewhere")
    found, counts = np.unique(values, return_counts=True)
    low, high = float(found[0]), float(found[-1])
    if low == high:
        return torch.full(values.shape, high > 0), ()
    between = (values > low + 0.1 * (high - low)) & (values < high - 0.1 * (high - low))
    if between.mean() > 0.05:
        order = counts.argsort()[::-1][:2]
        common = " and ".join(f"{found[i]:.3g} ({counts[i] / values.size:.0%})" for i in order)
        raise InputError(
            f"mask {path}: {len(found)} different values, the commonest {common}; expected two, "
            "black for holes and white for observed pixels"
        )
    smooth = len(found) > 2
    notes = (f"{len(found)} values, observed above the middle",) if smooth else ()
    return torch.from_numpy(values >= (low + high) / 2), notes


def _head(path: Path) -> tuple[Path, bytes]:
    """The path and the first bytes of a file.

    Raises: InputError if it is missing, a folder, a pipe, empty, or of no known kind.
    """
    try:
        if not path.exists():
            raise InputError(f"{path}: no such file")
        if path.is_dir():
            raise InputError(f"{path}: is a folder, expected a file")
        if not path.is_file():
            raise InputError(f"{path}: is a pipe or a device, expected a file; store its contents")
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise InputError(f"{str(path)[:200]}: cannot be read ({error.strerror})") from error
    if not head:
        raise InputError(f"{path}: is empty (0 bytes)")
    suffix = path.suffix.lower()
    if not (is_array(head) or is_picture(head) or suffix in PICTURES | ARRAYS):
        raise InputError(
            f"{path}: expected one of {', '.join(sorted(PICTURES | ARRAYS))}, "
            f"got '{suffix or 'no suffix'}'"
        )
    if suffix in ARRAYS and not is_array(head) and not is_picture(head):
        raise InputError(
            f"{path}: not a readable array (neither .npy, .npz, HDF5 nor .mat, nor {KINDS})"
        )
    return path, head


def input_files(paths: list[Path]) -> list[Path]:
    """The named files, and the images in the named folders, in order.

    A warning lists the files of a folder that are not images and were skipped.

    Raises: InputError if a path is missing or a folder holds no readable file.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir() and path.suffix != ".zarr":
            files += _images_in(path)
        elif path.exists():
            files.append(path)
        else:
            raise InputError(f"{path}: no such file")
    return files


def _images_in(folder: Path) -> list[Path]:
    readable = ", ".join(sorted(PICTURES | ARRAYS))
    images, others = [], []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue  # such as the ._ files that macOS leaves beside pictures
        if path.suffix.lower() in PICTURES | ARRAYS:
            images.append(path)
        elif path.is_file():
            others.append(path.name)
    if not images:
        raise InputError(f"{folder}: the folder holds no image ({readable})")
    if others:
        more = f" and {len(others) - 8} more" if len(others) > 8 else ""
        warnings.warn(
            f"{folder}: skipped {', '.join(others[:8])}{more}; read are {readable}", stacklevel=3
        )
    return images


def write_png(path: Path, pixels: Tensor) -> None:
    """Write pixels (C, H, W) or (H, W), clipped to [0, 1], as an 8-bit PNG. Raises: OSError."""
    from PIL import Image

    with atomic_write(path) as temporary:
        Image.fromarray(_to_uint8(pixels)).save(temporary, format="PNG")


def grid(images: Tensor, columns: int = 8, gap: int = 2) -> Tensor:
    """Images (N, C, H, W) arranged in a sheet (C, H', W') on a white ground.

    Args:
        columns: images per row.
        gap: distance between images (pixels).
    """
    n, c, h, w = images.shape
    rows = -(-n // columns)
    sheet = torch.ones(c, rows * (h + gap) - gap, columns * (w + gap) - gap)
    for i, image in enumerate(images):
        top, left = (i // columns) * (h + gap), (i % columns) * (w + gap)
        sheet[:, top : top + h, left : left + w] = image
    return sheet


def read_array(path: Path) -> Tensor:
    """Real numbers of any shape from a .npy, .npz, .h5 or .mat file, float32, stored values.

    A file of several arrays must hold one named `y` or a single numeric one.

    Raises: InputError if the file is missing, is no array, or holds anything else.
    """
    path, head = _head(Path(path))
    if not is_array(head):
        raise InputError(
            f"{path}: the input of this problem is an array, not a picture; "
            f"expected one of {', '.join(sorted(ARRAYS))}"
        )
    array = read_numbers(path, head)
    _check_real(path, array)
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def read_complex(path: Path) -> Tensor | None:
    """Complex numbers of any shape from an array file, complex64; None if they are real.

    A file of several arrays must hold one named `y` or `kspace`, or a single numeric one.

    Raises: InputError if the file is missing or no array.
    """
    path, head = _head(Path(path))
    if not is_array(head):
        raise InputError(
            f"{path}: expected an array ({', '.join(sorted(ARRAYS))}), found a picture"
        )
    array = read_numbers(path, head)
    if not np.iscomplexobj(array):
        return None
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.complex64))


def _check_real(path: Path, array: np.ndarray) -> None:
    if array.dtype.kind not in "buif":
        raise InputError(f"{path}: expected real numbers, found {array.dtype}")


def _array_picture(
    array: np.ndarray, channels: int, path: Path, role: Role, margin: float
) -> Picture:
    """A picture of an array: channels first, unsigned integers scaled to [0, 1]."""
    _check_real(path, array)
    shape = array.shape
    while array.ndim > 3 and len(array) == 1:
        array = array[0]
    if array.ndim == 2:
        array = array[..., None]
    elif array.ndim == 3 and _channels_first(array.shape, channels):
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.size == 0:
        raise InputError(
            f"{path}: expected (height, width) or (channels, height, width), found shape {shape}"
        )
    found = array.shape[2]
    if found != channels and (role == "numbers" or (found, channels) not in ((1, 3), (3, 1))):
        owner = "a kernel" if role == "kernel" else "the prior"
        raise InputError(
            f"{path}: shape {shape} has {found} channels, {owner} has {channels}; "
            f"store it as ({channels}, height, width)"
        )
    scale = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}.get(array.dtype, 1)
    scale = 1 if role == "numbers" else scale
    if scale == 1 and role == "picture":
        check_intensities(path, array, margin)
    notes = [f"{array.dtype} divided by {scale}"] if scale > 1 else []
    return _with_channels(array.astype(np.float32) / np.float32(scale), channels, notes)


def _channels_first(shape: tuple[int, ...], channels: int) -> bool:
    """Whether (., ., .) are channels, height, width; the shorter end decides if neither fits."""
    first, last = shape[0], shape[2]
    if first == channels or last == channels:
        return first == channels
    return first in (1, 3) or (last not in (1, 3) and first <= last)


def _to_uint8(pixels: Tensor) -> np.ndarray:
    array = (pixels.detach().float().clamp(0, 1) * 255).round().byte().cpu().numpy()
    if array.ndim == 2:
        return array
    return array[0] if array.shape[0] == 1 else array.transpose(1, 2, 0)
