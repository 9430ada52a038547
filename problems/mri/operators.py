"""The sampled Fourier transform of a real slice, seen by one coil or by several."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

import inverse

PLACES = (-2, -1)


def one_coil(sampled: Tensor) -> Any:
    """A = M F with its singular value decomposition, x (B, 1, H, W) -> y (B, 2, H, W).

    Args:
        sampled: boolean (H, W), zero frequency at (H // 2, W // 2).
    """
    return _one_coil()(sampled)


def several_coils(sampled: Tensor, maps: Tensor) -> Any:
    """y_c = M F maps_c x, x (B, 1, H, W) -> y (B, 2 coils, H, W), real and imaginary parts.

    The parts of a coil follow each other: channels 2 c and 2 c + 1.

    Args:
        sampled: boolean (H, W), zero frequency at (H // 2, W // 2).
        maps: complex (coils, H, W): sensitivities times the phase of the slice.
    """
    return _several_coils()(sampled, maps)


def transform(x: Tensor) -> Tensor:
    """The centred orthonormal Fourier transform over the last two axes, complex."""
    return torch.fft.fftshift(
        torch.fft.fft2(torch.fft.ifftshift(x, dim=PLACES), norm="ortho"), dim=PLACES
    )


def inverse_transform(y: Tensor) -> Tensor:
    """The inverse of `transform`."""
    return torch.fft.fftshift(
        torch.fft.ifft2(torch.fft.ifftshift(y, dim=PLACES), norm="ortho"), dim=PLACES
    )


def as_parts(y: Tensor) -> Tensor:
    """Complex (..., coils, H, W) -> real and imaginary parts (..., 2 coils, H, W)."""
    return torch.view_as_real(y).movedim(-1, -3).flatten(-4, -3)


def as_complex(y: Tensor) -> Tensor:
    """The inverse of `as_parts`."""
    return torch.view_as_complex(y.unflatten(-3, (-1, 2)).movedim(-3, -1).contiguous())


@functools.cache
def _several_coils() -> Any:
    class Coils(inverse.physics.LinearPhysics):  # type: ignore[name-defined, misc]
        def __init__(self, sampled: Tensor, maps: Tensor):
            super().__init__()
            self.register_buffer("sampled", sampled.double())
            self.register_buffer("maps", maps)
            self.sampled: Tensor
            self.maps: Tensor

        def A(self, x: Tensor, **_: Any) -> Tensor:
            return self.sampled * as_parts(transform(self.maps * x))

        def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:
            images = inverse_transform(as_complex(self.sampled * y))
            return (self.maps.conj() * images).real.sum(1, keepdim=True)

    return Coils


@functools.cache
def _one_coil() -> Any:
    mixin, base = inverse.physics.mri.MRIMixin, inverse.physics.DecomposablePhysics

    class SampledFourier(mixin, base):  # type: ignore[valid-type, misc]
        """A = M F of a real image, x (B, 1, H, W) -> y (B, 2, H, W), and its SVD A = U s V^T.

        A^T A is a convolution with eigenvalue s_k^2 = (m_k + m_-k) / 2 at frequency k, because the
        transform of a real image at k determines its value at -k. Since s_-k = s_k, the orthonormal
        Hartley transform H = Re F - Im F, which is its own inverse, diagonalises A^T A: V = H and
        U = M F H / s.
        """

        def __init__(self, sampled: Tensor):
            m = sampled.float()[None, None]
            places = (-2, -1)
            mirrored = torch.fft.ifftshift(m, dim=places).flip(places).roll((1, 1), places)
            opposite = torch.fft.fftshift(mirrored, dim=places)
            super().__init__(mask=((m + opposite).double() / 2).sqrt())
            self.register_buffer("sampled", m)
            self.sampled: Tensor

        def A(self, x: Tensor, **_: Any) -> Tensor:
            spectrum = self.fft(torch.complex(x, torch.zeros_like(x)))[:, 0]
            return self.sampled * torch.view_as_real(spectrum).movedim(-1, 1)

        def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:
            return self.ifft(self.to_torch_complex(self.sampled * y)).real[:, None]

        def V(self, c: Tensor, **_: Any) -> Tensor:
            transform = self.fft(torch.complex(c, torch.zeros_like(c)))
            return transform.real - transform.imag

        def V_adjoint(self, x: Tensor) -> Tensor:
            return self.V(x)

        def U(self, c: Tensor) -> Tensor:
            return self.A(self.V(self._whitened(c)))

        def U_adjoint(self, y: Tensor, **_: Any) -> Tensor:
            return self._whitened(self.V(self.A_adjoint(y)))

        def _whitened(self, c: Tensor) -> Tensor:
            return torch.where(self.mask > 0, c / self.mask.clamp_min(0.5), 0.0)

    return SampledFourier


def off_grid(nufft: Any, maps: Tensor, density: Tensor) -> Any:
    """y_c = F maps_c x at any frequencies, x (B, 1, H, W) -> y (B, 2 coils, shots, samples).

    Args:
        nufft: F, a `NUFFT` of shots times samples frequencies.
        maps: complex (coils, H, W): sensitivities times the phase of the slice.
        density: area of k-space of each frequency, (shots, samples), for `gridding`.
    """
    return _off_grid()(nufft, maps, density)


@functools.cache
def _off_grid() -> Any:
    class OffGrid(inverse.physics.LinearPhysics):  # type: ignore[name-defined, misc]
        def __init__(self, nufft: Any, maps: Tensor, density: Tensor):
            super().__init__()
            self.nufft = nufft
            self.register_buffer("maps", maps)
            self.register_buffer("density", density.double())
            self.maps: Tensor
            self.density: Tensor

        def A(self, x: Tensor, **_: Any) -> Tensor:
            values = self.nufft.forward(self.maps * x)
            return as_parts(values.unflatten(-1, self.density.shape))

        def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:
            images = self.nufft.adjoint(as_complex(y).flatten(-2))
            return (self.maps.conj() * images).real.sum(1, keepdim=True)

        def gridding(self, y: Tensor) -> Tensor:
            """A^T of y times the area of k-space that each frequency stands for."""
            return self.A_adjoint(self.density.to(y) * y)

    return OffGrid
