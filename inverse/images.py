"""Pictures in and out: files to tensors in [0, 1], results to PNG."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inverse.errors import InputError
from inverse.files import replacing
from inverse.result import Result

PICTURES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp"}
ARRAYS = {".npy", ".h5", ".hdf5"}


@dataclass(frozen=True)
class Picture:
    """Pixels (C, H, W), float32, intensity in [0, 1] for picture files and as stored for arrays; notes say what was converted."""

    pixels: Tensor
    notes: tuple[str, ...] = ()


def read_image(path: str | Path, channels: int = 3) -> Picture:
    """Read a picture (PNG, JPEG, TIFF, WebP, BMP; 8 or 16 bit, grey, colour, alpha) or an array (.npy, .h5).

    Args:
        channels: 3 or 1. Grey pictures are repeated, colour ones averaged with luma weights; arrays must have them already.

    Raises: InputError with the file and the reason if it is missing, empty, not an image, or has other channels.
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
        raise InputError(f"{path}: expected one of {', '.join(sorted(PICTURES | ARRAYS))}, got '{suffix or 'no suffix'}'")
    array, notes = _read_picture(path)
    array, notes = _flatten_alpha(array, notes)
    if array.shape[2] == 1 and channels == 3:
        array, notes = np.repeat(array, 3, axis=2), [*notes, "grey repeated to three channels"]
    elif array.shape[2] == 3 and channels == 1:
        array, notes = array @ np.array([[0.299], [0.587], [0.114]], dtype=np.float32), [*notes, "colour converted to grey"]
    return Picture(torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1))), tuple(notes))


