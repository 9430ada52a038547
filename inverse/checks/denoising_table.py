"""PSNR of a prior as a denoiser of white noise, beside published denoisers.

Published rows: Zhang et al., FFDNet, TIP 2018, https://arxiv.org/abs/1710.04026, and DPIR, TPAMI
2021, https://arxiv.org/abs/2008.13751, on whole colour images, noise not clipped.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from inverse.priors.prior import Prior
from inverse.seeding import seeded

LEVELS = (15, 25, 50)
PUBLISHED = {
    "Kodak24": {
        "BM3D": (34.28, 31.68, 28.46),
        "DnCNN": (34.60, 32.14, 28.95),
        "FFDNet": (34.63, 32.13, 28.98),
        "DRUNet": (35.31, 32.89, 29.86),
    },
    "CBSD68": {
        "BM3D": (33.52, 30.71, 27.38),
        "DnCNN": (33.90, 31.24, 27.95),
        "FFDNet": (33.87, 31.21, 27.96),
        "DRUNet": (34.30, 31.69, 28.51),
    },
}
"""Set of images -> denoiser -> PSNR (dB) at noise 15, 25, 50 of 255."""


def denoising_psnr(prior: Prior, images: list[np.ndarray], seed: int = 0) -> dict[int, list[float]]:
    """PSNR (dB) of each image at each level: {15: [...], 25: [...], 50: [...]}.

    Args:
        images: uint8 (H, W, C), denoised whole; a prior of one size receives central crops.
    """
    table: dict[int, list[float]] = {level: [] for level in LEVELS}
    for i, image in enumerate(images):
        height, width = (
            own or side for own, side in zip(prior.shape[1:], image.shape, strict=False)
        )
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        crop = image[top : top + height, left : left + width]
        clean = torch.from_numpy(crop.astype(np.float32)).permute(2, 0, 1)[None] / 255
        x0 = prior.encode(clean)
        for level in LEVELS:
            sigma = level / 255 / prior.scale
            noise = torch.randn(x0.shape, generator=seeded(seed, "denoising table", i, level))
            with torch.no_grad():
                out = prior.decode(prior(x0 + sigma * noise, torch.tensor(sigma))).clamp(0, 1)
            table[level].append(-10 * math.log10(float((out - clean).square().mean())))
    return table


def rows(name: str, table: dict[int, list[float]]) -> list[tuple[str, str, str, str]]:
    """The prior's row, mean and standard error, and the published rows with their images."""
    own = []
    for level in LEVELS:
        scores = np.array(table[level])
        error = scores.std(ddof=1) / math.sqrt(len(scores)) if len(scores) > 1 else math.nan
        own.append(f"{scores.mean():.2f} ± {error:.2f}")
    published = [
        (f"{denoiser}, published on {images}", *(f"{score:.2f}" for score in scores))
        for images, entries in PUBLISHED.items()
        for denoiser, scores in entries.items()
    ]
    return [(f"{name}, these images", *own), *published]  # type: ignore[list-item]
