"""Image files: pictures and arrays to tensors, tensors to PNG."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inverse.errors import InputError
from inverse.io.files import atomic_write

PICTURES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp"}
ARRAYS = {".npy", ".h5", ".hdf5"}


@dataclass(frozen=True)
class Picture:
    """An image that was read from a file.

    Args:
        pixels: (C, H, W) float32; intensity in [0, 1] for a picture, stored values for an array.
        notes: the conversions made while reading.
    """

    pixels: Tensor
    notes: tuple[str, ...] = ()


def read_image(path: str | Path, channels: int = 3) -> Picture:
    """Read a picture (PNG, JPEG, TIFF, WebP, BMP) or an array (.npy, .h5).

    Pictures may have 8 or 16 bits, grey or colour, and alpha.

    Args:
        channels: 3 or 1. A grey picture is repeated; a colour picture is averaged with luma
            weights. An array must have this number of channels.

    Raises: InputError if the file is missing, empty, not an image, or has other channels.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected a file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: is empty (0 bytes)")
    suffix = path.suffix.lower()
    if suffix in ARRAYS:
        return _array_picture(_read_array(path), channels, path)
    if suffix not in PICTURES:
        raise InputError(
            f"{path}: expected one of {', '.join(sorted(PICTURES | ARRAYS))}, "
            f"got '{suffix or 'no suffix'}'"
        )
    array, notes = _read_picture(path)
    array, notes = _flatten_alpha(array, notes)
    if array.shape[2] == 1 and channels == 3:
        array, notes = np.repeat(array, 3, axis=2), [*notes, "grey repeated to three channels"]
    elif array.shape[2] == 3 and channels == 1:
        array = array @ np.array([[0.299], [0.587], [0.114]], dtype=np.float32)
        notes = [*notes, "colour converted to grey"]
    return Picture(torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1))), tuple(notes))


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


def _read_picture(path: Path) -> tuple[np.ndarray, list[str]]:
    """Pixels (H, W, C), float32 in [0, 1], at full depth for 16-bit files, and notes."""
    try:
        deep = _deep_tiff(path) if path.suffix.lower() in (".tif", ".tiff") else _deep_png(path)
        array, notes = (deep, []) if deep is not None else _read_eight_bit(path)
    except Exception as error:  # each reader raises its own types
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path}: not a readable image ({reason}); expected PNG, JPEG, TIFF, WebP or BMP"
        ) from error
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] > 4):
        raise InputError(
            f"{path}: expected a single picture (height, width[, channels]), "
            f"found an array of shape {array.shape}"
        )
    array = array[..., None] if array.ndim == 2 else array
    if array.dtype == np.uint16:
        return array.astype(np.float32) / 65535, [*notes, "16-bit"]
    if array.dtype == bool or array.dtype == np.uint8:
        return array.astype(np.float32) / (1 if array.dtype == bool else 255), notes
    if np.issubdtype(array.dtype, np.floating):
        return array.astype(np.float32), [*notes, "floating point, used as intensities"]
    raise InputError(f"{path}: pixels are {array.dtype}; expected 8-bit, 16-bit or floating point")


def _expand(image):
    """Palette images become RGB(A), CMYK and similar modes RGB; other modes are unchanged."""
    if image.mode == "P":
        return image.convert("RGBA" if "transparency" in image.info else "RGB")
    return image if image.mode in ("1", "L", "LA", "RGB", "RGBA", "I;16") else image.convert("RGB")


def _read_eight_bit(path: Path) -> tuple[np.ndarray, list[str]]:
    """Pixels of the first page, turned upright, as Pillow reads them, and notes."""
    from PIL import Image, ImageOps

    notes = []
    with Image.open(path) as image:
        if (pages := getattr(image, "n_frames", 1)) > 1:
            notes.append(f"first of {pages} pages")
        if image.getexif().get(0x0112, 1) != 1:
            notes.append("turned upright as its EXIF orientation says")
        if _png_depth(path) == (16, 4):
            notes.append("16-bit grey with alpha, read at 8 bits")
        return np.asarray(_expand(ImageOps.exif_transpose(image))), notes


