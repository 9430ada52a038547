"""The projector of a scan as a sparse matrix, with the exact transpose as its adjoint.

A line integral is the sum of bilinear interpolations at unit steps along the line, as in
`skimage.transform.radon`, whose sinograms it reproduces to rounding. deepinv's `Tomography` has
other pixel centres, and its exact adjoint needs automatic differentiation.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

import inverse
from inverse.errors import MemoryLimitError
from inverse.measurement.sparse import SparseMatrix
from inverse.memory import free_memory
from inverse_problems.ct.astra_projector import astra_matrix
from inverse_problems.ct.filtering import filled, filtered_backprojection
from inverse_problems.ct.geometry import Geometry

BYTES = 16
"""Bytes of a weight of the matrix and of its transpose in float32, with their indices."""

DENSE_ENOUGH = 50_000_000
"""Weights above which the matrix is kept in float32."""


class Projector:
    """The sparse matrix P of line integrals (pixels), shared by all copies of an operator.

    Args:
        kind: interpolated, or line or strip of the ASTRA toolbox.

    Raises: MemoryLimitError if it does not fit into the free memory.
    """

    def __init__(self, geometry: Geometry, kind: str = "interpolated"):
        self.geometry, self.kind = geometry, kind
        self.shape = (geometry.views * geometry.detectors, geometry.size**2)

    def __deepcopy__(self, memo: Any) -> Projector:
        return self  # it never changes

    def forward(self, x: Tensor) -> Tensor:
        """P x of every channel: (B, C, size, size) -> (B, C, views, detectors)."""
        y = self.matrix.forward(x.flatten(2))
        return y.unflatten(2, (self.geometry.views, self.geometry.detectors))

    def adjoint(self, y: Tensor) -> Tensor:
        """P^T y of every channel: (B, C, views, detectors) -> (B, C, size, size)."""
        x = self.matrix.adjoint(y.flatten(2))
        return x.unflatten(2, (self.geometry.size, self.geometry.size))

    @functools.cached_property
    def matrix(self) -> SparseMatrix:
        """P, (views detectors, size^2)."""
        from scipy import sparse

        geometry = self.geometry
        weights = 2.6 * self.shape[0] * geometry.size * (math.pi / 4 if geometry.circle else 1)
        needed, free = weights * BYTES, free_memory(torch.device("cpu"))
        if free is not None and needed > free:
            raise MemoryLimitError(
                f"ct: {geometry.views} views of {geometry.detectors} detector pixels and a slice "
                f"of {geometry.size} pixels need {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB "
                "are free; use fewer views, or bin=2"
            )
        if self.kind != "interpolated":
            return SparseMatrix(astra_matrix(geometry, self.kind))
        dtype = np.float32 if weights > DENSE_ENOUGH else np.float64
        inside = geometry.inside()
        theta, s = geometry.lines()
        rows = [_view(theta[i], s[i], inside, dtype) for i in range(geometry.views)]
        return SparseMatrix(sparse.vstack(rows, format="csr"))


def _view(theta: np.ndarray, s: np.ndarray, inside: np.ndarray, dtype: Any) -> Any:
    """The rows of one view, (detectors, size^2), compressed."""
    from scipy import sparse

    size = len(inside)
    reach = math.ceil(math.hypot(size, size) / 2) + 2
    t = np.arange(-reach, reach + 1)
    cos, sin = np.cos(theta)[:, None], np.sin(theta)[:, None]
    column = size // 2 + s[:, None] * cos + t * sin
    row = size // 2 - s[:, None] * sin + t * cos
    left, top = np.floor(column).astype(np.int32), np.floor(row).astype(np.int32)
    right, bottom = column - left, row - top
    line = np.broadcast_to(np.arange(len(s), dtype=np.int32)[:, None], column.shape)
    lines, pixels, weights = [], [], []
    for down in (0, 1):
        for across in (0, 1):
            weight = (bottom if down else 1 - bottom) * (right if across else 1 - right)
            r, c = top + down, left + across
            kept = (r >= 0) & (r < size) & (c >= 0) & (c < size)
            kept[kept] &= inside[r[kept], c[kept]]
            lines.append(line[kept])
            pixels.append(r[kept] * size + c[kept])
            weights.append(weight[kept].astype(dtype))
    entries = np.concatenate(weights), (np.concatenate(lines), np.concatenate(pixels))
    return sparse.coo_matrix(entries, shape=(len(s), size * size)).tocsr()


def integrals_operator(projector: Projector, mu: float, seen: Tensor | None = None) -> Any:
    """The linear operator y = mu P x, x (B, C, N, N) -> y (B, C, views, detectors).

    Args:
        mu: attenuation of intensity 1 (1 / pixel).
        seen: boolean (views, detectors); y is 0 where it is false. None is everywhere.
    """
    if seen is None:
        return _classes()[0](projector, mu)
    return _classes()[2](projector, mu, seen)


def counts_operator(projector: Projector, mu: float, flat: Tensor, dark: Tensor) -> Any:
    """The nonlinear operator y = flat exp(-mu P x) + dark, in counts.

    Args:
        mu: attenuation of intensity 1 (1 / pixel).
        flat, dark: counts without the object and without the beam, broadcastable to (1, views,
            detectors); flat without dark.
    """
    return _classes()[1](projector, mu, flat, dark)


@functools.cache
def _classes() -> tuple[Any, Any, Any]:
    physics = inverse.physics

    class Integrals(physics.LinearPhysics):  # type: ignore[name-defined, misc]
        def __init__(self, projector: Projector, mu: float):
            super().__init__()
            self.projector, self.mu = projector, mu

        def A(self, x: Tensor, **_: Any) -> Tensor:
            return self.projector.forward(self.mu * x)

        def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:
            return self.mu * self.projector.adjoint(y)

        def filtered_backprojection(self, y: Tensor, window: str) -> Tensor:
            return filtered_backprojection(y, self.projector.geometry, window) / self.mu

    class Counts(physics.Physics):  # type: ignore[name-defined, misc]
        def __init__(self, projector: Projector, mu: float, flat: Tensor, dark: Tensor):
            super().__init__()
            self.projector, self.mu = projector, mu
            self.register_buffer("flat", flat.double())
            self.register_buffer("dark", dark.double())
            self.flat: Tensor
            self.dark: Tensor

        def A(self, x: Tensor, **_: Any) -> Tensor:
            integrals = self.projector.forward(self.mu * x)
            return self.flat * torch.exp(-integrals) + self.dark

        def integrals(self, y: Tensor) -> Tensor:
            """-log of the transmission of counts y; at least one hundredth of a flat is left."""
            return -((y - self.dark) / self.flat).clamp_min(0.01).log()

        def filtered_backprojection(self, y: Tensor, window: str) -> Tensor:
            geometry = self.projector.geometry
            return filtered_backprojection(self.integrals(y), geometry, window) / self.mu

    class SeenIntegrals(Integrals):
        """Line integrals of some rays; filtered back-projection interpolates the others."""

        def __init__(self, projector: Projector, mu: float, seen: Tensor):
            super().__init__(projector, mu)
            self.register_buffer("seen", seen)
            self.seen: Tensor

        def A(self, x: Tensor, **_: Any) -> Tensor:
            return self.seen * super().A(x)

        def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:
            return super().A_adjoint(self.seen * y)

        def filtered_backprojection(self, y: Tensor, window: str) -> Tensor:
            return super().filtered_backprojection(filled(y, self.seen), window)

    return Integrals, Counts, SeenIntegrals
