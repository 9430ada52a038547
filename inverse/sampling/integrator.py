"""One exponential integrator, of which DPM-Solver, DEIS, UniPC and EVODiff are configurations.

In the coordinate x = x0 + sigma n with lambda = -log sigma, a step of length h from level s down
to t is, exactly,

    x_t = e^{-r h} x_s + int_0^h r e^{-r (h - u)} D(lambda_s + u) du + t sqrt(1 - e^{-2 eta h}) z
    x_t = x_s + t int_0^h r e^{-r (h - u)} eps(lambda_s + u) du

in the data form, where r = 1 + eta, and in the noise form, where r = -1. eta = 0 is the
probability-flow ODE and eta = 1 the reverse SDE. Only D = E[x0 | x] (or eps = (x - D) / sigma) is
approximated: by the polynomial in v through its values at nodes v_j, where v is the position
within the step, 0 at s and 1 at t, on some clock (lambda itself, the time of a VP process, sigma).
Moments determine the sum that replaces the integral:

    sum_j W_j v_j^k = m_k,    m_k = int_0^1 z e^{-z (1 - w)} v(w)^k dw,    z = r h,  w = u / h.

Levels of a VP process at alpha_bar are sigma = sqrt(1 / alpha_bar - 1), where x is
x_t / sqrt(alpha_bar). A schedule that ends in 0 ends with a step of infinite h, taken at order one:
x = D, the final denoise.

Sources: Lu et al., DPM-Solver, NeurIPS 2022, https://arxiv.org/abs/2206.00927, and DPM-Solver++,
https://arxiv.org/abs/2211.01095; Zhang, Chen, DEIS, ICLR 2023, https://arxiv.org/abs/2204.13902;
Zhao et al., UniPC, NeurIPS 2023, https://arxiv.org/abs/2302.04867.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from inverse.sampling.schedules import transitions
from inverse.seeding import Generators

Denoise = Callable[[Tensor, Tensor], Tensor]
Clock = Callable[[Any], Any]
Place = Callable[[np.ndarray], np.ndarray]
Average = Callable[[int, float, Place | None], np.ndarray]

_ROOTS, _GAUSS = np.polynomial.legendre.leggauss(20)
_ROOTS, _GAUSS = (_ROOTS + 1) / 2, _GAUSS / 2


def half_log_snr(sigma: np.ndarray) -> np.ndarray:
    """lambda = -log sigma."""
    return -np.log(sigma)


def vp_time(sigma: np.ndarray, beta_min: float = 0.1, beta_max: float = 20.0) -> np.ndarray:
    """The time at which the linear VP process has this level.

    It is the inverse of log(1 + sigma^2) = beta_min t + (beta_max - beta_min) t^2 / 2.
    """
    snr, slope = np.log1p(np.square(sigma)), beta_max - beta_min
    return 2 * snr / (beta_min + np.sqrt(beta_min**2 + 2 * slope * snr))


def exact(count: int, z: float, place: Place | None) -> np.ndarray:
    """m_0 ... m_{count - 1}; place is w -> v, None for the identity.

    For small z the recurrence loses digits to cancellation; the quadrature does not.
    """
    if place is None and abs(z) > 1:
        m = [-np.expm1(-z)]
        for k in range(1, count):
            m.append(1 - k / z * m[-1])
        return np.array(m)
    kernel = _GAUSS * z * np.exp(-z * (1 - _ROOTS))
    return kernel @ np.vander(_ROOTS if place is None else place(_ROOTS), count, increasing=True)


def uniform(count: int, z: float, place: Place | None) -> np.ndarray:
    """m_0 / (k + 1), the plain mean of the polynomial over the step.

    The published second-order DPM solvers use it.
    """
    return -np.expm1(-z) / np.arange(1, count + 1)


@dataclass(frozen=True)
class Step:
    """x_t = keep x_s + sum_j weights_j values_j + noise z."""

    keep: float
    weights: tuple[float, ...]
    noise: float = 0.0

    def __call__(self, x: Tensor, values: Iterable[Tensor], generator: Generators) -> Tensor:
        x = self.keep * x
        for weight, value in zip(self.weights, values, strict=False):
            x.add_(value, alpha=weight)
        return x.add_(generator.randn_like(x), alpha=self.noise) if self.noise else x


@dataclass(frozen=True)
class Rule:
    """How a step is taken.

    Args:
        form: prediction that is interpolated: data (D) or noise (eps).
        eta: 0 for the ODE, 1 for the reverse SDE; data form only.
        clock: sigma -> the variable in which the interpolant is a polynomial.
        average: `exact` moments, or the published approximation of them.
    """

    form: str = "data"
    eta: float = 0.0
    clock: Clock = half_log_snr
    average: Average = exact

    def step(self, s: float, t: float, nodes: Sequence[float]) -> Step:
        """The step from level s to t with evaluations at the levels `nodes`.

        At t = 0 it uses only the newest node, `nodes[0]` = s.
        """
        if t == 0:
            return Step(0.0, (1.0,)) if self.form == "data" else Step(1.0, (-s,))
        rate = 1 + self.eta if self.form == "data" else -1.0
        h, start = np.log(s / t), self.clock(s)
        span = self.clock(t) - start
        place = (
            None
            if self.clock is half_log_snr
            else lambda w: (self.clock(s * np.exp(-h * w)) - start) / span
        )
        v = (self.clock(np.asarray(nodes)) - start) / span
        W = np.linalg.solve(
            np.vander(v, increasing=True).T, self.average(len(nodes), rate * h, place)
        )
        if self.form == "noise":
            return Step(1.0, tuple((t * W).tolist()))
        return Step(
            (t / s) ** rate, tuple(W.tolist()), t * float(np.sqrt(-np.expm1(-2 * self.eta * h)))
        )

    def predict(self, denoise: Denoise, x: Tensor, sigma: Tensor, level: float) -> Tensor:
        """D or eps at x (B, *shape) -> same; `level` is sigma as a number."""
        x0_hat = denoise(x, sigma)
        return x0_hat if self.form == "data" else (x - x0_hat) / level


Scheme = tuple[tuple[float, ...], Rule]


def _nodes(
    levels: tuple[float, ...], order: int, lower_order_final: bool
) -> list[tuple[float, ...]]:
    """The levels, newest first, whose evaluations each step uses."""
    steps = len(levels) - 1
    count = [min(order, steps - i) if lower_order_final else order for i in range(steps)]
    return [levels[max(0, i + 1 - count[i]) : i + 1][::-1] for i in range(steps)]


@functools.lru_cache(maxsize=256)
def _predictors(
    levels: tuple[float, ...], order: int, rule: Rule, lower_order_final: bool
) -> list[Step]:
    return [
        rule.step(s, t, nodes)
        for (s, t), nodes in zip(
            pairwise(levels), _nodes(levels, order, lower_order_final), strict=True
        )
    ]


@functools.lru_cache(maxsize=256)
def _correctors(
    levels: tuple[float, ...], order: int, rule: Rule, lower_order_final: bool
) -> list[Step]:
    steps = zip(pairwise(levels), _nodes(levels, order, lower_order_final), strict=True)
    return [Step(1.0, ()), *(rule.step(s, t, (t, *nodes)) for (s, t), nodes in steps if t > 0)]


@functools.lru_cache(maxsize=256)
def _stages(
    levels: tuple[float, ...], schemes: tuple[Scheme, ...]
) -> tuple[list[float], list[list[Step]]]:
    """The inner levels of all steps, and the stages of each step, up to its end."""
    inner, plan = [], []
    for (s, t), (fractions, rule) in zip(pairwise(levels), schemes, strict=False):
        inside = [] if t == 0 else [s ** (1 - r) * t**r for r in fractions]
        inner += inside
        plan.append(
            [
                rule.step(s, to, (s, *latest))
                for to, latest in zip([*inside, t], [(), *((m,) for m in inside)], strict=True)
            ]
        )
    return inner, plan


def multistep(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    generator: Generators,
    order: int,
    rule: Rule,
    lower_order_final: bool = False,
    single_start: bool = False,
) -> Iterator[Tensor]:
    """One evaluation a step, with a polynomial through the last `order` evaluations.

    The first steps have fewer evaluations to use, and so a lower order.

    Args:
        single_start: whether the first order - 1 steps are single steps of third order instead,
            of three evaluations each. Their error of h^4 keeps the order up to four.
        lower_order_final: whether a step uses no more evaluations than there are steps left, itself
            included; for stiff denoisers and few steps.
    """
    sigmas = sigmas.unique_consecutive()
    levels = tuple(sigmas.tolist())
    plan = _predictors(levels, order, rule, lower_order_final)
    starts = order - 1 if single_start else 0
    third = ((1 / 3, 2 / 3), Rule(rule.form))
    inner, singles = _stages(levels[: starts + 1], (third,) * starts)
    stages = iter(zip(sigmas.new_tensor(inner), inner, strict=True))
    past = deque[Tensor](maxlen=order)
    for i, ((sigma, s, _), step) in enumerate(zip(transitions(sigmas), plan, strict=True)):
        past.appendleft(rule.predict(denoise, x, sigma, s))
        if i < starts:
            x = _through(denoise, x, past[0], singles[i], stages, rule, generator)
        else:
            x = step(x, past, generator)
        yield x


def _through(
    denoise: Denoise,
    x: Tensor,
    value: Tensor,
    steps: Sequence[Step],
    stages: Iterator[tuple[Tensor, float]],
    rule: Rule,
    generator: Generators,
) -> Tensor:
    """One single step through its stages: x (B, *shape) and its evaluation -> x at the end."""
    *inside, last = steps
    values = [value]
    for step in inside:
        inner_sigma, level = next(stages)
        values[1:] = [rule.predict(denoise, step(x, values, generator), inner_sigma, level)]
    return last(x, values, generator)


def predictor_corrector(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    generator: Generators,
    order: int,
    corrector: int,
    rule: Rule,
    lower_order_final: bool = False,
) -> Iterator[Tensor]:
    """`multistep` that repeats each step once its end has been evaluated, at no extra evaluation.

    The repeated step uses the value at its end and `corrector` older ones.
    """
    sigmas = sigmas.unique_consecutive()
    levels = tuple(sigmas.tolist())
    predictors = _predictors(levels, order, rule, lower_order_final)
    correctors = _correctors(levels, corrector, rule, lower_order_final)
    past, start = deque[Tensor](maxlen=max(order, corrector + 1)), x
    for (sigma, s, _), predict, correct in zip(
        transitions(sigmas), predictors, correctors, strict=False
    ):
        past.appendleft(rule.predict(denoise, x, sigma, s))
        start = correct(start, past, generator)
        x = predict(start, past, generator)
        yield x


def singlestep(
    denoise: Denoise, x: Tensor, sigmas: Tensor, generator: Generators, *schemes: Scheme
) -> Iterator[Tensor]:
    """1 + len(fractions) evaluations a step, at s and at these fractions of h.

    Each stage interpolates the first and the latest evaluation.

    Args:
        schemes: (fractions, rule), one for all steps or one for each.
    """
    sigmas = sigmas.unique_consecutive()
    schemes = schemes * (len(sigmas) - 1) if len(schemes) == 1 else schemes
    inner, plan = _stages(tuple(sigmas.tolist()), schemes)
    stages = iter(zip(sigmas.new_tensor(inner), inner, strict=True))
    for (sigma, s, _), (_, rule), steps in zip(transitions(sigmas), schemes, plan, strict=False):
        value = rule.predict(denoise, x, sigma, s)
        x = _through(denoise, x, value, steps, stages, rule, generator)
        yield x


def mean_reverting(native: Denoise, mu: Tensor, spread: float) -> Denoise:
    """The denoiser, in our coordinate, of a process that reverts to mu.

        x_t = mu + alpha (x0 - mu) + spread sqrt(1 - alpha^2) z

    Args:
        native: (x_t, standard deviation of its noise) -> E[x0 | x_t].
        mu: (B, *shape), e.g. the degraded image.
        spread: stationary standard deviation. Sampling starts at mu + alpha^-1 spread z and ends
            at x0.

    Source: Luo et al., IR-SDE, ICML 2023; with any sampler it is the MR sampler, Li et al., ICLR
    2025.
    """

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        alpha = (1 + (sigma / spread) ** 2).rsqrt()
        return native(mu + alpha * (x - mu), alpha * sigma)

    return denoise
