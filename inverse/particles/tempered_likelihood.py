"""A Gaussian times a power of a linear-Gaussian likelihood, in closed form:

N(x; z, V I) p(y | x)^a = M N(x; m, (I / V + a H)^-1),    H = A^T R^-1 A,  R the noise covariance.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from inverse.errors import UnsupportedError
from inverse.measurement.noise import GaussianNoise
from inverse.posterior import Posterior
from inverse.rows import row_dot
from inverse.seeding import Generators, seeded

DENSE = 1024
"""Entries of x up to which the eigenvalues of H are computed exactly."""


class TemperedLikelihood:
    """The likelihood of a posterior to a power, as a factor on Gaussians.

    Args:
        posterior: posterior with a linear operator and Gaussian noise of positive sigma_y.

    Raises: UnsupportedError for another posterior.
    """

    def __init__(self, posterior: Posterior):
        if not (posterior.linear and isinstance(posterior.noise, GaussianNoise)):
            raise UnsupportedError(
                "a tempered likelihood needs a linear operator with Gaussian noise, "
                f"found {type(posterior.operator).__name__}, {posterior.noise!r}"
            )
        self.posterior, self.variance_y = posterior, posterior.noise.variance(posterior.y)

    def draw(self, z: Tensor, variance: float, power: float, generator: Generators) -> Tensor:
        """x ~ N(z, variance I) p(y | x)^power, exact up to the solve: (B, *shape) -> same."""
        x = z + variance**0.5 * generator.randn_like(z)
        if power == 0:
            return x

        def gain(r: Tensor) -> Tensor:
            v = self.posterior.solve_normal(r, power * variance)
            return power * variance * self.posterior.A_adjoint(v)

        return self.posterior.corrected_draw(x, gain, generator, power)

    def log_mass(self, z: Tensor, variance: float, power: float) -> Tensor:
        """log M, the log of the integral of N(x; z, variance I) p(y | x)^power over x, in nats.

        z (B, *shape) -> (B,), float64.
        """
        r = self.posterior.residual(z)
        fit = row_dot(r, self.posterior.solve_normal(r, power * variance)).double()
        peak = self.posterior.noise.log_prob(self.posterior.y[:1], self.posterior.y[:1]).double()
        return power * (peak - 0.5 * fit) - 0.5 * self.trace(
            lambda h: (power * variance * h).log1p()
        )

    def trace(self, f: Callable[[Tensor], Tensor]) -> float:
        """Trace of f(H)."""
        eigenvalues, multiplicity = self.spectrum
        return float((multiplicity * f(eigenvalues)).sum())

    @property
    def curvature(self) -> float:
        """Largest eigenvalue of H."""
        return float(self.spectrum[0].max())

    @cached_property
    def spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues of H and their multiplicities, float64.

        They are exact for x of at most `DENSE` entries. For more they are a Gauss quadrature: 32
        Lanczos steps from one random sign vector give the trace of a smooth function of H to a
        relative error of about sqrt(2 / n). It is the same for every particle, so that weights do
        not depend on it; evidences do.

        Source: Ubaru, Chen, Saad, Fast Estimation of tr(f(A)) via Stochastic Lanczos Quadrature,
        SIMAX
            2017.
        """
        p, n = self.posterior, torch.Size(self.posterior.shape).numel()
        if n <= DENSE:
            rows = p.operator.A(
                p.prior.scale * torch.eye(n, dtype=p.dtype, device=p.device).reshape(n, *p.shape)
            )
            white = (rows / self.variance_y.sqrt()).flatten(1).double()
            return torch.linalg.eigvalsh(white @ white.T).clamp_min(0), torch.ones(
                n, dtype=torch.float64, device=p.device
            )
        sign = (
            torch.randint(0, 2, (1, *p.shape), generator=seeded("spectrum")).to(p.device, p.dtype)
            * 2
            - 1
        )
        nodes, weights = lanczos(
            lambda u: p.prior.decode_adjoint(
                p.operator.A_adjoint(p.operator.A(p.prior.scale * u) / self.variance_y)
            ),
            sign,
        )
        return nodes.clamp_min(0), n * weights


def lanczos(
    apply: Callable[[Tensor], Tensor], start: Tensor, steps: int = 32
) -> tuple[Tensor, Tensor]:
    """Nodes and weights (k,), float64, of the Gauss quadrature of v^T f(M) v / |v|^2.

    M is symmetric. The Lanczos vectors are orthogonalised in full.

    Args:
        apply: x -> M x.
        start: v.
        steps: largest number of nodes.
    """
    q = start / start.norm()
    basis, alpha, beta = [q], list[Tensor](), list[Tensor]()
    for _ in range(steps):
        w = apply(basis[-1])
        alpha.append((w * basis[-1]).sum())
        for _ in range(2):
            for u in basis:
                w = w - (w * u).sum() * u
        length = w.norm()
        if length <= 1e3 * torch.finfo(w.dtype).eps * torch.stack(alpha).abs().max():
            break
        beta.append(length)
        basis.append(w / length)
    off = torch.stack(beta).double()[: len(alpha) - 1] if beta else start.new_zeros(0).double()
    T = torch.diag(torch.stack(alpha).double()) + torch.diag(off, 1) + torch.diag(off, -1)
    nodes, vectors = torch.linalg.eigh(T)
    return nodes, vectors[0] ** 2
