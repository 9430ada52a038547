"""The analytic start: at high noise a prior is its mean and covariance, and the posterior of a Gaussian needs no network.

    C = covariance of the prior,  x' ~ N(m, C),  n ~ N(0, R):    x0 = x' + C A^T (A C A^T + R)^-1 (y + n - A x'),    x = x0 + sigma z

is a draw of N(m', C' + sigma^2 I), m' and C' those of N(m, C) given y. For a Gaussian prior it has the law that the exact
reverse process has at that level, whatever the level; for another prior it is nearer to it the higher the level.

Wang, Vastola, The Unreasonable Effectiveness of Gaussian Score Approximation for Diffusion Models and its Applications, TMLR 2024,
https://arxiv.org/abs/2412.09726 (teleportation), there without y and as the map x -> m + sqrt((C + t^2) / (C + s^2)) (x - m) of the
flow from level s; here conditioned on y, and drawn (Papandreou, Yuille, NIPS 2010) instead of mapped, since C' has no
closed-form root for an operator that is not diagonal where C is. The solve is that of w, x0 = x' + C^1/2 w, so that a solve which is
stopped early is wrong where the prior has little variance and y says little, and not the other way round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inverse.errors import UnsupportedError
from inverse.measurement.linalg import conjugate_gradient
from inverse.measurement.noise import GaussianNoise
from inverse.posterior import Posterior
from inverse.priors.amplified import AmplifiedPrior
from inverse.priors.analytic import AnalyticPrior, GaussianPrior
from inverse.priors.field import FieldPrior, power_law_field
from inverse.priors.networks.corrected import CorrectedPrior
from inverse.priors.prior import Prior, RescaledPrior
from inverse.seeding import Generators


@dataclass(frozen=True)
class Gaussian:
    """N(mean, C) in model units.

    Args:
        mean: broadcasts to one x.
        spectral: (x (B, *shape), f) -> f(C) x.
    """

    mean: Tensor
    spectral: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]


def gaussian_of(prior: Prior, shape: tuple[int, ...]) -> Gaussian | None:
    """The Gaussian with the mean and covariance of a prior, None where nobody knows them.

    An exact law knows its own, a network that corrects a Gaussian has that; another network has those of its training photographs,
    as a stationary field, if its card says them.
    """
    if isinstance(prior, RescaledPrior | AmplifiedPrior):
        native = gaussian_of(prior.native, shape)
        return None if native is None else _wrapped(prior, native)
    law: Any = prior.law if isinstance(prior, CorrectedPrior) else prior
    if power_law := getattr(prior, "power_law", None):
        device = next((t.device for t in (*prior.parameters(), *prior.buffers())), None)
        law = power_law_field(power_law).to(device)
    elif isinstance(law, AnalyticPrior) and not hasattr(law, "spectral"):
        law = GaussianPrior(law.mean, law.covariance)
    elif not isinstance(law, AnalyticPrior):
        return None
    if isinstance(law, FieldPrior):
        law = law.sized(*shape[-2:])
    return Gaussian(law.mean, lambda x, f: law.spectral(x.to(law.mean), f).to(x))


def _wrapped(prior: RescaledPrior | AmplifiedPrior, native: Gaussian) -> Gaussian:
    """The Gaussian of a prior that wraps another."""
    if isinstance(prior, RescaledPrior):
        mean, inverse_gain = (native.mean - prior.b) / prior.a, prior.a**2
        return Gaussian(mean, lambda x, f: native.spectral(x, lambda v: f(v / inverse_gain)))
    gain = float(prior.amplitude) ** 2
    return Gaussian(native.mean, lambda x, f: native.spectral(x, lambda v: f(gain * v)))


def unstartable(posterior: Posterior) -> str | None:
    """Why there is no analytic start for this posterior, or None if there is."""
    if (
        not (posterior.linear and isinstance(posterior.noise, GaussianNoise))
        or posterior.noise.noiseless
    ):
        return (
            "a linear operator with Gaussian noise of positive sigma_y; "
            f"this posterior has {type(posterior.operator).__name__} with {posterior.noise!r}"
        )
    if gaussian_of(posterior.prior, posterior.shape) is None:
        return (
            "a prior whose mean and covariance are known; "
            f"{type(posterior.prior).__name__} does not say them"
        )
    return None


def analytic_start(posterior: Posterior, sigma: float, generator: Generators) -> Tensor:
    """A draw at noise level sigma of the Gaussian of the prior, given y: (B, *shape), model units; no evaluation of the prior.

    Exact up to the linear solve, (I + C^1/2 A^T R^-1 A C^1/2) w = C^1/2 A^T R^-1 (y + n - A x'), by the conjugate gradients of
    `posterior.execution`.

    Raises: UnsupportedError where `unstartable` says why.
    """
    if reason := unstartable(posterior):
        raise UnsupportedError(f"analytic_start needs {reason}")
    law = gaussian_of(posterior.prior, posterior.shape)
    assert law is not None
    assert isinstance(posterior.noise, GaussianNoise)

    def root(v: Tensor) -> Tensor:
        return law.spectral(v, torch.sqrt)

    white = generator.randn_like(
        torch.empty(
            len(posterior), *posterior.shape, dtype=posterior.dtype, device=posterior.device
        )
    )
    x = law.mean.to(white) + root(white)
    variance, offset = posterior.noise.variance(posterior.y), posterior.A(torch.zeros_like(x))

    def back(v: Tensor) -> Tensor:
        return root(posterior.A_adjoint(v / variance))

    def precision(w: Tensor) -> Tensor:
        return w + back(posterior.A(root(w)) - offset)

    def gain(r: Tensor) -> Tensor:
        return root(conjugate_gradient(precision, back(r), settings=posterior.execution.solver))

    return posterior.corrected_draw(x, gain, generator) + sigma * generator.randn_like(x)


def amplified(posterior: Posterior) -> Posterior:
    """The posterior of one image under the prior of anomalies as large as its measurement says; see `fitted_amplitude`."""
    law = gaussian_of(posterior.prior, posterior.shape)
    assert law is not None
    amplitude = fitted_amplitude(posterior)[0]
    return posterior.replaced(
        prior=AmplifiedPrior(posterior.prior, amplitude, law.mean.to(posterior.y))
    )


def fitted_amplitude(posterior: Posterior, span: float = 10.0, levels: int = 201) -> Tensor:
    """s (B,), the size of anomalies that makes each row's y most probable under the prior's Gaussian:

        s^2 = argmax log N(y; A m, s^2 A C A^T + R),    from 1 / span to span, on a grid of `levels`.

    A day is calmer or rougher than its climate, and what was measured of it says which.

    Raises: UnsupportedError where `unstartable` says why.

    Source: Dee, On-line estimation of error covariance parameters for atmospheric data assimilation, Monthly Weather Review 123,
    1995, section 3: maximum likelihood of a covariance parameter given one set of departures.
    """
    if reason := unstartable(posterior):
        raise UnsupportedError(f"amplitude needs {reason}")
    law = gaussian_of(posterior.prior, posterior.shape)
    assert law is not None
    assert isinstance(posterior.noise, GaussianNoise)
    white = posterior.noise.variance(posterior.y).rsqrt().expand(posterior.y.shape)[:1]
    unit = torch.eye(white.numel(), dtype=white.dtype, device=white.device).reshape(
        -1, *white.shape[1:]
    )
    G = law.spectral(posterior.A_adjoint(white * unit), torch.sqrt).flatten(1).double()
    variance, basis = torch.linalg.eigh(G @ G.T)
    mean = law.mean.to(posterior.y)
    departure = (white * posterior.residual(mean.expand(len(posterior), *posterior.shape))).flatten(
        1
    ).double() @ basis
    tried = torch.logspace(-1, 1, levels, base=span, dtype=torch.float64, device=basis.device)
    total = tried[:, None] * variance.clamp_min(0) + 1
    misfit = departure.square() @ (1 / total).T + total.log().sum(1)
    return tried[misfit.argmin(1)].sqrt()
