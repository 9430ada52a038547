"""A prior of slices that are air outside the scanned circle."""

from __future__ import annotations

import torch
from torch import Tensor

from inverse.priors.prior import Prior
from inverse_problems.ct.geometry import circle_mask


class InCircle(Prior):
    """The law of a prior's slices with intensity 0 outside the circle of radius size // 2.

    Outside, the denoised slice is air; inside it is the denoiser's, which sees the noisy air.

    Args:
        native: a prior of slices (1, height, width).
    """

    def __init__(self, native: Prior):
        levels = {"sigma_min": native.sigma_min, "sigma_max": native.sigma_max}
        super().__init__(native.shape, shift=native.shift, scale=native.scale, **levels)
        self.native = native
        self.name = getattr(native, "name", type(native).__name__)
        self.bf16_loss = getattr(native, "bf16_loss", None)
        self._masks: dict[tuple[int, torch.device], Tensor] = {}

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return torch.where(self._inside(x), self.native(x, sigma), -self.shift / self.scale)

    def native_sigma(self, sigma: Tensor | float) -> Tensor | float:
        return self.native.native_sigma(sigma)

    def decode(self, x: Tensor) -> Tensor:
        return torch.where(self._inside(x), self.native.decode(x), 0.0)

    def decode_adjoint(self, v: Tensor) -> Tensor:
        return torch.where(self._inside(v), self.native.decode_adjoint(v), 0.0)

    def encode(self, u: Tensor) -> Tensor:
        return self.native.encode(u)

    def _inside(self, x: Tensor) -> Tensor:
        key = (x.shape[-1], x.device)
        if key not in self._masks:
            self._masks[key] = torch.from_numpy(circle_mask(x.shape[-1])).to(x.device)
        return self._masks[key]
