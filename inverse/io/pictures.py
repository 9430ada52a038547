"""Picture files to intensities: by content, at full depth, upright."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inverse.errors import InputError
from inverse.io.sizes import check_memory, reading
from inverse.io.stacks import is_tiff

KINDS = "PNG, JPEG, JPEG 2000, TIFF, WebP, GIF, PNM or BMP"
FORMATS = ("PNG", "JPEG", "JPEG2000", "TIFF", "WEBP", "GIF", "PPM", "BMP")
"""Those that Pillow may open, under its names."""
PICTURES = {".png", ".jpg", ".jpeg", ".jp2", ".j2k", ".tif", ".tiff", ".webp", ".gif", ".bmp"} | {
    ".pbm",
    ".pgm",
    ".ppm",
    ".pnm",
}
BEGINNINGS = (
    *(b"\x89PNG", b"\xff\xd8\xff", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
    *(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"GIF8", b"BM"),
    *(b"P%d%c" % (kind, space) for kind in range(1, 7) for space in b" \t\r\n"),
)
"""The first bytes of each format but WebP."""
TURNS = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}
"""EXIF orientation -> what turns an array (H, W, ...) upright."""
COLOURS = {"MINISBLACK": 1, "MINISWHITE": 1, "RGB": 3, "SEPARATED": 4}
"""Photometric interpretation -> channels of a TIFF that tifffile decodes; Pillow reads others."""
RAW = {50706, 50752}
"""Tags of a camera's raw file: DNGVersion, and the slices of CR2."""


