"""Maps that weigh the pixels of training images, as a further channel of each image."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from inverse.errors import InputError
from inverse.io.image_sets import load_images, pictures_in, read_uint8


def load_weighted(source: Path, maps: Path, size: int, channels: int) -> list[np.ndarray]:
    """Images with their maps: uint8 arrays (H, W, channels + 1), at least `size` on each side.

    Args:
        source: a source of `image_sets.load_images`.
        maps: a folder with a map of the same name, whatever its suffix, for each image of a folder;
            or a source with as many grey images. White weighs 1, black 0.
        size: smallest side (pixels); smaller images are skipped.
        channels: of the images, 1 or 3.

    Raises: InputError for a missing map, a map of another size, or maps that are black everywhere.
    """
    if source.is_dir() != maps.is_dir():
        raise InputError(f"weights {maps}: the maps of {source} must be a source of the same kind")
    if source.is_dir():
        pairs = _of_folders(source, maps, channels)
    else:
        images, weights = load_images(source, 1, channels), load_images(maps, 1, 1)
        if len(images) != len(weights):
            raise InputError(
                f"weights {maps}: {len(weights)} maps for the {len(images)} images of {source}"
            )
        pairs = [(str(i), a, b) for i, (a, b) in enumerate(zip(images, weights, strict=True))]
    joined = []
    for name, image, weight in pairs:
        if image.shape[:2] != weight.shape[:2]:
            (h, w), (rows, columns) = image.shape[:2], weight.shape[:2]
            raise InputError(
                f"weights {maps}: the map of {name} has {rows}x{columns} pixels, its image {h}x{w}"
            )
        if min(image.shape[:2]) >= size:
            joined.append(np.concatenate([image, weight], axis=-1))
    if not joined:
        raise InputError(f"images {source}: none of at least {size}x{size} pixels")
    if not any(image[..., -1].any() for image in joined):
        raise InputError(f"weights {maps}: the maps are black everywhere; white weighs 1")
    return joined


def _of_folders(
    source: Path, maps: Path, channels: int
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    known = {path.relative_to(maps).with_suffix(""): path for path in pictures_in(maps)}
    pairs = []
    for path in pictures_in(source):
        key = path.relative_to(source).with_suffix("")
        if key not in known:
            raise InputError(f"weights {maps}: no map for the image {path.relative_to(source)}")
        pairs.append((path.name, read_uint8(path, channels), read_uint8(known[key], 1)))
    return pairs
