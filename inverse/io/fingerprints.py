"""Whether test images were trained on: fingerprints of images that survive scaling and JPEG.

A fingerprint has 256 bits: whether each of 16 x 16 cells of the grey image is darker than its right
neighbour (a difference hash). Two images whose fingerprints differ in at most `NEAR` bits are the
same picture: among 1000 thumbnails of Tiny ImageNet and 20 000 others of it no two were. A picture
that was cropped otherwise is not recognised; flat pictures have no fingerprint. That of a picture
with a side below `SMALL` is a hash of its pixels, since small ones resemble each other.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from inverse.errors import InputError
from inverse.io.files import atomic_write

BITS, NEAR = 256, 12
SMALL = 32
"""Side (pixels) below which only an exact copy is recognised."""
FLAT = 64
"""Smallest number of neighbouring cells that differ visibly in an image with a fingerprint."""


def fingerprints(images: list[np.ndarray]) -> np.ndarray:
    """Fingerprints of uint8 images (H, W, C): (N, 32) uint8; all zeros for a flat image."""
    return np.stack([_fingerprint(image) for image in images])


def _fingerprint(image: np.ndarray) -> np.ndarray:
    if min(image.shape[:2]) < SMALL:
        digest = hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest()
        return np.frombuffer(digest, np.uint8)
    grey = torch.from_numpy(image.astype(np.float32).mean(-1))[None, None]
    cells = F.interpolate(grey, (16, 17), mode="bilinear", antialias=True)[0, 0]
    step = cells.diff(dim=1)
    if int((step.abs() > 1).sum()) < FLAT:  # in grey levels of 255
        return np.zeros(BITS // 8, np.uint8)
    return np.packbits((step > 0).numpy().flatten())


def matches(test: np.ndarray, training: np.ndarray) -> dict[int, int]:
    """Test image -> training image, for those whose fingerprints agree in all but `NEAR` bits."""
    known = _signs(training)
    usable = torch.from_numpy(training.any(1))
    found = {}
    for i, own in enumerate(_signs(test)):
        if not test[i].any():
            continue
        distance = torch.where(usable, (BITS - known @ own) / 2, torch.tensor(float(BITS)))
        if float(distance.min()) <= NEAR:
            found[i] = int(distance.argmin())
    return found


def _signs(packed: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.unpackbits(packed, axis=1).astype(np.float32)) * 2 - 1


def fingerprint_file(weights: Path) -> Path:
    """The file of the training images' fingerprints, beside a prior's weights."""
    return weights.with_suffix(".fingerprints.npy")


def write_fingerprints(weights: Path, images: list[np.ndarray]) -> None:
    """Write the fingerprints of the training images beside a prior's weights."""
    with atomic_write(fingerprint_file(weights)) as temporary, temporary.open("wb") as file:
        np.save(file, fingerprints(images))


def read_fingerprints(weights: Path) -> np.ndarray | None:
    """The fingerprints beside a prior's weights, or None without such a file.

    Raises: InputError if the file is damaged.
    """
    path = fingerprint_file(weights)
    if not path.is_file():
        return None
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"fingerprints {path}: not readable ({error})") from error
    if array.dtype != np.uint8 or array.ndim != 2 or array.shape[1] != BITS // 8:
        raise InputError(f"fingerprints {path}: expected uint8 (N, {BITS // 8})")
    return array
