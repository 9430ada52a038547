"""The Gaussian that makes measurements of unseen signals most probable, by exact EM:

    E: m_i = m + G_i (y_i - A_i m),  V_i = C - G_i A_i C,  G_i = C A_i^T (A_i C A_i^T + R_i)^-1
    M: m = mean m_i,  C = mean (V_i + (m_i - m)(m_i - m)^T)

Its fixed point is the maximum-likelihood estimate. In directions that no A_i sees, C keeps the
variance that it started from. Dempster, Laird, Rubin, 1977; it is the first prior of Rozet et al.,
Learning Diffusion Priors from Observations by Expectation Maximization, NeurIPS 2024,
https://arxiv.org/abs/2405.13712.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from inverse.errors import OptionError
from inverse.measurement import operators
from inverse.measurement.noise import GaussianNoise
from inverse.priors.analytic import GaussianPrior
from inverse.seeding import seeded
from inverse.training.measurements import Measurements

LARGEST = 4096
"""Largest number of entries of a signal whose covariance is formed."""


@dataclass(frozen=True)
class GaussianFit:
    """A Gaussian in physical units.

    Args:
        mean: (d,).
        covariance: (d, d).
    """

    mean: Tensor
    covariance: Tensor

    def prior(
        self, shape: tuple[int, ...], shift: float = 0.5, scale: float = 0.5
    ) -> GaussianPrior:
        """The prior N(mean, covariance) for signals of this shape."""
        mean = ((self.mean - shift) / scale).reshape(shape)
        return GaussianPrior(mean, self.covariance / scale**2, shift=shift, scale=scale)


@dataclass(frozen=True)
class _Part:
    """The measurements of one group as vectors.

    Args:
        A: (m, d), without the rows that are not observed.
        y: (n, m).
        variance: of the noise (m,).
        members: indices (n,).
    """

    A: Tensor
    y: Tensor
    variance: Tensor
    members: Tensor

    def posterior(self, fit: GaussianFit) -> tuple[Tensor, Tensor, Tensor]:
        """Means (n, d), gain G (d, m) and covariance (d, d) of the signals."""
        AC = self.A @ fit.covariance
        S = AC @ self.A.T + torch.diag(self.variance)
        gain = torch.linalg.solve(S, AC).T
        mean = fit.mean + (self.y - self.A @ fit.mean) @ gain.T
        return mean, gain, fit.covariance - gain @ AC


def gaussian_em(
    data: Measurements, iterations: int = 20, start: GaussianFit | None = None
) -> GaussianFit:
    """The Gaussian after a number of EM iterations.

    Args:
        data: its operators are linear (or affine), its noise Gaussian with sigma_y > 0.
        start: by default mean 1/2 and covariance I / 4.

    Raises: OptionError for signals with more than `LARGEST` entries.
    """
    parts, d = _parts(data), torch.Size(data.shape).numel()
    fit = start or GaussianFit(
        torch.full((d,), 0.5, dtype=torch.float64), torch.eye(d, dtype=torch.float64) / 4
    )
    for _ in range(iterations):
        fit = _step(parts, fit)
    return fit


def _step(parts: list[_Part], fit: GaussianFit) -> GaussianFit:
    d = len(fit.mean)
    total, first = 0, torch.zeros(d, dtype=torch.float64)
    second = torch.zeros(d, d, dtype=torch.float64)
    for part in parts:
        means, _, covariance = part.posterior(fit)
        offsets = means - fit.mean
        total, first = total + len(means), first + offsets.sum(0)
        second += len(means) * covariance + offsets.T @ offsets
    shift = first / total
    covariance = second / total - torch.outer(shift, shift)
    return GaussianFit(fit.mean + shift, (covariance + covariance.T) / 2)


def gaussian_draws(data: Measurements, fit: GaussianFit, seed: int) -> Tensor:
    """One exact posterior draw of each signal: (N, *shape), physical units.

    A draw x' of the prior is corrected by the gain times y + n - A x', n ~ N(0, R).
    """
    values, basis = torch.linalg.eigh(fit.covariance)
    root = basis * values.clamp_min(0).sqrt()
    x = torch.empty(len(data.y), len(fit.mean), dtype=torch.float64)
    for k, part in enumerate(_parts(data)):
        generator = seeded(seed, "gaussian draws", k)
        count = len(part.members)
        white = torch.randn(count, len(fit.mean), generator=generator, dtype=torch.float64)
        n = torch.randn(part.y.shape, generator=generator, dtype=torch.float64)
        _, gain, _ = part.posterior(fit)
        drawn = fit.mean + white @ root.T
        innovation = part.y + n * part.variance.sqrt() - drawn @ part.A.T
        x[part.members] = drawn + innovation @ gain.T
    return x.reshape(-1, *data.shape)


def _parts(data: Measurements) -> list[_Part]:
    d = torch.Size(data.shape).numel()
    if d > LARGEST:
        raise OptionError(
            f"train: a Gaussian of {d} entries does not fit, at most {LARGEST} do; start from a "
            "prior with --start"
        )
    unit = torch.eye(d, dtype=torch.float64).reshape(d, *data.shape)
    parts = []
    for group in data.groups:
        noise = group.problem.noise(data.shape)
        assert isinstance(noise, GaussianNoise)  # `check_linear`
        physics = operators.clone(
            group.problem.operator(data.shape), torch.device("cpu"), torch.float64
        )
        offset = physics.A(torch.zeros_like(unit[:1]))
        A = (physics.A(unit) - offset).flatten(1).T
        y = (data.y[group.members].double() - offset).flatten(1)
        variance = noise.variance(data.y[:1].double()).expand(1, *data.y.shape[1:]).flatten()
        kept = (A != 0).any(1) & variance.isfinite()
        parts.append(_Part(A[kept], y[:, kept], variance[kept], group.members))
    return parts
