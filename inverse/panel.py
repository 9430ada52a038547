"""A picture of a result: measurement, reconstruction, deviation, truth, error and residual."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from inverse.result import Result

INFERNO = np.array(
    [[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]]
)
"""RGB anchors (of 255) of the colour map, from dark to bright."""

SMALL = 112
"""Side (pixels) below which a picture is enlarged instead of accompanied by a magnified detail."""

MAGNIFICATION = 4
"""The detail is the part of this fraction of the shorter side with the strongest gradients."""

FRAME = (1.0, 1.0, 0.2)
"""Colour of the frame that marks the detail in the whole picture."""


def panel(result: Result, image: int = 0, residual: Tensor | None = None) -> Tensor:
    """Measurement, reconstruction, deviation, truth, error and residual, side by side.

    The standard deviation is shown for more than one sample, truth and error for a known truth, and
    the residual where it is a picture. A second row magnifies the part of each picture in which the
    reconstruction has the strongest gradients. Small pictures are enlarged instead, to leave room
    for the captions.

    Args:
        image: index of the image in the result.
        residual: y - A(mean) as pictures (images, C, H, W); None leaves it out.

    Returns: (3, H, W), intensity in [0, 1].
    """
    mean = result.mean[image]
    tiles = [("measurement", result.y[image]), ("reconstruction", mean)]
    if result.samples.shape[1] > 1:
        tiles.append(_heat_tile("std", result.std[image]))
    if result.truth is not None:
        tiles += [
            ("truth", result.truth[image]),
            _heat_tile("error", mean - result.truth[image]),
        ]
    if residual is not None and residual.ndim == 4 and residual.shape[1] in (1, 3):
        tiles.append(_heat_tile("residual", residual[image]))
    height, width = (n * max(1, SMALL // max(mean.shape[-2:])) for n in mean.shape[-2:])
    whole = [_fit(tile, height, width) for _, tile in tiles]
    if min(height, width) < SMALL or max(mean.shape[-2:]) < SMALL:
        return _row([_captioned(name, tile) for (name, _), tile in zip(tiles, whole, strict=True)])
    top, left, side = detail(mean)
    magnified = [
        _fit(tile[:, top : top + side, left : left + side], height, width) for tile in whole
    ]
    framed = [_framed(tile, top, left, side) for tile in whole]
    return torch.cat(
        [
            _row([_captioned(name, t) for (name, _), t in zip(tiles, framed, strict=True)]),
            _row([_captioned("detail", tile) for tile in magnified]),
        ],
        dim=1,
    )


def detail(picture: Tensor) -> tuple[int, int, int]:
    """Top, left and side (pixels) of the square of a picture with the strongest gradients.

    Args:
        picture: (C, H, W); the side is the `MAGNIFICATION`-th part of the shorter one.
    """
    side = max(1, min(picture.shape[-2:]) // MAGNIFICATION)
    grey = picture.float().mean(0)
    down, right = (torch.diff(grey, dim=axis).abs()[: len(grey) - 1] for axis in (0, 1))
    energy = down[:, : right.shape[1]] + right[: down.shape[0]]
    means = torch.nn.functional.avg_pool2d(energy[None, None], side, 1)[0, 0]
    top, left = divmod(int(means.argmax()), means.shape[1])
    return top, left, side


def heat(values: Tensor) -> Tensor:
    """Colours from dark to bright for values in [0, 1]: (H, W) -> (3, H, W)."""
    positions = np.linspace(0, 1, len(INFERNO))
    channels = [np.interp(values.numpy(), positions, channel / 255) for channel in INFERNO.T]
    return torch.stack([torch.from_numpy(channel).float() for channel in channels])


def _heat_tile(name: str, values: Tensor) -> tuple[str, Tensor]:
    """The root mean square over channels (C, H, W), with its range in the caption."""
    size = values.square().mean(0).sqrt()
    return f"{name}, 0 to {size.max():.3f}", heat(size / size.max().clamp_min(1e-12))


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


def _framed(tile: Tensor, top: int, left: int, side: int) -> Tensor:
    """A tile with a frame of one pixel around a square."""
    tile, colour = tile.clone(), torch.tensor(FRAME)[:, None]
    bottom, right = top + side - 1, left + side - 1
    for row in (top, bottom):
        tile[:, row, left : right + 1] = colour
    for column in (left, right):
        tile[:, top : bottom + 1, column] = colour
    return tile


def _row(tiles: list[Tensor]) -> Tensor:
    return torch.cat(tiles, dim=2)


def _captioned(text: str, tile: Tensor, bar: int = 16, gap: int = 4) -> Tensor:
    from PIL import Image, ImageDraw

    strip = Image.new("RGB", (tile.shape[2], bar), "white")
    ImageDraw.Draw(strip).text((2, 2), text, fill="black")
    caption = torch.from_numpy(np.asarray(strip).copy()).permute(2, 0, 1).float() / 255
    return torch.nn.functional.pad(torch.cat([caption, tile], dim=1), (0, gap, 0, 0), value=1.0)
