"""Priors whose denoiser and posterior are known exactly: the referee's side of the court."""

from __future__ import annotations

import torch
from torch import Tensor

from inverse.prior import Prior


class GaussianPrior(Prior):
    """x0 ~ N(mean, covariance), with D(x, sigma) = mean + C (C + sigma^2 I)^-1 (x - mean).

    Args:
        mean: (*shape), model units.
        covariance: (n, n) for n the number of entries of mean, symmetric positive semi-definite.
    """

    exact = True

    def __init__(self, mean: Tensor, covariance: Tensor, **units: float):
        super().__init__(tuple(mean.shape), **units)
        variances, basis = torch.linalg.eigh(covariance)
        self.register_buffer("mean", mean.clone())
        self.register_buffer("variances", variances.clamp_min(0))
        self.register_buffer("basis", basis)
        self.mean: Tensor
        self.variances: Tensor
        self.basis: Tensor

    @property
    def covariance(self) -> Tensor:
        """C: (n, n)."""
        return (self.basis * self.variances) @ self.basis.T

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        s2 = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, 1) ** 2
        coefficients = (x - self.mean).flatten(1) @ self.basis
        return self.mean + ((self.variances / (self.variances + s2) * coefficients) @ self.basis.T).reshape(x.shape)

    def posterior(self, matrix: Tensor, sigma_y: float, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (n,) and covariance (n, n) of x given y = matrix decode(x) + N(0, sigma_y^2 I).

        Args:
            matrix: (m, n), acting on physical units.
            sigma_y: units of y, > 0.
            y: (m,).
        """
        C, m = self.covariance, self.mean.flatten()
        H = matrix * self.scale
        gain = torch.linalg.solve(H @ C @ H.T + sigma_y**2 * torch.eye(len(H), dtype=H.dtype), H @ C).T
        return m + gain @ (y - matrix @ self.decode(m)), C - gain @ H @ C


class FlatPrior(Prior):
    """A denoiser that returns its input: no prior at all. For operators alone, and for timing an engine without a network."""

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x
