"""A Gaussian of low rank plus a floor, for dimensions too large for a covariance matrix."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from inverse.priors.analytic.field_law import FieldLaw
from inverse.priors.analytic.law import LOG_2PI
from inverse.priors.analytic.mixture import GaussianPrior


class LowRankPrior(FieldLaw):
    """x0 ~ N(mean, C) with C = Q diag(variances - floor) Q^T + floor I.

    Denoising, density and draws take O(n r) and no (n, n) matrix.

    Args:
        mean: (*shape), model units.
        basis: Q (n, r), orthonormal columns.
        variances: (r,), variances along the columns of Q, >= 0.
        floor: (), variance of every direction orthogonal to Q, >= 0.
    """

    kind = "low-rank"

    def __init__(
        self, mean: Tensor, basis: Tensor, variances: Tensor, floor: Tensor, **units: float
    ):
        super().__init__(tuple(mean.shape), **units)
        buffers = {"mean": mean, "basis": basis, "variances": variances, "floor": floor}
        for name, value in buffers.items():
            self.register_buffer(name, value.clone())

    basis: Tensor
    variances: Tensor
    floor: Tensor

    @classmethod
    def factored(cls, mean: Tensor, factor: Tensor, floor: Tensor, **units: float) -> LowRankPrior:
        """The law with C = U U^T + floor I for a factor U (n, r), r <= n; mean (*shape)."""
        basis, s, _ = torch.linalg.svd(factor, full_matrices=False)
        return cls(mean, basis, s**2 + floor, floor, **units)

    @property
    def covariance(self) -> Tensor:
        eye = torch.eye(len(self.basis), dtype=self.basis.dtype, device=self.basis.device)
        return (self.basis * (self.variances - self.floor)) @ self.basis.T + self.floor * eye

    @property
    def eigenvalues(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues of C, and the fraction of the n directions that has each; both (r + 1,)."""
        n, r = self.mean.numel(), len(self.variances)
        share = torch.full((r + 1,), 1 / n, dtype=self.floor.dtype, device=self.floor.device)
        share[r] *= n - r
        return torch.cat([self.variances, self.floor[None]]), share

    @property
    def spread(self) -> Tensor:
        """Standard deviation of each entry of x0: (*shape)."""
        variance = self.basis.square() @ (self.variances - self.floor) + self.floor
        return variance.sqrt().reshape(self.mean.shape)

    def spectral(self, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        """f(C) x, with f applied to the eigenvalues of C: (B, *shape) -> same."""
        flat, rest = x.flatten(1), f(self.floor)
        along_basis = (flat @ self.basis * (f(self.variances) - rest)) @ self.basis.T
        return (rest * flat + along_basis).reshape(x.shape)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        s2 = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, 1) ** 2
        return self.mean + self.spectral(x - self.mean, lambda v: v / (v + s2))

    def log_density(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        s2 = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, 1) ** 2
        offset = (x - self.mean).flatten(1)
        inside = offset @ self.basis
        outside, rest = offset - inside @ self.basis.T, self.floor + s2
        terms = (inside.square() / (self.variances + s2) + (self.variances + s2).log()).sum(1)
        return -0.5 * (
            terms
            + outside.square().sum(1) / rest[:, 0]
            + (offset.shape[1] - inside.shape[1]) * rest[:, 0].log()
            + offset.shape[1] * LOG_2PI
        )

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        white = torch.randn(
            count,
            *self.mean.shape,
            generator=generator,
            dtype=self.mean.dtype,
            device=self.mean.device,
        )
        return self.mean + self.spectral(white, torch.sqrt)

    def given(self, matrix: Tensor, sigma_y: float | Tensor, y: Tensor) -> LowRankPrior:
        """The law of x given y, of rank r + m at most; arguments as in `MixturePrior.given`.

        Directions outside the span of Q and of the rows of the matrix are not measured.
        """
        span, projected, residual = self._projected(matrix, y)
        law = projected.given(matrix * self.scale @ span, sigma_y, residual)
        variances, eigenvectors = torch.linalg.eigh(law.covariance)
        return LowRankPrior(
            self.mean + (span @ law.mean).reshape(self.mean.shape),
            span @ eigenvectors,
            variances.clamp_min(0),
            self.floor,
            **self.units,
        )

    def log_evidence(self, matrix: Tensor, sigma_y: float | Tensor, y: Tensor) -> Tensor:
        """log p(y) in nats, (); arguments as in `MixturePrior.given`."""
        span, projected, residual = self._projected(matrix, y)
        return projected.log_evidence(matrix * self.scale @ span, sigma_y, residual)

    def _projected(self, matrix: Tensor, y: Tensor) -> tuple[Tensor, GaussianPrior, Tensor]:
        """A basis (n, k) of Q and the matrix's rows, the law of x - mean in it, and y - A mean."""
        span, _ = torch.linalg.qr(torch.cat([self.basis, matrix.T], 1))
        inner = span.T @ self.basis
        eye = torch.eye(span.shape[1], dtype=span.dtype, device=span.device)
        covariance = (inner * (self.variances - self.floor)) @ inner.T + self.floor * eye
        return (
            span,
            GaussianPrior(torch.zeros_like(span[0]), covariance),
            y - matrix @ self.decode(self.mean).flatten(),
        )
