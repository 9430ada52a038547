"""Random crops of image sets: the batches of a training."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def random_crops(
    sources: list[list[np.ndarray]],
    size: int,
    batch: int,
    generator: torch.Generator,
    mirror: bool = True,
) -> Tensor:
    """Draw random crops: a uniform source, a uniform image of that source, a uniform position.

    Args:
        sources: lists of uint8 images (H, W, C), each at least `size` high and wide.
        size: side of a crop (pixels).
        batch: number of crops.
        mirror: whether to flip half of the crops left to right.

    Returns: (batch, C, size, size), intensities in [0, 1].
    """
    u = torch.rand(batch, 5, generator=generator, dtype=torch.float64).numpy()
    crops = []
    for source_u, image_u, down, right, flip in u:
        source = sources[int(source_u * len(sources))]
        image = source[int(image_u * len(source))]
        top = math.floor(down * (image.shape[0] - size + 1))
        left = math.floor(right * (image.shape[1] - size + 1))
        crop = image[top : top + size, left : left + size]
        crops.append(crop[:, ::-1] if mirror and flip < 0.5 else crop)
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255
