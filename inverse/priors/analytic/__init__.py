"""Laws whose denoiser, density and posterior are known exactly: the referee's side of the court.

Conditioning a law on y = matrix decode(x) + N(0, sigma_y^2) gives a law of the same kind, so that an exact posterior is
itself a prior: it denoises (what a perfect method would compute), it samples, and it has a density.
"""

from inverse.priors.analytic.field_law import FieldLaw
from inverse.priors.analytic.law import LOG_2PI, AnalyticPrior, Exact, FlatPrior
from inverse.priors.analytic.low_rank import LowRankPrior
from inverse.priors.analytic.mixture import GaussianPrior, MixturePrior

__all__ = [
    "LOG_2PI",
    "AnalyticPrior",
    "Exact",
    "FieldLaw",
    "FlatPrior",
    "GaussianPrior",
    "LowRankPrior",
    "MixturePrior",
]
