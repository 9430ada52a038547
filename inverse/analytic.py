"""Laws whose denoiser, density and posterior are known exactly: the referee's side of the court.

Conditioning a law on y = matrix decode(x) + N(0, sigma_y^2) gives a law of the same kind, so that an exact posterior is
itself a prior: it denoises (what a perfect method would compute), it samples, and it has a density.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inverse.prior import Prior

LOG_2PI = math.log(2 * math.pi)


class AnalyticPrior(Prior):
    """Base of the exact laws; everything is in model units, and in the precision of the law's own buffers."""

    exact = True
    mean: Tensor
    """Mean of x0: (*shape)."""

    @property
    @abstractmethod
    def covariance(self) -> Tensor:
        """Covariance of x0: (n, n), n the number of entries of one x."""

    @abstractmethod
    def log_density(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """log p_sigma(x), the density of x0 + sigma n, in nats: x (B, *shape), sigma () or (B,) -> (B,)."""

    @abstractmethod
    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Independent draws of x0: (count, *shape)."""

    @property
    def units(self) -> dict[str, float]:
        """What a law of the same x must be constructed with."""
        return {"shift": self.shift, "scale": self.scale, "sigma_min": self.sigma_min, "sigma_max": self.sigma_max}


class MixturePrior(AnalyticPrior):
    """x0 ~ sum_k w_k N(m_k, C_k), with

        D(x, sigma) = sum_k r_k(x) [m_k + C_k (C_k + sigma^2 I)^-1 (x - m_k)],    r_k ~ w_k N(x; m_k, C_k + sigma^2 I).

    Args:
        weights: (K,), positive; divided by their sum.
        means: (K, *shape), model units.
        covariances: (K, n, n) symmetric positive semi-definite, (K, n) diagonals or (K,) variances; a first dimension of 1
            is shared by all components, which makes large n affordable.
    """

    basis: Tensor | None

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor, **units: float):
        super().__init__(tuple(means.shape[1:]), **units)
        flat, basis = means.flatten(1), None
        if covariances.ndim == 3:
            covariances, basis = torch.linalg.eigh(covariances)
        variances = covariances.reshape(len(covariances), -1).clamp_min(0).expand(-1, flat.shape[1])
        self.register_buffer("log_weights", (weights / weights.sum()).log())
        self.register_buffer("means", means.clone())
        self.register_buffer("variances", variances.clone())  # (K or 1, n), along the columns of `basis`
        self.register_buffer("basis", basis)  # (K or 1, n, n), None for the identity
        self.register_buffer("coordinates", flat if basis is None else (flat[:, None] @ basis)[:, 0])

    log_weights: Tensor
    means: Tensor
    variances: Tensor
    coordinates: Tensor

    @property
    def weights(self) -> Tensor:
        """w: (K,)."""
        return self.log_weights.exp()

    @property
    def covariances(self) -> Tensor:
        """C_k: (K, n, n), or (1, n, n) where they are shared."""
        return torch.diag_embed(self.variances) if self.basis is None else (self.basis * self.variances[:, None]) @ self.basis.mT

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        return torch.tensordot(self.weights, self.means, 1)

    @property
    def covariance(self) -> Tensor:
        spread = (self.means - self.mean).flatten(1)
        return (self.weights[:, None, None] * self.covariances).sum(0) + (self.weights * spread.T) @ spread

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        if len(self.variances) == 1:
            return self._with_shared_covariance(x, sigma)
        offsets, total = self._offsets(x, sigma)
        r = self._log_terms(offsets, total).softmax(0)
        pulled = r[..., None] * (self.coordinates[:, None] + self.variances[:, None] / total * offsets)
        return (pulled if self.basis is None else pulled @ self.basis.mT).sum(0).reshape(x.shape)

    def _with_shared_covariance(self, x: Tensor, sigma: Tensor) -> Tensor:
        """D in O(B n K) without a (K, B, n) tensor: what the components share drops out of r, and the pull is towards their mean under r."""
        U, v = None if self.basis is None else self.basis[0], self.variances
        total = v + torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, 1) ** 2
        centre = self.coordinates.mean(0)
        u, apart = (x.flatten(1) if U is None else x.flatten(1) @ U), self.coordinates - centre
        log_r = self.log_weights + ((u - centre) / total) @ apart.T - 0.5 * (1 / total) @ apart.square().T
        towards = centre + log_r.softmax(1) @ apart
        pulled = towards + v / total * (u - towards)
        return (pulled if U is None else pulled @ U.T).reshape(x.shape)

    def log_density(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        return self._log_terms(*self._offsets(x, sigma)).logsumexp(0)

    def responsibilities(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """r_k, the probability that x (B, *shape) came from component k: (K, B)."""
        return self._log_terms(*self._offsets(x, sigma)).softmax(0)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        k = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        z = torch.randn(count, self.coordinates.shape[1], generator=generator, dtype=self.means.dtype, device=self.means.device)
        z = z * self.variances.sqrt().expand(len(self.means), -1)[k]
        for i, U in enumerate(() if self.basis is None else self.basis):
            rows = k == i if len(self.basis) > 1 else slice(None)  # type: ignore[arg-type]
            z[rows] = z[rows] @ U.T
        return self.means[k] + z.reshape(count, *self.means.shape[1:])

    def given(self, matrix: Tensor, sigma_y: float | Tensor, y: Tensor) -> MixturePrior:
        """The law of x given y = matrix decode(x) + N(0, sigma_y^2): component k has

            S = A C A^T + R,  G = C A^T S^-1,  m' = m + G (y - A m),  C' = C - G A C,  w' ~ w N(y; A m, S).

        Args:
            matrix: (m, n), acting on physical units.
            sigma_y: units of y, > 0; () or (m,).
            y: (m,).
        """
        residuals, S, CH = self._innovations(matrix, sigma_y, y)
        gain = torch.linalg.solve(S, CH.mT).mT
        means = self.means + (gain @ residuals[..., None])[..., 0].reshape(self.means.shape)
        if self.basis is None and bool((matrix != 0).sum(1).le(1).all()):  # each entry of y sees one of x: diagonals stay diagonal
            covariances = self.variances - (gain * CH).sum(-1)
        else:
            covariances = self.covariances - gain @ CH.mT
            covariances = (covariances + covariances.mT) / 2
        law = MixturePrior(self.weights, means, covariances, **self.units)
        law.log_weights = (self.log_weights + _log_normal(residuals, S)).log_softmax(0)  # in logarithms: a weight of e^-2000 still has a density
        return law

    def log_evidence(self, matrix: Tensor, sigma_y: float | Tensor, y: Tensor) -> Tensor:
        """log p(y) in nats: ()."""
        residuals, S, _ = self._innovations(matrix, sigma_y, y)
        return (self.log_weights + _log_normal(residuals, S)).logsumexp(0)

    def _innovations(self, matrix: Tensor, sigma_y: float | Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """y - A m_k (K, m), S_k (K or 1, m, m) and C_k A^T (K or 1, n, m)."""
        H = matrix * self.scale
        CH = self.variances[..., None] * (H.T if self.basis is None else self.basis.mT @ H.T)
        CH = CH if self.basis is None else self.basis @ CH
        R = torch.eye(len(H), dtype=H.dtype, device=H.device) * sigma_y**2
        return y - self.decode(self.means).flatten(1) @ matrix.T, H @ CH + R, CH

    def _offsets(self, x: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """x - m_k along the eigenvectors of C_k (K, B, n), and the variances of x there (K or 1, B or 1, n)."""
        x = x.flatten(1)[None]
        s2 = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(1, -1, 1) ** 2
        return (x if self.basis is None else x @ self.basis) - self.coordinates[:, None], self.variances[:, None] + s2

    def _log_terms(self, offsets: Tensor, total: Tensor) -> Tensor:
        """log w_k + log N(x; m_k, C_k + sigma^2 I): (K, B)."""
        return self.log_weights[:, None] - 0.5 * (offsets.square() / total + total.log() + LOG_2PI).sum(-1)


class GaussianPrior(MixturePrior):
    """x0 ~ N(mean, covariance), with D(x, sigma) = mean + C (C + sigma^2 I)^-1 (x - mean): a mixture of one.

    Args:
        mean: (*shape), model units.
        covariance: (n, n) symmetric positive semi-definite, its diagonal (n,), or one variance ().
    """

    def __init__(self, mean: Tensor, covariance: Tensor, **units: float):
        super().__init__(torch.ones_like(mean.reshape(-1)[:1]), mean[None], covariance[None], **units)

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        return self.means[0]

    def spectral(self, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        """f(C) x, f applied to the eigenvalues of C: (B, *shape) -> same."""
        U, scaled = None if self.basis is None else self.basis[0], f(self.variances[0])
        flat = x.flatten(1)
        return (flat * scaled if U is None else (flat @ U * scaled) @ U.T).reshape(x.shape)

    def posterior(self, matrix: Tensor, sigma_y: float, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (n,) and covariance (n, n) of x given y = matrix decode(x) + N(0, sigma_y^2 I); see `given`."""
        law = self.given(matrix, sigma_y, y)
        return law.mean.flatten(), law.covariance


class LowRankPrior(AnalyticPrior):
    """x0 ~ N(mean, C) with C = Q diag(variances - floor) Q^T + floor I; denoising, density and draws take O(n r), no (n, n) matrix appears.

    Args:
        mean: (*shape), model units.
        basis: Q (n, r), orthonormal columns.
        variances: (r,), those of C along Q, >= 0.
        floor: (), the variance of every direction orthogonal to Q, >= 0.
    """

    def __init__(self, mean: Tensor, basis: Tensor, variances: Tensor, floor: Tensor, **units: float):
        super().__init__(tuple(mean.shape), **units)
        for name, value in {"mean": mean, "basis": basis, "variances": variances, "floor": floor}.items():
            self.register_buffer(name, value.clone())

    basis: Tensor
    variances: Tensor
    floor: Tensor

    @classmethod
    def factored(cls, mean: Tensor, factor: Tensor, floor: Tensor, **units: float) -> LowRankPrior:
        """C = U U^T + floor I for a factor U (n, r) with r <= n."""
        basis, s, _ = torch.linalg.svd(factor, full_matrices=False)
        return cls(mean, basis, s**2 + floor, floor, **units)

    @property
    def covariance(self) -> Tensor:
        eye = torch.eye(len(self.basis), dtype=self.basis.dtype, device=self.basis.device)
        return (self.basis * (self.variances - self.floor)) @ self.basis.T + self.floor * eye

    @property
    def eigenvalues(self) -> tuple[Tensor, Tensor]:
        """Those of C, (r + 1,), and the share of the n directions that has each, (r + 1,)."""
        n, r = self.mean.numel(), len(self.variances)
        share = torch.full((r + 1,), 1 / n, dtype=self.floor.dtype, device=self.floor.device)
        share[r] *= n - r
        return torch.cat([self.variances, self.floor[None]]), share

    @property
    def deviation(self) -> float:
        """Root mean square standard deviation of the entries of x0."""
        values, share = self.eigenvalues
        return float((values * share).sum().sqrt())

    @property
    def spread(self) -> Tensor:
        """Standard deviation of each entry of x0: (*shape)."""
        return (self.basis.square() @ (self.variances - self.floor) + self.floor).sqrt().reshape(self.mean.shape)

    def spectral(self, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        """f(C) x, f applied to the eigenvalues of C: (B, *shape) -> same."""
        flat, rest = x.flatten(1), f(self.floor)
        return (rest * flat + (flat @ self.basis * (f(self.variances) - rest)) @ self.basis.T).reshape(x.shape)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        s2 = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, 1) ** 2
        return self.mean + self.spectral(x - self.mean, lambda v: v / (v + s2))

    def log_density(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        s2 = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, 1) ** 2
        offset = (x - self.mean).flatten(1)
        inside = offset @ self.basis
        outside, rest = offset - inside @ self.basis.T, self.floor + s2
        terms = (inside.square() / (self.variances + s2) + (self.variances + s2).log()).sum(1)
        return -0.5 * (terms + outside.square().sum(1) / rest[:, 0] + (offset.shape[1] - inside.shape[1]) * rest[:, 0].log() + offset.shape[1] * LOG_2PI)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        white = torch.randn(count, *self.mean.shape, generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        return self.mean + self.spectral(white, torch.sqrt)

    def given(self, matrix: Tensor, sigma_y: float | Tensor, y: Tensor) -> LowRankPrior:
        """The law of x given y, of rank r + m at most: what lies outside Q and the rows of the matrix is not measured. As `MixturePrior.given`."""
        span, seen, residual = self._projected(matrix, y)
        law = seen.given(matrix * self.scale @ span, sigma_y, residual)
        variances, turn = torch.linalg.eigh(law.covariance)
        return LowRankPrior(self.mean + (span @ law.mean).reshape(self.mean.shape), span @ turn, variances.clamp_min(0), self.floor, **self.units)

    def log_evidence(self, matrix: Tensor, sigma_y: float | Tensor, y: Tensor) -> Tensor:
        """log p(y) in nats: ()."""
        span, seen, residual = self._projected(matrix, y)
        return seen.log_evidence(matrix * self.scale @ span, sigma_y, residual)

    def _projected(self, matrix: Tensor, y: Tensor) -> tuple[Tensor, GaussianPrior, Tensor]:
        """A basis (n, k) of Q and the rows of the matrix, the law of x - mean in it, and y - A mean."""
        span, _ = torch.linalg.qr(torch.cat([self.basis, matrix.T], 1))
        inner = span.T @ self.basis
        eye = torch.eye(span.shape[1], dtype=span.dtype, device=span.device)
        covariance = (inner * (self.variances - self.floor)) @ inner.T + self.floor * eye
        return span, GaussianPrior(torch.zeros_like(span[0]), covariance), y - matrix @ self.decode(self.mean).flatten()


class FlatPrior(Prior):
    """A denoiser that returns its input: no prior at all. For operators alone, and for timing an engine without a network."""

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x


@dataclass(frozen=True)
class Exact:
    """The exact posterior of one measurement, in physical units.

    Args:
        law: of x given y, in model units; its `forward` is the exact posterior denoiser E[x0 | x, y].
        log_evidence: log p(y), nats.
    """

    law: Any
    log_evidence: float

    @property
    def mean(self) -> Tensor:
        """(*shape)."""
        return self.law.decode(self.law.mean)

    @property
    def covariance(self) -> Tensor:
        """(n, n)."""
        return self.law.scale**2 * self.law.covariance

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Independent draws: (count, *shape)."""
        return self.law.decode(self.law.sample(count, generator))


def _log_normal(r: Tensor, S: Tensor) -> Tensor:
    """log N(r; 0, S): r (K, m), S (K or 1, m, m) -> (K,)."""
    L = torch.linalg.cholesky(S)
    white = torch.linalg.solve_triangular(L, r[..., None], upper=False)[..., 0]
    return -0.5 * (white.square() + LOG_2PI).sum(-1) - L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