def _deep_png(path: Path) -> np.ndarray | None:
    """Pixels of a 16-bit PNG, which Pillow reduces to 8 bits in colour; None for other files."""
    depth, colour_type = _png_depth(path)
    mode = {0: "mono", 2: "rgb", 6: "rgba"}.get(colour_type)
    if depth != 16 or mode is None:
        return None
    import kornia_rs

    return np.asarray(kornia_rs.io.read_image_png_u16(str(path), mode))


def _png_depth(path: Path) -> tuple[int, int]:
    """Bits per channel and colour type of a PNG; (0, 0) for other files."""
    with path.open("rb") as file:
        head = file.read(26)
    return (head[24], head[25]) if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) == 26 else (0, 0)


def _deep_tiff(path: Path) -> np.ndarray | None:
    """Pixels of a TIFF of more than 8 bits, which Pillow does not read in colour; else None."""
    import tifffile

    # The error reports a damaged file; tifffile would log it as well.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    with tifffile.TiffFile(path) as file:
        shallow = not len(file.pages) or (file.pages.first.dtype or np.dtype(float)).itemsize == 1
        return None if shallow else file.asarray()


def _flatten_alpha(array: np.ndarray, notes: list[str]) -> tuple[np.ndarray, list[str]]:
    if array.shape[2] not in (2, 4):
        return array, notes
    alpha = array[..., -1:]
    return array[..., :-1] * alpha + (1 - alpha), [*notes, "transparency laid on white"]


def read_array(path: Path) -> Tensor:
    """Real numbers of any shape from a .npy or .h5 file, float32, stored values.

    An .h5 file must hold a dataset `y` or a single dataset.

    Raises: InputError if the file is missing, has another suffix, or holds anything else.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix.lower() not in ARRAYS:
        raise InputError(
            f"{path}: the input of this problem is an array, not a picture; "
            f"expected one of {', '.join(sorted(ARRAYS))}"
        )
    array = _read_array(path)
    if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise InputError(f"{path}: expected real numbers, found {array.dtype}")
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _read_array(path: Path) -> np.ndarray:
    try:
        if path.suffix.lower() == ".npy":
            return np.load(path, allow_pickle=False)
        import h5py

        with h5py.File(path, "r") as file:
            names = [name for name, item in file.items() if isinstance(item, h5py.Dataset)]
            name = "y" if "y" in names else names[0] if len(names) == 1 else None
            if name is None:
                raise InputError(
                    f"{path}: expected a dataset 'y' or a single dataset, "
                    f"found {', '.join(names) or 'none'}"
                )
            return file[name][()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable array ({str(error).splitlines()[0]})") from error


def _array_picture(array: np.ndarray, channels: int, path: Path) -> Picture:
    """A picture of an array: channels first, unsigned integers scaled to [0, 1]."""
    if not (np.issubdtype(array.dtype, np.number) and not np.iscomplexobj(array)):
        raise InputError(f"{path}: expected real numbers, found {array.dtype}")
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if array.ndim == 2:
        array = array[None]
    elif array.ndim == 3 and array.shape[0] != channels and array.shape[2] == channels:
        array = array.transpose(2, 0, 1)
    if array.ndim != 3 or array.size == 0:
        raise InputError(f"{path}: expected (channels, height, width), found shape {array.shape}")
    if array.shape[0] != channels:
        raise InputError(
            f"{path}: has {array.shape[0]} channels, the prior has {channels}; "
            f"store it as ({channels}, height, width)"
        )
    scale = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}.get(array.dtype, 1)
    pixels = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32) / np.float32(scale))
    return Picture(pixels, (f"{array.dtype} divided by {scale}",) if scale > 1 else ())


def _to_uint8(pixels: Tensor) -> np.ndarray:
    array = (pixels.detach().float().clamp(0, 1) * 255).round().byte().cpu().numpy()
    if array.ndim == 2:
        return array
    return array[0] if array.shape[0] == 1 else array.transpose(1, 2, 0)
