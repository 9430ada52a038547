"""Reference images for `inverse fit-bc`: central crops, ordered by their hashes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from inverse.errors import InputError, OptionError
from inverse.io.image_sets import load_images
from inverse.priors.prior import Prior
from inverse.problem import ImageProblem, Problem


def references(
    problem: Problem, images: list[Path], count: int, size: int, prior: Prior
) -> list[Tensor]:
    """`count` references (*shape), physical units.

    The choice and the order depend on the pixels alone, not on file names or folders.

    Args:
        images: folders or files of photographs; without any, the truths of the problem are used.
        count: number of references.
        size: side of the central crops (pixels).
        prior: its number of channels is that of the photographs, 3 if it takes any number.

    Raises: InputError if there are fewer than `count` different references; OptionError for
        photographs of a problem that takes none.
    """
    if images and not isinstance(problem, ImageProblem):
        raise OptionError(
            "fit-bc: --images is for problems on photographs, but "
            f"{problem.name} generates its own truths"
        )
    if images:
        crops = [crop for path in images for crop in photographs(path, size, prior.shape[0] or 3)]
    elif isinstance(problem, ImageProblem):
        crops = [central_crop(truth, size) for truth in problem.truths()]
    else:
        crops = problem.truths()
    ordered = sorted({sha256(crop): crop for crop in map(problem.prepare, crops)}.items())
    if len(ordered) < count:
        raise InputError(
            f"fit-bc: asked for {count} references, found {len(ordered)} different ones of at "
            f"least {size} pixels; give more --images"
        )
    return [crop for _, crop in ordered[:count]]


def photographs(path: Path, size: int, channels: int) -> list[Tensor]:
    """Central crops (C, size, size) in [0, 1] of every photograph that is large enough."""
    return [
        central_crop(torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 255, size)
        for array in load_images(path, size, channels)
    ]


def central_crop(image: Tensor, size: int) -> Tensor:
    """The central size x size pixels of an image (C, H, W).

    Raises: InputError if the image is smaller.
    """
    height, width = image.shape[-2:]
    top, left = (height - size) // 2, (width - size) // 2
    if min(top, left) < 0:
        raise InputError(
            f"fit-bc: asked for crops of {size} pixels, but a reference has {height}x{width}"
        )
    return image[..., top : top + size, left : left + size]


def sha256(image: Tensor) -> str:
    """Hash of an image in float32."""
    return hashlib.sha256(image.float().contiguous().numpy().tobytes()).hexdigest()
