"""A prior of volumes made of a prior of slices."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from inverse.priors.prior import Prior

Plane = Literal["yx", "zx", "zy"]
"""The two axes that lie in a slice."""

ACROSS: dict[Plane, int] = {"yx": -3, "zx": -2, "zy": -1}
"""The axis along which the slices of a plane are stacked."""

PIXELS_AT_ONCE = 2**20
"""Pixels of the slices in one call of the prior of slices."""


class VolumePrior(Prior):
    """The law of volumes (channels, depth, height, width) whose slices follow a prior of slices.

    With one plane the slices are independent. With several planes the law is the product of one
    such law for each plane, to an equal power: the estimate is the mean of their estimates. This
    holds for the scores of the noisy laws only approximately, except at sigma = 0. Source: Lee et
    al., Improving 3D Imaging with Pre-Trained Perpendicular 2D Diffusion Models, ICCV 2023.

    Args:
        native: a prior of slices (channels, height, width).
        planes: of the slices.
    """

    def __init__(self, native: Prior, planes: tuple[Plane, ...] = ("yx",)):
        channels, height, width = native.shape
        levels = {"sigma_min": native.sigma_min, "sigma_max": native.sigma_max}
        shape = (channels, None, height, width)
        super().__init__(shape, shift=native.shift, scale=native.scale, **levels)
        self.native, self.planes = native, planes
        self.exact = native.exact and len(planes) == 1
        self.name = getattr(native, "name", type(native).__name__)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        estimates = [self._by_slices(x, sigma, ACROSS[plane]) for plane in self.planes]
        return torch.stack(estimates).mean(0)

    def native_sigma(self, sigma: Tensor | float) -> Tensor | float:
        return self.native.native_sigma(sigma)

    def _by_slices(self, x: Tensor, sigma: Tensor, across: int) -> Tensor:
        stacked = x.movedim(across, 1)  # (B, slices, channels, ., .)
        slices = stacked.flatten(0, 1)
        levels = sigma.reshape(-1, 1).expand(*stacked.shape[:2]).flatten()
        at_once = max(1, PIXELS_AT_ONCE // slices[0, 0].numel())
        parts = zip(slices.split(at_once), levels.split(at_once), strict=True)
        estimate = torch.cat([self._call(*part) for part in parts])
        return estimate.reshape(stacked.shape).movedim(1, across)

    def _call(self, slices: Tensor, levels: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and slices.requires_grad):
            return self.native(slices, levels)
        return checkpoint(self.native, slices, levels, use_reentrant=False)
