"""Images that the scripts measure on, and their PSNR."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from inverse.io.image_sets import load_images
from inverse.io.images import input_files, read_image


def centre_crop(image: Tensor, size: int) -> Tensor:
    """The central square (C, size, size) of an image (C, H, W)."""
    top, left = ((n - size) // 2 for n in image.shape[-2:])
    return image[:, top : top + size, left : left + size]


def photographs(folder: Path, count: int, size: int, every: int = 1) -> list[Tensor]:
    """Central crops (3, size, size) of the first `count` photographs that are large enough.

    Args:
        every: step between the files taken.
    """
    crops: list[Tensor] = []
    for file in input_files([folder])[::every]:
        pixels = read_image(file).pixels
        if min(pixels.shape[-2:]) >= size and len(crops) < count:
            crops.append(centre_crop(pixels, size))
    return crops


def held_out(source: Path, count: int, size: int, channels: int, every: int) -> list[Tensor]:
    """Central crops (C, size, size) of every `every`-th image of a folder or an .npz."""
    if source.is_dir():
        return photographs(source, count, size, every)
    crops = []
    for image in load_images(source, size, channels)[::every][:count]:
        top, left = ((n - size) // 2 for n in image.shape[:2])
        crop = image[top : top + size, left : left + size].copy()
        crops.append(torch.from_numpy(crop).permute(2, 0, 1).float() / 255)
    return crops


def psnr(estimate: Tensor, truth: Tensor) -> Tensor:
    """PSNR (dB) of each image: (..., C, H, W) in [0, 1], (..., C, H, W) -> (...)."""
    return -10 * (estimate - truth).square().flatten(-3).mean(-1).log10()
