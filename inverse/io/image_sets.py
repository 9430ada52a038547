"""Image sets in memory: all images of a folder, an `.npz` or an `.h5` file, as uint8 arrays."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import torch

from inverse.errors import InputError, first_line, is_out_of_memory
from inverse.io.arrays import own_datasets, stored
from inverse.io.images import read_image
from inverse.io.pictures import PICTURES
from inverse.io.sizes import does_not_fit


def load_images(path: Path, size: int, channels: int) -> list[np.ndarray]:
    """All images of a source as uint8 arrays (H, W, C), at least `size` pixels on each side.

    Args:
        path: a folder of pictures (searched recursively; hidden files are skipped), an `.npz` or
            `.h5` file with a single uint8 array (N, H, W[, C]), or an `.npz` file of concatenated
            JPEG files (`jpeg` uint8, `offsets` of N + 1 numbers).
        size: smallest side (pixels); smaller images are skipped.
        channels: 1 or 3; image files are converted.

    Raises: InputError if the source is missing, holds no image, or none is large enough.
    """
    if not path.exists():
        raise InputError(f"images {path}: no such file or folder")
    readers = {".npz": _from_npz, ".h5": _from_hdf5, ".hdf5": _from_hdf5}
    if not path.is_dir() and path.suffix.lower() not in readers:
        raise InputError(f"images {path}: expected a folder, an .npz or an .h5 file")
    try:
        reader = _from_folder if path.is_dir() else readers[path.suffix.lower()]
        images = reader(path, channels)
    except InputError:
        raise
    except Exception as error:  # each reader raises its own types
        if is_out_of_memory(error):
            raise does_not_fit(path, error) from error
        raise InputError(f"images {path}: not readable ({first_line(error)})") from error
    large = [image for image in images if min(image.shape[:2]) >= size]
    if not large:
        side = max((min(image.shape[:2]) for image in images), default=None)
        largest = "" if side is None else f"; the largest has {side} on its shorter side"
        raise InputError(
            f"images {path}: {len(images)} found, none of at least {size}x{size} pixels{largest}"
        )
    return large


def read_slices(path: Path) -> list[torch.Tensor]:
    """Grey ground truths (1, height, width), intensities, of a folder, .npz or .h5 file.

    Raises: InputError if the source holds no images.
    """
    images = load_images(path, 1, 1)
    return [torch.from_numpy(image).movedim(-1, 0).float() / 255 for image in images]


def refuse_copies(images: list[np.ndarray], source: Path) -> None:
    """Raises InputError if a source holds several images and all of them are equal."""
    first = images[0]
    if len(images) > 1 and all(np.array_equal(first, other) for other in images[1:]):
        raise InputError(f"images {source}: all {len(images)} images are copies of one")


def spread(images: list[np.ndarray], count: int) -> list[np.ndarray]:
    """At most `count` images, evenly spread, since a set may be sorted by class."""
    return images[:: max(1, len(images) // count)][:count]


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder and its subfolders, without hidden files such as `._` ones."""
    files = (p for p in folder.rglob("*") if p.suffix.lower() in PICTURES and p.name[0] != ".")
    return sorted(files)


def read_uint8(path: Path, channels: int) -> np.ndarray:
    """The pixels (H, W, channels) of a picture, read as any input is, uint8.

    Raises: InputError if it is not a readable image.
    """
    return (read_image(path, channels).pixels * 255).round().byte().permute(1, 2, 0).numpy()


def _from_folder(path: Path, channels: int) -> list[np.ndarray]:
    return [read_uint8(file, channels) for file in pictures_in(path)]


def _from_npz(path: Path, channels: int) -> list[np.ndarray]:
    # np.load leaves a file open that it cannot read
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        if {"jpeg", "offsets"} <= set(archive.files):
            blob, offsets = archive["jpeg"], archive["offsets"]
            return [
                _decoded(blob[start:end].tobytes(), channels, f"{path}[{i}]")
                for i, (start, end) in enumerate(itertools.pairwise(offsets))
            ]
        return _from_arrays(path, {name: archive[name] for name in archive.files}, channels)


def _from_hdf5(path: Path, channels: int) -> list[np.ndarray]:
    import h5py

    with h5py.File(path, "r") as file:
        datasets = {n: stored(path, item) for n, item in own_datasets(path, file).items()}
    return _from_arrays(path, datasets, channels)


def _from_arrays(path: Path, arrays: dict[str, np.ndarray], channels: int) -> list[np.ndarray]:
    stacks = [a for a in arrays.values() if a.dtype == np.uint8 and a.ndim in (3, 4)]
    if len(stacks) != 1:
        contents = ", ".join(f"{name} {a.dtype}{a.shape}" for name, a in arrays.items())
        raise InputError(
            f"images {path}: expected one uint8 array (N, H, W) or (N, H, W, C), "
            f"found {contents or 'nothing'}"
        )
    stack = stacks[0] if stacks[0].ndim == 4 else stacks[0][..., None]
    if stack.shape[-1] == channels:
        return list(stack)
    if stack.shape[-1] == 1:
        return list(np.repeat(stack, channels, axis=-1))
    raise InputError(
        f"images {path}: the arrays have {stack.shape[-1]} channels, the prior {channels}"
    )


def _decoded(data: bytes, channels: int, name: str) -> np.ndarray:
    """The pixels (H, W, channels) of a JPEG file, uint8.

    Raises: InputError if it is not a readable image.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            array = np.asarray(image.convert("RGB" if channels == 3 else "L"))
    except Exception as error:  # each format raises its own types
        if is_out_of_memory(error):
            raise does_not_fit(Path(name), error) from error
        raise InputError(f"image {name}: not a readable image ({error})") from error
    return array if array.ndim == 3 else array[..., None]
