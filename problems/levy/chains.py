"""A posterior given by draws of Markov chains, and their convergence diagnostics."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """A posterior given by draws of Markov chains, physical units.

    Args:
        chains: (chains, draws, *shape).
        log_evidence: NaN, because the chains do not estimate it.
    """

    chains: Tensor
    log_evidence: float = math.nan

    @property
    def mean(self) -> Tensor:
        """Mean of all draws: (*shape)."""
        return self.chains.flatten(0, 1).mean(0)

    @property
    def covariance(self) -> Tensor:
        """Covariance of all draws: (n, n), n the number of entries of x."""
        return self.chains.flatten(2).flatten(0, 1).T.cov()

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws chosen at random with replacement: (count, *shape)."""
        pooled = self.chains.flatten(0, 1)
        return pooled[torch.randint(len(pooled), (count,), generator=generator)]


def split_rhat(chains: Tensor) -> Tensor:
    """Split R-hat of each entry: (..., chains, draws, n) -> (..., n); near 1 after convergence.

    Source: Gelman et al., Bayesian Data Analysis, 3rd ed., section 11.4.
    """
    half = chains.shape[-2] // 2
    parts = torch.cat([chains[..., :half, :], chains[..., -half:, :]], -3)
    within, between = parts.var(-2).mean(-2), parts.mean(-2).var(-2)
    return ((half - 1) / half + between / within).sqrt()


def effective_size(chains: Tensor) -> Tensor:
    """Effective number of draws of all chains together: (..., chains, draws, n) -> (..., n).

    The autocorrelation is truncated by Geyer's initial positive sequence. The result is at most
    N log10 N for N draws.

    Sources: Geyer, Practical Markov Chain Monte Carlo, Statistical Science 1992; several chains:
    Gelman et al., Bayesian Data Analysis, 3rd ed., section 11.5; bound: Vehtari et al.,
    Rank-Normalization, Folding, and Localization, Bayesian Analysis 2021.
    """
    count, draws = chains.shape[-3], chains.shape[-2]
    centred = chains - chains.mean(-2, keepdim=True)
    power = torch.fft.rfft(centred, 2 * draws, dim=-2).abs() ** 2
    within = (torch.fft.irfft(power, 2 * draws, dim=-2)[..., :draws, :] / draws).mean(-3)
    total = within[..., :1, :] + (chains.mean(-2).var(-2)[..., None, :] if count > 1 else 0)
    rho = 1 - (within[..., :1, :] - within) / total
    pairs = rho[..., : draws // 2 * 2, :].unflatten(-2, (-1, 2)).sum(-2)
    positive = (pairs > 0).cummin(-2).values
    time = (2 * (pairs * positive).sum(-2) - 1).clamp_min(1 / math.log10(count * draws))
    return count * draws / time
