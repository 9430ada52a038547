"""A picture of a result: measurement, reconstruction, standard deviation, truth and error."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from inverse.result import Result

INFERNO = np.array(
    [[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]]
)
"""RGB anchors (of 255) of the colour map, from dark to bright."""


def panel(result: Result, image: int = 0) -> Tensor:
    """Measurement, reconstruction, standard deviation, truth and error, side by side with captions.

    The standard deviation is shown for more than one sample, truth and error for a known truth.
    Small images are enlarged to leave room for the captions.

    Args:
        image: index of the image in the result.

    Returns: (3, H, W), intensity in [0, 1].
    """
    mean = result.mean[image]
    tiles = [("measurement", result.y[image]), ("reconstruction", mean)]
    if result.samples.shape[1] > 1:
        std = result.std[image].square().mean(0).sqrt()
        tiles.append((f"std, 0 to {std.max():.3f}", heat(std / std.max().clamp_min(1e-12))))
    if result.truth is not None:
        error = (mean - result.truth[image]).square().mean(0).sqrt()
        tiles += [
            ("truth", result.truth[image]),
            (f"error, 0 to {error.max():.3f}", heat(error / error.max().clamp_min(1e-12))),
        ]
    height, width = (n * max(1, 112 // max(mean.shape[-2:])) for n in mean.shape[-2:])
    return torch.cat([_captioned(name, _fit(tile, height, width)) for name, tile in tiles], dim=2)


def heat(values: Tensor) -> Tensor:
    """Colours from dark to bright for values in [0, 1]: (H, W) -> (3, H, W)."""
    positions = np.linspace(0, 1, len(INFERNO))
    channels = [np.interp(values.numpy(), positions, channel / 255) for channel in INFERNO.T]
    return torch.stack([torch.from_numpy(channel).float() for channel in channels])


def _fit(tile: Tensor, height: int, width: int) -> Tensor:
    """A tile with three channels and the given size.

    A small measurement is enlarged (nearest neighbour); a white margin fills the rest.
    """
    tile = tile.float().clamp(0, 1)
    tile = tile.expand(3, *tile.shape[-2:]) if tile.shape[0] == 1 else tile
    factor = min(height // tile.shape[1], width // tile.shape[2])
    if factor > 1:
        tile = tile.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    tile = tile[:, :height, :width]
    top, left = (height - tile.shape[1]) // 2, (width - tile.shape[2]) // 2
    return torch.nn.functional.pad(
        tile, (left, width - tile.shape[2] - left, top, height - tile.shape[1] - top), value=1.0
    )


def _captioned(text: str, tile: Tensor, bar: int = 16, gap: int = 4) -> Tensor:
    from PIL import Image, ImageDraw

    strip = Image.new("RGB", (tile.shape[2], bar), "white")
    ImageDraw.Draw(strip).text((2, 2), text, fill="black")
    caption = torch.from_numpy(np.asarray(strip).copy()).permute(2, 0, 1).float() / 255
    return torch.nn.functional.pad(torch.cat([caption, tile], dim=1), (0, gap, 0, 0), value=1.0)
