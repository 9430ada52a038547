"""The analytic start: a draw of the posterior of the prior's Gaussian, without the network.

At high noise a prior matters only through its mean m and covariance C. With x' ~ N(m, C), n ~ N(0,
R):

    x0 = x' + C A^T (A C A^T + R)^-1 (y + n - A x'),    x = x0 + sigma z

is a draw of N(m', C' + sigma^2 I), where m' and C' are those of N(m, C) given y. For a Gaussian
prior it has the law of the exact reverse process at every level; for another prior the error falls
with the level.

Wang, Vastola, The Unreasonable Effectiveness of Gaussian Score Approximation for Diffusion Models
and its Applications, TMLR 2024, https://arxiv.org/abs/2412.09726 (teleportation), map x to m +
sqrt((C + t^2) / (C + s^2)) (x - m), the flow from level s without y. Here the law is conditioned
on y and drawn (Papandreou, Yuille, NIPS 2010), since C' has no closed-form root for an operator
that is not diagonal where C is. The solve is for w in x0 = x' + C^1/2 w. If it stops early, its
error lies where the prior has little variance and y says little, and not in the opposite places.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inverse.errors import UnsupportedError
from inverse.execution import CG
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
    """The Gaussian with the mean and covariance of a prior, or None if they are unknown.

    An analytic law knows its own, and a network that corrects a Gaussian has that Gaussian's. Any
    other network has those of its training photographs, as a stationary field, if its card states
    them.
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
        law = law.sized(*shape[1:])
    return Gaussian(law.mean, lambda x, f: law.spectral(x.to(law.mean), f).to(x))


def _wrapped(prior: RescaledPrior | AmplifiedPrior, native: Gaussian) -> Gaussian:
    """The Gaussian of a prior that wraps another."""
    if isinstance(prior, RescaledPrior):
        mean, inverse_gain = (native.mean - prior.b) / prior.a, prior.a**2
        return Gaussian(mean, lambda x, f: native.spectral(x, lambda v: f(v / inverse_gain)))
    gain = float(prior.amplitude) ** 2
    return Gaussian(native.mean, lambda x, f: native.spectral(x, lambda v: f(gain * v)))


def unmet_requirement(posterior: Posterior) -> str | None:
    """The requirement of the analytic start that a posterior does not meet, in words, or None."""
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


def is_gaussian(prior: Prior) -> bool:
    """Whether the law of a prior is a Gaussian that is known exactly."""
    if isinstance(prior, RescaledPrior | AmplifiedPrior):
        return is_gaussian(prior.native)
    return isinstance(prior, AnalyticPrior) and hasattr(prior, "spectral")


def analytic_start(posterior: Posterior, sigma: float, generator: Generators) -> Tensor:
    """A draw at noise level sigma of the prior's Gaussian, given y: (B, *shape), model units.

    It evaluates the prior nowhere, and is exact up to the linear solve, by the conjugate gradients
    of `posterior.execution`.

    Raises: UnsupportedError for a posterior with an `unmet_requirement`.
    """
    law = _checked_law(posterior)
    white = generator.randn_like(_empty(posterior))
    x = law.mean.to(white) + law.spectral(white, torch.sqrt)
    gain = _gain(posterior, law, posterior.execution.solver)
    return posterior.corrected_draw(x, gain, generator) + sigma * generator.randn_like(x)


def gaussian_mean(posterior: Posterior, settings: CG) -> Tensor:
    """m + C A^T (A C A^T + R)^-1 (y - A m), the mean of the prior's Gaussian given y: (B, *shape).

    Model units. It evaluates the prior nowhere, and is exact up to the linear solve.

    Args:
        settings: of the conjugate gradients.

    Raises: UnsupportedError for a posterior with an `unmet_requirement`.
    """
    law = _checked_law(posterior)
    mean = law.mean.to(posterior.y).expand(len(posterior), *posterior.shape)
    return mean + _gain(posterior, law, settings)(posterior.residual(mean))


def _checked_law(posterior: Posterior) -> Gaussian:
    if reason := unmet_requirement(posterior):
        raise UnsupportedError(f"the prior's Gaussian given y needs {reason}")
    law = gaussian_of(posterior.prior, posterior.shape)
    assert law is not None
    return law


def _empty(posterior: Posterior) -> Tensor:
    """An uninitialised x for each row: (B, *shape)."""
    return torch.empty(
        len(posterior), *posterior.shape, dtype=posterior.dtype, device=posterior.device
    )


def _gain(posterior: Posterior, law: Gaussian, settings: CG) -> Callable[[Tensor], Tensor]:
    """r -> C A^T (A C A^T + R)^-1 r = C^1/2 w.

    w solves (I + C^1/2 A^T R^-1 A C^1/2) w = C^1/2 A^T R^-1 r.
    """
    assert isinstance(posterior.noise, GaussianNoise)
    variance = posterior.noise.variance(posterior.y)
    offset = posterior.A(torch.zeros_like(_empty(posterior)))

    def root(v: Tensor) -> Tensor:
        return law.spectral(v, torch.sqrt)

    def back(v: Tensor) -> Tensor:
        return root(posterior.A_adjoint(v / variance))

    def precision(w: Tensor) -> Tensor:
        return w + back(posterior.A(root(w)) - offset)

    return lambda r: root(conjugate_gradient(precision, back(r), settings=settings))


def amplified(posterior: Posterior) -> Posterior:
    """The posterior whose prior has anomalies of the size that each row's measurement suggests.

    `fitted_amplitude` computes the size.
    """
    law = gaussian_of(posterior.prior, posterior.shape)
    assert law is not None
    amplitude = fitted_amplitude(posterior)[0]
    return posterior.replaced(
        prior=AmplifiedPrior(posterior.prior, amplitude, law.mean.to(posterior.y))
    )


def fitted_amplitude(posterior: Posterior, span: float = 10.0, levels: int = 201) -> Tensor:
    """s (B,), the size of anomalies that makes y most probable under the prior's Gaussian:

        s^2 = argmax log N(y; A m, s^2 A C A^T + R),    on a grid from 1 / span to span.

    A day can be calmer or rougher than its climate, and the measurements show which.

    Args:
        span: largest s^2, and 1 / span the smallest.
        levels: number of grid points.

    Raises: UnsupportedError for a posterior with an `unmet_requirement`. Source: Dee, On-line
    estimation of error covariance parameters for atmospheric data assimilation,
        Monthly Weather Review 123, 1995, section 3: maximum likelihood of a covariance parameter
        given one set of departures.
    """
    if reason := unmet_requirement(posterior):
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
    squares = torch.logspace(-1, 1, levels, base=span, dtype=torch.float64, device=basis.device)
    total = squares[:, None] * variance.clamp_min(0) + 1
    misfit = departure.square() @ (1 / total).T + total.log().sum(1)
    return squares[misfit.argmin(1)].sqrt()
