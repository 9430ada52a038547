"""Gibbs sampling of a walk given linear measurements: its increments are Gaussian once their variances w, and where they have an atom
at 0 their indicators, are known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from inverse_problems.levy.increments import Increments, normal, uniform


@dataclass(frozen=True)
class Gibbs:
    """A Gibbs sampler of x, its increments u = differences of x, given y = matrix x + N(0, sigma_y^2 I). One sweep:

        w | u;   indicators, or exchanges of neighbouring w, given y;   u | w, indicators, y.

    The middle step has u integrated out. An indicator could otherwise not change, since u = 0 implies it; and the variance of
    a jump could not move to its neighbour, which is tiny until it has. All of it for K independent chains at once.

    Args:
        increments: units of x.
        matrix: (m, T), float64.
        sigma_y: units of y, > 0.
    """

    increments: Increments
    matrix: Tensor
    sigma_y: float

    @cached_property
    def view(self) -> Tensor:
        """The matrix on increments, divided by sigma_y: (m, T)."""
        return self.matrix.flip(1).cumsum(1).flip(1) / self.sigma_y

    @cached_property
    def gram(self) -> Tensor:
        return self.view.T @ self.view

    def sweep(self, u: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """Increments (K, T) given measurements (K, m) -> the chains' next increments."""
        pull = y / self.sigma_y @ self.view
        w = self.increments.variances(u, generator)
        if self.increments.spike:
            w = w * self._indicators((u != 0).to(w), w, pull, generator)
        elif self.increments.jumps:
            w = self._exchange(w, pull, generator)
        return self._increments(w, pull, generator)

    def run(
        self,
        y: Tensor,
        generator: torch.Generator,
        chains: int = 4,
        burn_in: int = 500,
        keep: int = 1000,
    ) -> Tensor:
        """Walks of chains from independent prior variances, all sweeps after the burn-in: y (K, m) -> (K, chains, keep, T)."""
        y = y.repeat_interleave(chains, 0)
        u = self._increments(
            self.increments.prior_variances(y.new_zeros(len(y), self.matrix.shape[1]), generator),
            y / self.sigma_y @ self.view,
            generator,
        )
        kept = []
        for sweep in range(burn_in + keep):
            u = self.sweep(u, y, generator)
            if sweep >= burn_in:
                kept.append(u.cumsum(1))
        return torch.stack(kept, 1).unflatten(0, (-1, chains))

    def _increments(self, w: Tensor, pull: Tensor, generator: torch.Generator) -> Tensor:
        """u ~ N(0, diag w) given y, as u = sqrt(w) z with precision I + sqrt(w) G sqrt(w) of z: w, pull (K, T) -> (K, T)."""
        root, L = self._factor(w)
        b = torch.linalg.solve_triangular(L, (root * pull)[..., None], upper=False) + normal(
            root[..., None], generator
        )
        return root * torch.linalg.solve_triangular(L.mT, b, upper=True)[..., 0]

    def _factor(self, w: Tensor) -> tuple[Tensor, Tensor]:
        root = w.sqrt()
        precision = root[:, :, None] * self.gram * root[:, None]
        precision.diagonal(dim1=1, dim2=2).add_(1)
        return root, torch.linalg.cholesky(precision)

    def _indicators(
        self, on: Tensor, w: Tensor, pull: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The indicators' conditionals p(on_i | on_others, w, y) in turn, where y ~ N(0, sigma_y^2 I + H diag(on w) H^T): (K, T) -> (K, T).

        P = H^T S^-1 H and q = H^T S^-1 y, S the covariance of y, follow every flip by a rank-one update.
        """
        root, L = self._factor(w * on)
        V = torch.linalg.solve_triangular(
            L, torch.cat([root[..., None] * self.gram, (root * pull)[..., None]], -1), upper=False
        )
        P, q = (
            self.gram - V[..., :-1].mT @ V[..., :-1],
            pull - (V[..., :-1].mT @ V[..., -1:])[..., 0],
        )
        threshold = torch.logit(uniform(on, generator)) + math.log(
            self.increments.spike / (1 - self.increments.spike)
        )
        on = on.clone()
        for i in range(on.shape[1]):
            p, wi, was = P[:, i, i], w[:, i], on[:, i].clone()
            rest = 1 - was * wi * p  # without increment i, its p and q are p / rest and q / rest
            gain = 1 + wi * p / rest
            log_ratio = 0.5 * (wi * (q[:, i] / rest) ** 2 / gain - gain.log())
            on[:, i] = (log_ratio > threshold[:, i]).to(on)
            change = (on[:, i] - was) * wi
            change = (change / (1 + change * p))[:, None]
            column = P[:, :, i].clone()
            q = q - change * column * q[:, i : i + 1]
            P = torch.baddbmm(P, -(change * column)[..., None], column[:, None])
        return on

    def _exchange(self, w: Tensor, pull: Tensor, generator: torch.Generator) -> Tensor:
        """Metropolis exchanges of w_i and w_(i+1) in turn, forwards or backwards, accepted by the ratio of p(y | w): (K, T) -> (K, T).

        C and mu, the covariance and mean of u given w and y, follow every exchange by a rank-two update.
        """
        root, L = self._factor(w)
        C = root[:, :, None] * torch.cholesky_inverse(L) * root[:, None]
        mu = (C @ pull[..., None])[..., 0]
        threshold = uniform(w, generator).log()
        w = w.clone()
        order = range(w.shape[1] - 1)
        for i in order if torch.rand((), generator=generator) < 0.5 else reversed(order):
            tau = (
                1 / w[:, i + 1] - 1 / w[:, i]
            )  # added to the precision of u_i, taken from that of u_(i+1)
            a, b, c = C[:, i, i], C[:, i, i + 1], C[:, i + 1, i + 1]
            determinant = (1 + tau * a) * (1 - tau * c) + (tau * b) ** 2
            # K = (I + T C_2)^-1 T with T = diag(tau, -tau)
            k_ii, k_ij, k_jj = (
                tau * (1 - tau * c) / determinant,
                tau**2 * b / determinant,
                -tau * (1 + tau * a) / determinant,
            )
            m, n = mu[:, i], mu[:, i + 1]
            log_ratio = -0.5 * (determinant.log() + k_ii * m**2 + 2 * k_ij * m * n + k_jj * n**2)
            accept = (log_ratio > threshold[:, i]).to(w)
            K = accept[:, None, None] * torch.stack([k_ii, k_ij, k_ij, k_jj], -1).unflatten(
                -1, (2, 2)
            )
            pair = C[:, :, i : i + 2]
            weighted = pair @ K
            mu = mu - (weighted @ mu[:, i : i + 2, None])[..., 0]
            C = torch.baddbmm(C, weighted, pair.mT.clone(), alpha=-1)
            w[:, i : i + 2] = torch.where(
                accept[:, None] > 0, w[:, i : i + 2].flip(1), w[:, i : i + 2]
            )
        return w
