"""Laws whose denoiser, density and posterior are known exactly: the referee's side of the court.

Conditioning a law on y = matrix decode(x) + N(0, sigma_y^2) gives a law of the same kind, so that an exact posterior is
itself a prior: it denoises (what a perfect method would compute), it samples, and it has a density.
"""

from inverse.analytic.law import LOG_2PI, AnalyticPrior, Exact, FlatPrior
from inverse.analytic.low_rank import LowRankPrior
from inverse.analytic.mixture import GaussianPrior, MixturePrior

__all__ = ["LOG_2PI", "AnalyticPrior", "Exact", "FlatPrior", "GaussianPrior", "LowRankPrior", "MixturePrior"]
