"""Laws with an exact denoiser, density and posterior; the referee compares methods with them.

Conditioning a law on y = matrix decode(x) + N(0, sigma_y^2) gives a law of the same kind. An exact
posterior is therefore itself a prior: it has a denoiser, samples and a density.
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
