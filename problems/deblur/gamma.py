"""The curve of sRGB: light is blurred, but pictures store a power of it."""

from __future__ import annotations

import torch
from torch import Tensor


def to_light(picture: Tensor) -> Tensor:
    """Linear light of stored intensities, both in [0, 1]; values outside are continued linearly.

    Source: IEC 61966-2-1.
    """
    inside = ((picture.clamp(0.04045, 1) + 0.055) / 1.055) ** 2.4
    above = 1 + (picture - 1) * (2.4 / 1.055)
    return torch.where(picture <= 0.04045, picture / 12.92, torch.where(picture > 1, above, inside))


def to_picture(light: Tensor) -> Tensor:
    """Stored intensities of linear light; the inverse of `to_light`."""
    inside = 1.055 * light.clamp(0.0031308, 1) ** (1 / 2.4) - 0.055
    above = 1 + (light - 1) * (1.055 / 2.4)
    return torch.where(light <= 0.0031308, light * 12.92, torch.where(light > 1, above, inside))