def input_files(paths: list[Path]) -> list[Path]:
    """Files named or inside named folders, in order; a warning names a folder's files that are no images and were skipped.

    Raises: InputError if a path is missing or a folder holds no readable file.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir() and path.suffix != ".zarr":
            there, readable = sorted(path.iterdir()), PICTURES | ARRAYS
            inside = [f for f in there if f.suffix.lower() in readable]
            if not inside:
                raise InputError(f"{path}: the folder holds no image ({', '.join(sorted(PICTURES | ARRAYS))})")
            if skipped := [f.name for f in there if f.suffix.lower() not in readable and f.is_file() and not f.name.startswith(".")]:
                more = f" and {len(skipped) - 8} more" if len(skipped) > 8 else ""
                warnings.warn(f"{path}: skipped {', '.join(skipped[:8])}{more}; read are {', '.join(sorted(PICTURES | ARRAYS))}", stacklevel=2)
            files += inside
        elif path.exists():
            files.append(path)
        else:
            raise InputError(f"{path}: no such file")
    return files


def write_png(path: Path, pixels: Tensor) -> None:
    """Write (C, H, W) or (H, W), clipped to [0, 1], as 8-bit PNG."""
    from PIL import Image

    with replacing(path) as temporary:
        Image.fromarray(_to_uint8(pixels)).save(temporary, format="PNG")


def panel(result: Result, image: int = 0) -> Tensor:
    """Measurement, reconstruction, standard deviation, truth and error of one image side by side, captioned: (3, H, W).

    Small images are enlarged, so that captions have room. The standard deviation appears with several samples, truth and error where the truth is known.
    """
    mean = result.mean[image]
    tiles = [("measurement", result.y[image]), ("reconstruction", mean)]
    if result.samples.shape[1] > 1:
        std = result.std[image].square().mean(0).sqrt()
        tiles.append((f"std, 0 to {std.max():.3f}", heat(std / std.max().clamp_min(1e-12))))
    if result.truth is not None:
        error = (mean - result.truth[image]).square().mean(0).sqrt()
        tiles += [("truth", result.truth[image]), (f"error, 0 to {error.max():.3f}", heat(error / error.max().clamp_min(1e-12)))]
    height, width = (n * max(1, 112 // max(mean.shape[-2:])) for n in mean.shape[-2:])
    return torch.cat([_captioned(name, _fit(tile, height, width)) for name, tile in tiles], dim=2)


def heat(values: Tensor) -> Tensor:
    """Dark-to-bright colours for values (H, W) in [0, 1] -> (3, H, W)."""
    anchors = np.array([[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]]) / 255
    at = np.linspace(0, 1, len(anchors))
    return torch.stack([torch.from_numpy(np.interp(values.numpy(), at, anchors[:, c])).float() for c in range(3)])


def grid(images: Tensor, columns: int = 8, gap: int = 2) -> Tensor:
    """Images (N, C, H, W) as one sheet (C, H', W') on white."""
    n, c, h, w = images.shape
    rows = -(-n // columns)
    sheet = torch.ones(c, rows * (h + gap) - gap, columns * (w + gap) - gap)
    for i, image in enumerate(images):
        top, left = (i // columns) * (h + gap), (i % columns) * (w + gap)
        sheet[:, top : top + h, left : left + w] = image
    return sheet


def _read_picture(path: Path) -> tuple[np.ndarray, list[str]]:
    """(H, W, C) float32 in [0, 1] and notes; sixteen bits are kept."""
    try:
        deep = _deep_tiff(path) if path.suffix.lower() in (".tif", ".tiff") else _deep_png(path)
        array, notes = (deep, []) if deep is not None else _read_eight_bit(path)
    except Exception as error:  # every reader raises types of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: not a readable image ({reason}); expected PNG, JPEG, TIFF, WebP or BMP") from error
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] > 4):
        raise InputError(f"{path}: expected one picture (height, width[, channels]), found an array of shape {array.shape}")
    array = array[..., None] if array.ndim == 2 else array
    if array.dtype == np.uint16:
        return array.astype(np.float32) / 65535, [*notes, "16-bit"]
    if array.dtype == bool or array.dtype == np.uint8:
        return array.astype(np.float32) / (1 if array.dtype == bool else 255), notes
    if np.issubdtype(array.dtype, np.floating):
        return array.astype(np.float32), [*notes, "floating point, used as intensities"]
    raise InputError(f"{path}: pixels are {array.dtype}; expected 8-bit, 16-bit or floating point")


def _expand(image):
    """Palette images to RGB(A); everything else as it is, CMYK and the like to RGB."""
    if image.mode == "P":
        return image.convert("RGBA" if "transparency" in image.info else "RGB")
    return image if image.mode in ("1", "L", "LA", "RGB", "RGBA", "I;16") else image.convert("RGB")


def _read_eight_bit(path: Path) -> tuple[np.ndarray, list[str]]:
    """The first page, upright, through Pillow."""
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
    """Pixels of a 16-bit PNG, which Pillow reduces to eight bits in colour; None for every other file."""
    depth, colour_type = _png_depth(path)
    mode = {0: "mono", 2: "rgb", 6: "rgba"}.get(colour_type)
    if depth != 16 or mode is None:
        return None
    import kornia_rs

    return np.asarray(kornia_rs.io.read_image_png_u16(str(path), mode))


def _png_depth(path: Path) -> tuple[int, int]:
    """Bits per channel and colour type of a PNG; (0, 0) for every other file."""
    with path.open("rb") as file:
        head = file.read(26)
    return (head[24], head[25]) if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) == 26 else (0, 0)


def _deep_tiff(path: Path) -> np.ndarray | None:
    """Pixels of a TIFF of more than eight bits, which Pillow does not read in colour; None for the others."""
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it would log about a damaged file, the error says
    with tifffile.TiffFile(path) as file:
        shallow = not len(file.pages) or (file.pages.first.dtype or np.dtype(float)).itemsize == 1
        return None if shallow else file.asarray()


def _flatten_alpha(array: np.ndarray, notes: list[str]) -> tuple[np.ndarray, list[str]]:
    if array.shape[2] not in (2, 4):
        return array, notes
    alpha = array[..., -1:]
    return array[..., :-1] * alpha + (1 - alpha), [*notes, "transparency laid on white"]


def read_array(path: Path) -> Tensor:
    """Real numbers of any shape from .npy or .h5 (its dataset `y`, or its only one), float32, as stored.

    Raises: InputError if the file is missing, of another kind, or holds anything else.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix.lower() not in ARRAYS:
        raise InputError(f"{path}: this problem is not about pictures; expected one of {', '.join(sorted(ARRAYS))}")
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
                raise InputError(f"{path}: expected a dataset 'y' or a single dataset, found {', '.join(names) or 'none'}")
            return file[name][()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable array ({str(error).splitlines()[0]})") from error


def _array_picture(array: np.ndarray, channels: int, path: Path) -> Picture:
    """Channels first; unsigned integers are scaled to [0, 1], everything else is kept as it is."""
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
        raise InputError(f"{path}: has {array.shape[0]} channels, the prior has {channels}; store it as ({channels}, height, width)")
    scale = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}.get(array.dtype, 1)
    pixels = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32) / np.float32(scale))
    return Picture(pixels, (f"{array.dtype} divided by {scale}",) if scale > 1 else ())


def _to_uint8(pixels: Tensor) -> np.ndarray:
    array = (pixels.detach().float().clamp(0, 1) * 255).round().byte().cpu().numpy()
    return array if array.ndim == 2 else array[0] if array.shape[0] == 1 else array.transpose(1, 2, 0)


def _fit(tile: Tensor, height: int, width: int) -> Tensor:
    """To three channels and the given size: nearest-neighbour enlargement of small measurements, white margin around others."""
    tile = tile.float().clamp(0, 1)
    tile = tile.expand(3, *tile.shape[-2:]) if tile.shape[0] == 1 else tile
    factor = min(height // tile.shape[1], width // tile.shape[2])
    if factor > 1:
        tile = tile.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    tile = tile[:, :height, :width]
    top, left = (height - tile.shape[1]) // 2, (width - tile.shape[2]) // 2
    return torch.nn.functional.pad(tile, (left, width - tile.shape[2] - left, top, height - tile.shape[1] - top), value=1.0)


def _captioned(text: str, tile: Tensor, bar: int = 16, gap: int = 4) -> Tensor:
    from PIL import Image, ImageDraw

    strip = Image.new("RGB", (tile.shape[2], bar), "white")
    ImageDraw.Draw(strip).text((2, 2), text, fill="black")
    caption = torch.from_numpy(np.asarray(strip).copy()).permute(2, 0, 1).float() / 255
    return torch.nn.functional.pad(torch.cat([caption, tile], dim=1), (0, gap, 0, 0), value=1.0)
