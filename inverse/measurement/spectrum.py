"""Symmetric maps that nearly commute with shifts, such as A A^T of a blur: the basis that nearly diagonalises one.

Away from the edges such a map is a convolution with its response to an impulse. Periodic edges are diagonal in the Fourier basis,
mirrored ones in the cosine basis if the response is symmetric (Ng, Chan, Tang, A Fast Algorithm for Deblurring Models with Neumann
Boundary Conditions, SIAM J. Sci. Comput. 1999); other edges come near to one or the other.
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
    """Eigenvalues, at least 0, and the basis they belong to.

    Args:
        eigenvalues: broadcastable to coefficients.
        to: v (B, C, H, W) -> coefficients.
        back: its inverse.
    """

    eigenvalues: Tensor
    to: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]

    def apply(self, f: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
        """f of the map, on v."""
        return self.back(f(self.eigenvalues) * self.to(v))


def approximate_spectrum(
    apply: Callable[[Tensor], Tensor], like: Tensor, error: float = 0.15
) -> Spectrum | None:
    """The better of the two, or None where both miss the map by more than `error`: relative error on white noise.

    Args:
        apply: the map, (1, C, H, W) -> same; it is evaluated twice.
        like: a tensor (B, C, H, W) of its dtype and device.
    """
    height, width = like.shape[-2:]
    impulse = torch.zeros_like(like[:1])
    impulse[..., height // 2, width // 2] = 1
    response = apply(impulse)
    probe = torch.randn(impulse.shape, generator=seeded("spectrum")).to(like)
    expected = apply(probe)
    found = [
        (float((basis.apply(lambda lam: lam, probe) - expected).norm()), basis)
        for basis in (_fourier(response), _cosine(response))
    ]
    miss, best = min(found, key=lambda pair: pair[0])
    return best if miss <= error * float(expected.norm()) else None


def _fourier(response: Tensor) -> Spectrum:
    height, width = response.shape[-2:]
    centred = response.roll((-(height // 2), -(width // 2)), (-2, -1))
    return Spectrum(
        torch.fft.rfft2(centred).real.clamp_min(0),
        torch.fft.rfft2,
        lambda c: torch.fft.irfft2(c, s=(height, width)),
    )


def _cosine(response: Tensor) -> Spectrum:
    (rows, over_rows), (columns, over_columns) = (
        _cosines(n, response) for n in response.shape[-2:]
    )
    eigenvalues = over_rows @ response @ over_columns.T
    return Spectrum(
        eigenvalues.clamp_min(0), lambda v: rows @ v @ columns.T, lambda c: rows.T @ c @ columns
    )


def _cosines(n: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """The orthonormal cosine basis (n, n), and cos(pi k d / n) for frequencies k and distances d from the middle (n, n)."""
    k, i = (
        torch.arange(n, dtype=torch.float64)[:, None] * math.pi / n,
        torch.arange(n, dtype=torch.float64),
    )
    basis = torch.cos(k * (i + 0.5)) * math.sqrt(2 / n)
    basis[0] /= math.sqrt(2)
    return basis.to(like), torch.cos(k * (i - n // 2)).to(like)
