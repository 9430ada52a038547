"""Regions like an example: retrieval of similar images by global features, then of patches.

Features are those of a denoising U-Net: the outputs of its levels at noise level `SIGMA`, resampled
to one grid of `STRIDE` pixels and standardised by channel. Images are ranked by the cosine of their
mean features with the example's. In each, the example's region is placed where its features
correlate most with those below it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from inverse.errors import OptionError
from inverse.priors.networks.unet import UNet
from inverse.priors.prior import NetworkPrior, Prior

SIGMA, STRIDE = 0.1, 4


@dataclass(frozen=True)
class Match:
    """A region found in an image.

    Args:
        index: of the image.
        similarity: cosine of the mean features of the image and the example.
        correlation: of the features below the region with the example's, at most 1.
        region: boolean (H, W).
    """

    index: int
    similarity: float
    correlation: float
    region: Tensor


def features(prior: Prior, image: Tensor) -> Tensor:
    """Dense features of an image (C, H, W) in [0, 1]: (channels, ceil(H / 4), ceil(W / 4)).

    Raises: OptionError for a prior that is not a U-Net of `inverse train` on images.
    """
    if not isinstance(prior, NetworkPrior) or not isinstance(prior.network, UNet):
        raise OptionError("mask-like: --prior must be a network of `inverse train` on images")
    outputs: list[Tensor] = []
    levels: Any = prior.network.down
    hooks = [
        group[-1].register_forward_hook(lambda module, inputs, output: outputs.append(output))
        for group in levels
    ]
    grid = [-(-side // STRIDE) for side in image.shape[-2:]]
    try:
        with torch.no_grad():
            prior(prior.encode(image)[None], torch.tensor(SIGMA))
    finally:
        for hook in hooks:
            hook.remove()
    sized = [F.interpolate(o.float(), grid, mode="bilinear", antialias=True) for o in outputs]
    return torch.cat(sized, 1)[0]


def regions_like(
    prior: Prior, example: Tensor, region: Tensor, images: list[Tensor], count: int
) -> list[Match]:
    """The region's likeness in the `count` images that are most like the example, best first.

    Args:
        example: (C, H, W), intensities.
        region: boolean (H, W), not empty.
        images: each (C, H, W); one that is smaller than the region is skipped.

    Raises: OptionError if the region is empty or no image is large enough.
    """
    rows, columns = (torch.where(region.any(axis))[0] for axis in (1, 0))
    if not len(rows):
        raise OptionError("mask-like: the mask marks no pixel")
    top, left = int(rows[0]) // STRIDE * STRIDE, int(columns[0]) // STRIDE * STRIDE
    shape = region[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1]
    usable = {
        i: features(prior, image)
        for i, image in enumerate(images)
        if all(a >= b for a, b in zip(image.shape[-2:], shape.shape, strict=True))
    }
    if not usable:
        raise OptionError(f"mask-like: no image is as large as the region {tuple(shape.shape)}")
    own = features(prior, example)
    pixels = torch.cat([own.flatten(1), *(f.flatten(1) for f in usable.values())], 1)
    mean, spread = pixels.mean(1)[:, None, None], pixels.std(1).clamp_min(1e-6)[:, None, None]
    own = (own - mean) / spread
    standard = {i: (f - mean) / spread for i, f in usable.items()}
    similarity = {
        i: float(F.cosine_similarity(own.mean((1, 2)), f.mean((1, 2)), dim=0))
        for i, f in standard.items()
    }
    chosen = sorted(similarity, key=lambda i: -similarity[i])[:count]
    weights = _on_grid(shape)
    patch = own[:, top // STRIDE :, left // STRIDE :][:, : weights.shape[0], : weights.shape[1]]
    found = [
        Match(i, similarity[i], *_placed(standard[i], patch, weights, shape, images[i]))
        for i in chosen
    ]
    return sorted(found, key=lambda match: -match.correlation)


def _on_grid(shape: Tensor) -> Tensor:
    """The share of each cell of the grid that the region covers: (h, w)."""
    bottom, right = (-side % STRIDE for side in shape.shape)
    padded = F.pad(shape.float()[None, None], (0, right, 0, bottom))
    return F.avg_pool2d(padded, STRIDE)[0, 0]


def _placed(
    f: Tensor, patch: Tensor, weights: Tensor, shape: Tensor, image: Tensor
) -> tuple[float, Tensor]:
    """The largest correlation of the patch with features (C, h, w), and the region there."""
    if any(a < b for a, b in zip(f.shape[-2:], weights.shape, strict=True)):
        f = F.pad(f, (0, weights.shape[1], 0, weights.shape[0]), mode="replicate")
    kernel = (patch * weights)[None]
    product = F.conv2d(f[None], kernel)[0, 0]
    energy = F.conv2d(f.square().sum(0)[None, None], weights[None, None])[0, 0]
    norm = (energy * (patch.square().sum(0) * weights).sum()).clamp_min(1e-12).sqrt()
    scores: Any = product / norm
    height, width = image.shape[-2:]
    scores = scores[: (height - shape.shape[0]) // STRIDE + 1]
    scores = scores[:, : (width - shape.shape[1]) // STRIDE + 1]
    best = int(scores.argmax())
    row, column = (STRIDE * place for place in divmod(best, scores.shape[1]))
    region = torch.zeros(height, width, dtype=torch.bool)
    region[row : row + shape.shape[0], column : column + shape.shape[1]] = shape
    return float(scores.flatten()[best]), region
