"""Gibbs sampling of a walk given linear measurements.

Given their variances w, and their indicators if the law has an atom at 0, the increments are
Gaussian.
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
    """A Gibbs sampler of x, with increments u, given y = matrix x + N(0, sigma_y^2 I). One sweep:

        w | u;   indicators, or exchanges of neighbouring w, given y;   u | w, indicators, y.

    The middle step integrates u out. Given u, an indicator could not change, because u determines
    it, and the variance of a jump could not move to its neighbour, whose increment is tiny. All
    methods run K independent chains at once.

    Args:
        increments: law of one increment, units of x.
        matrix: forward matrix (m, T), float64.
        sigma_y: standard deviation of the noise, units of y, > 0.
    """

    increments: Increments
    matrix: Tensor
    sigma_y: float

    @cached_property
    def view(self) -> Tensor:
        """The forward matrix acting on increments, divided by sigma_y: (m, T)."""
        return self.matrix.flip(1).cumsum(1).flip(1) / self.sigma_y

    @cached_property
    def gram(self) -> Tensor:
        """view^T view: (T, T)."""
        return self.view.T @ self.view

    def sweep(self, u: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """One sweep: increments u (K, T), measurements y (K, m) -> next increments (K, T)."""
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
        """Draws of the walk given each measurement: y (K, m) -> (K, chains, keep, T).

        Args:
            y: units of y, float64.
            chains: chains per measurement, started from independent prior variances.
            burn_in: sweeps discarded at the start of each chain.
            keep: sweeps returned after the burn-in.
        """
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
        """u ~ N(0, diag w) given y: w (K, T), pull = view^T y / sigma_y (K, T) -> (K, T).

        u = sqrt(w) z, where z has the precision I + sqrt(w) G sqrt(w).
        """
        root, L = self._factor(w)
        b = torch.linalg.solve_triangular(L, (root * pull)[..., None], upper=False) + normal(
            root[..., None], generator
        )
        return root * torch.linalg.solve_triangular(L.mT, b, upper=True)[..., 0]

    def _factor(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(w) (K, T) and the Cholesky factor of I + sqrt(w) G sqrt(w) (K, T, T)."""
        root = w.sqrt()
        precision = root[:, :, None] * self.gram * root[:, None]
        precision.diagonal(dim1=1, dim2=2).add_(1)
        return root, torch.linalg.cholesky(precision)

    def _indicators(
        self, on: Tensor, w: Tensor, pull: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Draws from the conditionals p(on_i | other indicators, w, y) in turn: (K, T) -> (K, T).

        y ~ N(0, S) with S = sigma_y^2 I + H diag(on w) H^T. Each flip is a rank-one update of
        P = H^T S^-1 H and q = H^T S^-1 y.
        """
        root, L = self._factor(w * on)
        columns = torch.cat([root[..., None] * self.gram, (root * pull)[..., None]], -1)
        V = torch.linalg.solve_triangular(L, columns, upper=False)
        P = self.gram - V[..., :-1].mT @ V[..., :-1]
        q = pull - (V[..., :-1].mT @ V[..., -1:])[..., 0]
        spike_odds = self.increments.spike / (1 - self.increments.spike)
        threshold = torch.logit(uniform(on, generator)) + math.log(spike_odds)
        on = on.clone()
        for i in range(on.shape[1]):
            p, wi, old = P[:, i, i], w[:, i], on[:, i].clone()
            rest = 1 - old * wi * p  # p / rest and q / rest exclude increment i
            gain = 1 + wi * p / rest
            log_ratio = 0.5 * (wi * (q[:, i] / rest) ** 2 / gain - gain.log())
            on[:, i] = (log_ratio > threshold[:, i]).to(on)
            change = (on[:, i] - old) * wi
            change = (change / (1 + change * p))[:, None]
            column = P[:, :, i].clone()
            q = q - change * column * q[:, i : i + 1]
            P = torch.baddbmm(P, -(change * column)[..., None], column[:, None])
        return on

    def _exchange(self, w: Tensor, pull: Tensor, generator: torch.Generator) -> Tensor:
        """Metropolis exchanges of w_i and w_(i+1) in turn, forwards or backwards: (K, T) -> (K, T).

        An exchange is accepted with the ratio of p(y | w). It is a rank-two update of C and mu, the
        covariance and mean of u given w and y.
        """
        root, L = self._factor(w)
        C = root[:, :, None] * torch.cholesky_inverse(L) * root[:, None]
        mu = (C @ pull[..., None])[..., 0]
        threshold = uniform(w, generator).log()
        w = w.clone()
        order = range(w.shape[1] - 1)
        for i in order if torch.rand((), generator=generator) < 0.5 else reversed(order):
            # tau is added to the precision of u_i and subtracted from that of u_(i+1)
            tau = 1 / w[:, i + 1] - 1 / w[:, i]
            a, b, c = C[:, i, i], C[:, i, i + 1], C[:, i + 1, i + 1]
            determinant = (1 + tau * a) * (1 - tau * c) + (tau * b) ** 2
            # K = (I + T C_2)^-1 T with T = diag(tau, -tau)
            k_ii = tau * (1 - tau * c) / determinant
            k_ij = tau**2 * b / determinant
            k_jj = -tau * (1 + tau * a) / determinant
            m, n = mu[:, i], mu[:, i + 1]
            log_ratio = -0.5 * (determinant.log() + k_ii * m**2 + 2 * k_ij * m * n + k_jj * n**2)
            accept = (log_ratio > threshold[:, i]).to(w)
            K = torch.stack([k_ii, k_ij, k_ij, k_jj], -1).unflatten(-1, (2, 2))
            K = accept[:, None, None] * K
            pair = C[:, :, i : i + 2]
            weighted = pair @ K
            mu = mu - (weighted @ mu[:, i : i + 2, None])[..., 0]
            C = torch.baddbmm(C, weighted, pair.mT.clone(), alpha=-1)
            both = w[:, i : i + 2]
            w[:, i : i + 2] = torch.where(accept[:, None] > 0, both.flip(1), both)
        return w
