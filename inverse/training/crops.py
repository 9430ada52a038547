"""Random crops of sets of images: what a training draws its batches from."""

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
    """A batch (batch, C, size, size) in [0, 1]: every source equally often, images of a source uniformly, random place.

    Args:
        mirror: whether half of them are flipped left to right.
    """
    u = torch.rand(batch, 5, generator=generator, dtype=torch.float64).numpy()
    crops = []
    for pick, which, down, right, flip in u:
        source = sources[int(pick * len(sources))]
        image = source[int(which * len(source))]
        top = math.floor(down * (image.shape[0] - size + 1))
        left = math.floor(right * (image.shape[1] - size + 1))
        crop = image[top : top + size, left : left + size]
        crops.append(crop[:, ::-1] if mirror and flip < 0.5 else crop)
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255
