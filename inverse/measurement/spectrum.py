"""Approximate eigenvalues of a symmetric map that nearly commutes with shifts, as A A^T of a blur.

Away from the edges such a map is a convolution with its impulse response. With periodic edges it is
diagonal in the Fourier basis. With mirrored edges and a symmetric response it is diagonal in the
cosine basis. For other edges, either basis is an approximation.

Source: Ng, Chan, Tang, A Fast Algorithm for Deblurring Models with Neumann Boundary Conditions,
SIAM J. Sci. Comput. 1999.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from inverse.seeding import seeded


@dataclass(frozen=True)
class Spectrum:
    """Non-negative eigenvalues of a map, and the basis they belong to.

    Args:
        eigenvalues: broadcastable to coefficients.
        transform: v (B, C, H, W) -> coefficients.
        inverse_transform: coefficients -> (B, C, H, W).
    """

    eigenvalues: Tensor
    transform: Callable[[Tensor], Tensor]
    inverse_transform: Callable[[Tensor], Tensor]

    def apply(self, f: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
        """f(map) v: (B, C, H, W) -> same."""
        return self.inverse_transform(f(self.eigenvalues) * self.transform(v))


def approximate_spectrum(
    apply: Callable[[Tensor], Tensor], like: Tensor, error: float = 0.15
) -> Spectrum | None:
    """The better of the Fourier and the cosine basis, or None if neither approximates the map.

    Args:
        apply: the map, (1, C, H, W) -> same; it is evaluated twice.
        like: a tensor (B, C, H, W) with the dtype and device of its argument.
        error: largest relative error allowed, measured on white noise.
    """
    height, width = like.shape[-2:]
    impulse = torch.zeros_like(like[:1])
    impulse[..., height // 2, width // 2] = 1
    response = apply(impulse)
    probe = torch.randn(impulse.shape, generator=seeded("spectrum")).to(like)
    expected = apply(probe)
    candidates = [
        (float((basis.apply(lambda lam: lam, probe) - expected).norm()), basis)
        for basis in (_fourier(response), _cosine(response))
    ]
    smallest_error, best = min(candidates, key=lambda pair: pair[0])
    return best if smallest_error <= error * float(expected.norm()) else None


def _fourier(response: Tensor) -> Spectrum:
    height, width = response.shape[-2:]
    centred = response.roll((-(height // 2), -(width // 2)), (-2, -1))
    return Spectrum(
        torch.fft.rfft2(centred).real.clamp_min(0),
        torch.fft.rfft2,
        lambda c: torch.fft.irfft2(c, s=(height, width)),
    )


def _cosine(response: Tensor) -> Spectrum:
    height, width = response.shape[-2:]
    rows, row_frequencies = _cosines(height, response)
    columns, column_frequencies = _cosines(width, response)
    eigenvalues = row_frequencies @ response @ column_frequencies.T
    return Spectrum(
        eigenvalues.clamp_min(0), lambda v: rows @ v @ columns.T, lambda c: rows.T @ c @ columns
    )


def _cosines(n: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """The orthonormal cosine basis (n, n), and cos(pi k d / n) (n, n).

    k is a frequency and d the distance from the middle.
    """
    k = torch.arange(n, dtype=torch.float64)[:, None] * math.pi / n
    i = torch.arange(n, dtype=torch.float64)
    basis = torch.cos(k * (i + 0.5)) * math.sqrt(2 / n)
    basis[0] /= math.sqrt(2)
    return basis.to(like), torch.cos(k * (i - n // 2)).to(like)