def is_picture(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a picture."""
    return head.startswith(BEGINNINGS) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


@dataclass(frozen=True)
class Raster:
    """The pixels of a picture.

    Args:
        values: (H, W, 1) grey or (H, W, 3) colour, float32 in [0, 1].
        alpha: opacity (H, W, 1) in [0, 1]; None for an opaque picture.
        notes: the conversions made while reading.
    """

    values: np.ndarray
    alpha: np.ndarray | None
    notes: tuple[str, ...]


def read_raster(path: Path, head: bytes) -> Raster:
    """Read the first page of a picture.

    Args:
        head: the first bytes of the file, which tell its kind.

    Raises: InputError if the file cannot be read, holds no single picture, or does not fit into
        memory.
    """
    with reading(path, "a readable image", f"; expected {KINDS}"):
        if is_tiff(head):
            return _from_tiff(path)
        if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) >= 26 and head[24] == 16:
            return _from_deep_png(path, head)
        return _from_pillow(path)


def _from_tiff(path: Path) -> Raster:
    import tifffile

    # The error reports a damaged file; tifffile would log it as well.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    with tifffile.TiffFile(path) as file:
        page: Any = file.pages.first
        if RAW & set(page.tags.keys()) or (page.is_reduced and page.subifds):
            raise InputError(
                f"{path}: is a camera's raw file, whose first picture is a preview; develop it to "
                "a TIFF or PNG"
            )
        colours = COLOURS.get(getattr(page.photometric, "name", ""))
        if colours is None or page.dtype is None:
            return _from_pillow(path)
        if "Y" not in page.axes or set(page.axes) - set("YXS"):
            raise InputError(
                f"{path}: expected a single picture (height, width[, channels]), "
                f"found axes {page.axes} of shape {page.shape}; save one plane"
            )
        check_memory(path, page.shape)
        array = page.asarray()
        if page.axes.startswith("S"):  # planar
            array = np.moveaxis(array, 0, -1)
        array = array if array.ndim == 3 else array[..., None]
        notes = [f"first of {len(file.pages)} pages"] if len(file.pages) > 1 else []
        tags = {code: page.tags.get(code) for code in (274, 34675)}
        extras = [int(extra) for extra in page.extrasamples]
        kind, bits = page.photometric.name, int(page.bitspersample)
    return _raster(
        path,
        array,
        kind,
        bits,
        extras or [2] * (array.shape[2] - colours),
        int(tags[274].value) if tags[274] else 1,
        bytes(tags[34675].value) if tags[34675] else b"",
        notes,
    )


def _from_deep_png(path: Path, head: bytes) -> Raster:
    """Pillow reduces the colours of a 16-bit PNG to 8 bits."""
    import imagecodecs
    from PIL import Image

    width, height = (int.from_bytes(head[i : i + 4], "big") for i in (16, 20))
    check_memory(path, (height, width, 4))
    array = imagecodecs.png_decode(path.read_bytes())
    with Image.open(path, formats=FORMATS) as image:
        orientation, profile = image.getexif().get(0x0112, 1), image.info.get("icc_profile")
    return _untagged(path, array, 16, orientation, profile, [])


def _from_pillow(path: Path) -> Raster:
    from PIL import Image

    with Image.open(path, formats=FORMATS) as image:
        check_memory(path, (image.height, image.width, 4))
        pages = getattr(image, "n_frames", 1)
        notes = [f"first of {pages} pages"] if pages > 1 else []
        orientation, profile = image.getexif().get(0x0112, 1), image.info.get("icc_profile")
        array = np.asarray(_expanded(image))
    return _untagged(path, array, 8 * array.dtype.itemsize, orientation, profile, notes)


def _untagged(
    path: Path,
    array: np.ndarray,
    bits: int,
    orientation: int,
    profile: bytes | None,
    notes: list[str],
) -> Raster:
    """The raster of samples whose number alone says what they are: grey or RGB, and opacity."""
    array = array if array.ndim == 3 else array[..., None]
    kind = "MINISBLACK" if array.shape[2] < 3 else "RGB"
    extras = [2] if array.shape[2] in (2, 4) else []
    return _raster(path, array, kind, bits, extras, orientation, profile or b"", notes)


def _expanded(image):
    """Palettes and transparent colours become RGBA, CMYK and similar modes RGB."""
    if image.mode == "P" or "transparency" in image.info:
        return image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode in ("1", "L", "LA", "RGB", "RGBA", "F") or image.mode.startswith("I;16"):
        return image
    if image.mode == "I":  # whole numbers of 32 bits that came from 16
        return np.asarray(image).astype(np.uint16) if image.getextrema()[1] < 65536 else image
    return image.convert("RGBA" if image.mode in ("PA", "La", "RGBa") else "RGB")


def _raster(
    path: Path,
    array: np.ndarray,
    kind: str,
    bits: int,
    extras: list[int],
    orientation: int,
    profile: bytes,
    notes: list[str],
) -> Raster:
    """Intensities of stored samples (H, W, S): scaled, in RGB or grey, upright.

    Args:
        kind: photometric interpretation, a key of COLOURS.
        bits: of a sample.
        extras: TIFF's code of each sample after the colours: 1 for premultiplied opacity, 2 for
            opacity, 0 for anything else.
        orientation: EXIF's, from 1 to 8.
        profile: ICC profile, empty for none.
    """
    if array.shape[2] != COLOURS[kind] + len(extras) or 0 in array.shape:
        raise InputError(
            f"{path}: expected a single picture (height, width[, channels]), "
            f"found an array of shape {array.shape}"
        )
    samples, said = _scaled(path, array, bits)
    notes = [*notes, *said]
    values, rest = samples[..., : COLOURS[kind]], samples[..., COLOURS[kind] :]
    opacity = next((i for i, code in enumerate(extras) if code in (1, 2)), None)
    alpha = None if opacity is None else rest[..., opacity : opacity + 1]
    if len(extras) > (opacity is not None):
        notes.append("extra channels ignored")
    if alpha is not None and extras[opacity or 0] == 1:
        values = np.divide(values, alpha, out=np.ones_like(values), where=alpha > 0).clip(0, 1)
    if kind == "MINISWHITE":
        values = 1 - values
    elif kind == "SEPARATED":
        values, notes = (1 - values[..., :3]) * (1 - values[..., 3:]), [*notes, "CMYK as RGB"]
    if orientation in TURNS:
        turn = TURNS[orientation]
        values, alpha = turn(values), None if alpha is None else turn(alpha)
        notes.append("turned upright as its EXIF orientation says")
    if name := _foreign_profile(profile):
        notes.append(f"colour profile '{name}' not applied")
    return Raster(np.ascontiguousarray(values), alpha, tuple(notes))


def _scaled(path: Path, array: np.ndarray, bits: int) -> tuple[np.ndarray, list[str]]:
    """Samples as float32 in [0, 1], and notes."""
    if array.dtype == bool:
        return array.astype(np.float32), []
    if array.dtype.kind == "u":
        notes = [] if bits <= 8 else [f"{bits}-bit"]
        largest = int(array.max())
        if bits == 16 and 255 < largest < 4096:
            notes.append(f"largest value {largest} of 65535; 12-bit samples would look like this")
        return (array / np.float64(2**bits - 1)).astype(np.float32), notes
    if array.dtype.kind == "f":
        check_intensities(path, array)
        return array.astype(np.float32), ["floating point, used as intensities"]
    raise InputError(
        f"{path}: pixels are {array.dtype}; expected unsigned integers or floating point"
    )


def check_intensities(path: Path, array: np.ndarray, margin: float = 0.0) -> None:
    """Check that numbers are intensities in [0, 1], but for a margin that noise may take.

    Raises: InputError that names the likely scale.
    """
    finite = array[np.isfinite(array)]
    if not finite.size or (finite.min() >= -margin - 1e-3 and finite.max() <= 1 + margin + 1e-3):
        return
    low, high = float(finite.min()), float(finite.max())
    scales = [n for n in (100, 255, 1023, 4095, 16383, 65535) if 0.3 * n < high <= n * 1.02]
    if low < 0 and -0.5 - margin <= low and high <= 0.5 + margin:
        advice = "they look like -0.5 to 0.5: add 0.5"
    elif low < 0 and -1 - 2 * margin <= low and high <= 1 + 2 * margin:
        advice = "they look like -1 to 1: add 1 and halve them"
    elif low >= -0.02 * high and scales:
        advice = f"they look like 0 to {scales[0]}: divide them by {scales[0]}"
    else:
        advice = "scale them so that black is 0 and white is 1"
    raise InputError(
        f"{path}: values from {low:.4g} to {high:.4g}, where a picture has intensities from 0 to "
        f"1; {advice}"
    )


def _foreign_profile(profile: bytes) -> str | None:
    """Name of a colour profile other than sRGB, without control characters; None for none."""
    if not profile:
        return None
    import io

    from PIL import ImageCms

    try:
        name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    except (ImageCms.PyCMSError, OSError):
        return "unreadable"
    name = "".join(c for c in name if c.isprintable()).strip()[:60]
    plain = name.lower().replace(" ", "")
    return None if "srgb" in plain or "gray" in plain or "grey" in plain else name
