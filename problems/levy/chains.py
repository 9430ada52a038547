"""A posterior known by Markov chains, and whether these have converged."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """A posterior known by the draws of Markov chains, in physical units.

    Args:
        chains: (chains, draws, *shape).
        log_evidence: NaN, which chains do not tell.
    """

    chains: Tensor
    log_evidence: float = math.nan

    @property
    def mean(self) -> Tensor:
        """(*shape)."""
        return self.chains.flatten(0, 1).mean(0)

    @property
    def covariance(self) -> Tensor:
        """(n, n)."""
        return self.chains.flatten(2).flatten(0, 1).T.cov()

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws picked at random, with replacement: (count, *shape)."""
        pooled = self.chains.flatten(0, 1)
        return pooled[torch.randint(len(pooled), (count,), generator=generator)]


def split_rhat(chains: Tensor) -> Tensor:
    """Split R-hat of Gelman et al., Bayesian Data Analysis, 3rd ed., section 11.4: (..., chains, draws, n) -> (..., n)."""
    half = chains.shape[-2] // 2
    parts = torch.cat([chains[..., :half, :], chains[..., -half:, :]], -3)
    within, between = parts.var(-2).mean(-2), parts.mean(-2).var(-2)
    return ((half - 1) / half + between / within).sqrt()


def effective_size(chains: Tensor) -> Tensor:
    """Effective number of draws of all chains together, Geyer's initial positive sequence: (..., chains, draws, n) -> (..., n).

    Source: Geyer, Practical Markov Chain Monte Carlo, Statistical Science 1992; between chains as in Bayesian Data Analysis, section 11.5;
    bounded by n log10 n as in Vehtari et al., Rank-Normalization, Folding, and Localization, Bayesian Analysis 2021.
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
