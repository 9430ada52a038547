"""Mixtures of Gaussians, and a Gaussian as a mixture of a single component."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from inverse.priors.analytic.law import LOG_2PI, AnalyticPrior


class MixturePrior(AnalyticPrior):
    """x0 ~ sum_k w_k N(m_k, C_k), with the denoiser

        D(x, sigma) = sum_k r_k(x) [m_k + C_k (C_k + sigma^2 I)^-1 (x - m_k)]
        r_k(x) ~ w_k N(x; m_k, C_k + sigma^2 I)

    Args:
        weights: (K,), positive; divided by their sum.
        means: (K, *shape), model units.
        covariances: (K, n, n) symmetric positive semi-definite, (K, n) diagonals or (K,) variances.
            A first dimension of 1 is shared by all components, which makes large n affordable.
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
        # variances (K or 1, n) along the columns of basis (K or 1, n, n), None for the identity
        self.register_buffer("variances", variances.clone())
        self.register_buffer("basis", basis)
        coordinates = flat if basis is None else (flat[:, None] @ basis)[:, 0]
        self.register_buffer("coordinates", coordinates)

    log_weights: Tensor
    means: Tensor
    variances: Tensor
    coordinates: Tensor

    @classmethod
    def along(
        cls, basis: Tensor, weights: Tensor, means: Tensor, variances: Tensor, **units: float
    ) -> MixturePrior:
        """Components with variances (K, n) along the columns of one orthogonal basis (n, n)."""
        law = cls(weights, means, variances, **units)
        law.basis, law.coordinates = basis[None], means.flatten(1) @ basis
        return law

    @property
    def weights(self) -> Tensor:
        """Weights w of the components: (K,)."""
        return self.log_weights.exp()

    @property
    def covariances(self) -> Tensor:
        """Covariances C_k of the components: (K, n, n), or (1, n, n) if shared."""
        if self.basis is None:
            return torch.diag_embed(self.variances)
        return (self.basis * self.variances[:, None]) @ self.basis.mT

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        return torch.tensordot(self.weights, self.means, 1)

    @property
    def covariance(self) -> Tensor:
        offsets = (self.means - self.mean).flatten(1)
        between = (self.weights * offsets.T) @ offsets
        return (self.weights[:, None, None] * self.covariances).sum(0) + between

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        if len(self.variances) == 1:
            return self._with_shared_covariance(x, sigma)
        offsets, total = self._offsets(x, sigma)
        r = self._log_terms(offsets, total).softmax(0)
        means = self.coordinates[:, None] + self.variances[:, None] / total * offsets
        terms = r[..., None] * means
        if self.basis is None or len(self.basis) == 1:
            x0_hat = terms.sum(0)
            return (x0_hat if self.basis is None else x0_hat @ self.basis[0].T).reshape(x.shape)
        return (terms @ self.basis.mT).sum(0).reshape(x.shape)

    def _with_shared_covariance(self, x: Tensor, sigma: Tensor) -> Tensor:
        """D in O(B n K), without a (K, B, n) tensor.

        The terms that the components share drop out of r, and D depends on the mean of the m_k
        under r alone.
        """
        U, v = None if self.basis is None else self.basis[0], self.variances
        total = v + torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, 1) ** 2
        centre = self.coordinates.mean(0)
        u, offsets = (x.flatten(1) if U is None else x.flatten(1) @ U), self.coordinates - centre
        linear = ((u - centre) / total) @ offsets.T
        log_r = self.log_weights + linear - 0.5 * (1 / total) @ offsets.square().T
        mean = centre + log_r.softmax(1) @ offsets
        x0_hat = mean + v / total * (u - mean)
        return (x0_hat if U is None else x0_hat @ U.T).reshape(x.shape)

    def log_density(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        return self._log_terms(*self._offsets(x, sigma)).logsumexp(0)

    def responsibilities(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """r_k, the probability that x (B, *shape) came from component k: (K, B)."""
        return self._log_terms(*self._offsets(x, sigma)).softmax(0)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        k = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        z = torch.randn(
            count,
            self.coordinates.shape[1],
            generator=generator,
            dtype=self.means.dtype,
            device=self.means.device,
        )
        z = z * self.variances.sqrt().expand(len(self.means), -1)[k]
        for i, U in enumerate(() if self.basis is None else self.basis):
            rows = k == i if len(self.basis) > 1 else slice(None)  # type: ignore[arg-type]
            z[rows] = z[rows] @ U.T
        return self.means[k] + z.reshape(count, *self.means.shape[1:])

    def given(self, matrix: Tensor, sigma_y: float | Tensor, y: Tensor) -> MixturePrior:
        """The law of x given y = matrix decode(x) + N(0, sigma_y^2). Component k has

            S = A C A^T + R,    G = C A^T S^-1
            m' = m + G (y - A m),    C' = C - G A C,    w' ~ w N(y; A m, S)

        Args:
            matrix: (m, n), acting on physical units.
            sigma_y: units of y, > 0; () or (m,).
            y: (m,).
        """
        residuals, S, CH = self._innovations(matrix, sigma_y, y)
        gain = torch.linalg.solve(S, CH.mT).mT
        means = self.means + (gain @ residuals[..., None])[..., 0].reshape(self.means.shape)
        measures_single_entries = bool((matrix != 0).sum(1).le(1).all())
        if self.basis is None and measures_single_entries:  # diagonal covariances stay diagonal
            covariances = self.variances - (gain * CH).sum(-1)
        else:
            covariances = self.covariances - gain @ CH.mT
            covariances = (covariances + covariances.mT) / 2
        law = MixturePrior(self.weights, means, covariances, **self.units)
        # in logarithms, since a weight of e^-2000 still has a density
        law.log_weights = (self.log_weights + _log_normal(residuals, S)).log_softmax(0)
        return law

    def log_evidence(self, matrix: Tensor, sigma_y: float | Tensor, y: Tensor) -> Tensor:
        """log p(y) in nats, (); arguments as in `given`."""
        residuals, S, _ = self._innovations(matrix, sigma_y, y)
        return (self.log_weights + _log_normal(residuals, S)).logsumexp(0)

    def _innovations(
        self, matrix: Tensor, sigma_y: float | Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """y - A m_k (K, m), S_k (K or 1, m, m) and C_k A^T (K or 1, n, m)."""
        H = matrix * self.scale
        CH = self.variances[..., None] * (H.T if self.basis is None else self.basis.mT @ H.T)
        CH = CH if self.basis is None else self.basis @ CH
        R = torch.eye(len(H), dtype=H.dtype, device=H.device) * sigma_y**2
        return y - self.decode(self.means).flatten(1) @ matrix.T, H @ CH + R, CH

    def _offsets(self, x: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """x - m_k along the eigenvectors of C_k, and the variances of x along them.

        Returns: (K, B, n) and (K or 1, B or 1, n).
        """
        x = x.flatten(1)[None]
        s2 = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(1, -1, 1) ** 2
        x = x if self.basis is None else x @ self.basis
        return x - self.coordinates[:, None], self.variances[:, None] + s2

    def _log_terms(self, offsets: Tensor, total: Tensor) -> Tensor:
        """log w_k + log N(x; m_k, C_k + sigma^2 I): (K, B)."""
        terms = offsets.square() / total + total.log() + LOG_2PI
        return self.log_weights[:, None] - 0.5 * terms.sum(-1)


class GaussianPrior(MixturePrior):
    """x0 ~ N(mean, C), with D(x, sigma) = mean + C (C + sigma^2 I)^-1 (x - mean).

    Args:
        mean: (*shape), model units.
        covariance: C (n, n), symmetric positive semi-definite, its diagonal (n,), or a variance ().
    """

    def __init__(self, mean: Tensor, covariance: Tensor, **units: float):
        super().__init__(
            torch.ones_like(mean.reshape(-1)[:1]), mean[None], covariance[None], **units
        )

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        return self.means[0]

    def spectral(self, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        """f(C) x, with f applied to the eigenvalues of C: (B, *shape) -> same."""
        U, scaled = None if self.basis is None else self.basis[0], f(self.variances[0])
        flat = x.flatten(1)
        return (flat * scaled if U is None else (flat @ U * scaled) @ U.T).reshape(x.shape)

    def posterior(self, matrix: Tensor, sigma_y: float, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (n,) and covariance (n, n) of x given y; arguments as in `given`."""
        law = self.given(matrix, sigma_y, y)
        return law.mean.flatten(), law.covariance


def _log_normal(r: Tensor, S: Tensor) -> Tensor:
    """log N(r; 0, S): r (K, m), S (K or 1, m, m) -> (K,)."""
    L = torch.linalg.cholesky(S)
    white = torch.linalg.solve_triangular(L, r[..., None], upper=False)[..., 0]
    return -0.5 * (white.square() + LOG_2PI).sum(-1) - L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
