"""Operators of a camera: expected photo-electrons of a blurred specimen."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor

import inverse
from inverse.measurement.operators import fft_blur


def brightness_operator(psf: Tensor, shape: tuple[int, ...], boundary: str, scale: float) -> Any:
    """Photo-electrons without background, scale psf * x; linear."""
    return _operators()[0](fft_blur(psf, shape, boundary), scale)


def counts_operator(
    psf: Tensor, shape: tuple[int, ...], boundary: str, scale: float, background: float
) -> Any:
    """Expected photo-electrons, scale psf * max(x, 0) + background."""
    return _operators()[1](brightness_operator(psf, shape, boundary, scale), background)


@functools.cache
def _operators() -> tuple[Any, Any]:
    physics = inverse.physics

    class Brightness(physics.LinearPhysics):  # type: ignore[name-defined, misc]
        def __init__(self, blur: Any, scale: float):
            super().__init__(img_size=blur.img_size)
            self.blur, self.scale = blur, scale

        def A(self, x: Tensor, **_: Any) -> Tensor:
            return self.scale * self.blur.A(x)

        def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:
            return self.blur.A_adjoint(self.scale * y)

    class Counts(physics.Physics):  # type: ignore[name-defined, misc]
        def __init__(self, brightness: Any, background: float):
            super().__init__()
            self.brightness, self.background = brightness, background

        def A(self, x: Tensor, **_: Any) -> Tensor:
            # rounding of the transforms must not make an expected count negative
            return self.brightness.A(x.clamp_min(0)).clamp_min(0) + self.background

    return Brightness, Counts
