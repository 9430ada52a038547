"""The referee: test a method's claim against exact posteriors; see `exact_cases`."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from inverse.checks.exact_cases import (
    PROBE,
    Figure,
    Reference,
    all_cases,
    figures,
    loss,
    main_figure,
    reference,
)
from inverse.engine import solve, versions
from inverse.errors import InputError, InverseError, OptionError, UnsupportedError
from inverse.execution import Cost
from inverse.measurement import operators
from inverse.method import Method, Weighted
from inverse.particles.cloud import ancestors
from inverse.posterior import Posterior
from inverse.registry.discovery import get_method
from inverse.registry.options import values
from inverse.sampling.options import get_sampler
from inverse.sampling.traits import traits
from inverse.seeding import Generators, SharedStream, check_seed, seeded

FACTORS = (0.25, 0.5, 1.0, 2.0)
"""Factors on the effort for the convergence order; a method that claims a limit also gets 4."""


RESPONSE_SAMPLES = 100
"""Samples for each y of `response`, whose noise mostly cancels."""


@dataclass(frozen=True)
class Measured:
    """The figures of a method on one case.

    Args:
        case: name of the case.
        figures: figures by name; empty if the case was skipped.
        cost: evaluations for each sample, by name.
        seconds: duration of all samples.
        skipped: why the method cannot run on the case, or None.
        failed: the error or the divergence on the case, or None.
    """

    case: str
    figures: dict[str, Figure] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    skipped: str | None = None
    failed: str | None = None


@dataclass(frozen=True)
class Verdict:
    """The result of `verify`.

    Args:
        method, options, claim: the method, its options and what it claims.
        cases: the figures on every case.
        effort: main figure on the probe case, by the factor on the options of the claim's limit.
        order: convergence order: the slope of the log loss above the floor against the log effort;
            None if the loss cannot be distinguished from the floor.
        batch: largest change of a sample caused by the other images of its batch, in posterior
            standard deviations; None if the method did not run.
        rotation: the main figure before and after multiplying y and A by an orthogonal matrix.
        independence: largest correlation of samples at a fixed distance in the batch, in standard
            deviations of independent ones; None for ensembles and point estimates.
        response: error of the mean's change with y and its standard error, both relative to the
            exact change, by factor on the effort; empty unless the claim is a limit.
        failures: why the claim, or an obligation of every method, does not hold; empty if all hold.
        unchecked: why nothing was checked, with what the method needs; None if something was.
        versions: versions of the packages that can change the figures.
    """

    method: str
    options: dict[str, Any]
    claim: str
    cases: list[Measured]
    effort: dict[float, float]
    order: float | None
    batch: float | None
    rotation: tuple[float, float] | None
    independence: float | None
    response: dict[float, tuple[float, float]]
    failures: list[str]
    unchecked: str | None
    versions: dict[str, str]

    @property
    def held(self) -> bool:
        """Whether the claim and the obligations of every method were checked and hold."""
        return self.outcome == "yes"

    @property
    def outcome(self) -> str:
        """Either "yes" if the claim holds, "no" if anything fails, "not checked" if no case ran."""
        return "no" if self.failures else "not checked" if self.unchecked else "yes"


def sample(
    method: Method, posterior: Posterior, samples: int, seed: int = 0
) -> tuple[Tensor, Cost, float]:
    """Draw samples without the records of `solve`; resample a weighted ensemble.

    Args:
        samples: samples for each measurement.

    Returns: samples (measurements * samples, d), measurement by measurement, physical units; their
    cost; and the duration in seconds.

    Raises: UnsupportedError if the method cannot run on the posterior, InputError if it diverges,
    and the errors of the method.
    """
    rows = posterior.rows(samples)
    if reason := method.unsupported(rows):
        raise UnsupportedError(reason)
    stream, started_at = seeded("verify", seed), time.perf_counter()
    with torch.no_grad():
        (answer,) = deque(method.run(rows, samples, SharedStream(stream, len(rows))), maxlen=1)
    seconds = time.perf_counter() - started_at
    x = answer.x if isinstance(answer, Weighted) else answer
    if not bool(x.isfinite().all()):
        raise InputError("the samples hold NaN or infinity")
    if isinstance(answer, Weighted) and answer.log_weights is not None:
        log_weights = answer.log_weights.double().unflatten(0, (len(posterior), samples))
        chosen = ancestors(log_weights, Generators([stream] * len(posterior)), samples)
        x = x[(chosen + samples * torch.arange(len(posterior))[:, None]).flatten()]
    return posterior.prior.decode(x).flatten(1).double(), rows.cost, seconds


def measure(method: Method, case: Reference, seed: int = 0) -> Measured:
    """The figures of a method on one case, or why the case was skipped or failed."""
    particles = getattr(method, "particles", None)
    if case.case.photographic and isinstance(particles, int):
        method = replace(method, **{"particles": max(particles, case.particles)})
    try:
        x, cost, seconds = sample(method, case.posterior, case.samples, seed)
    except UnsupportedError as error:
        return Measured(case.name, skipped=str(error))
    except Exception as error:  # of a plug-in: it fails this case, and the others go on
        return Measured(case.name, failed=_in_words(error))
    return Measured(
        case.name,
        {name: case.figure(name, value) for name, value in figures(case, x).items()},
        {k: getattr(cost, k) for k in ("nfe", "vjp", "A", "A_adjoint")},
        seconds,
    )


def _in_words(error: Exception) -> str:
    """The first line of an error, with its class unless the error is written for users."""
    lines = str(error).splitlines() or ["no message"]
    return lines[0] if isinstance(error, InverseError) else f"{type(error).__name__}: {lines[0]}"


def with_effort(method: Method, factor: float, samples: int = 1) -> Method:
    """The method with more or less effort: each option in `method.limit` is scaled by factor^power.

    Args:
        factor: factor on the effort.
        samples: smallest number of particles to start from.
    """
    names = {f.name.rstrip("_"): f.name for f in fields(method)}
    changed = {}
    for option, power in method.limit.items():
        if option in names:
            name = names[option]
            start = getattr(method, name)
            smallest = samples if option == "particles" else 0
            value = max(start, smallest) * factor**power
            changed[name] = max(1, round(value)) if isinstance(start, int) else value
    return replace(method, **changed)


def convergence_order(reference: Reference, curve: dict[float, float]) -> float | None:
    """Slope of the log loss against the log effort, with the floor subtracted in squares.

    Args:
        curve: main figure by factor on the effort.

    Returns: the order; None if fewer than two points are more than four standard deviations above
    the floor.
    """
    floor, deviation = reference.floors[main_figure(reference.case)]
    clear = {k: math.sqrt(v**2 - floor**2) for k, v in curve.items() if v > floor + 4 * deviation}
    if len(clear) < 2:
        return None
    k, v = torch.tensor(list(clear)).log(), torch.tensor(list(clear.values())).log()
    return -float(((k - k.mean()) * (v - v.mean())).sum() / (k - k.mean()).square().sum())


def batch_dependence(method: Method, reference: Reference) -> float | None:
    """Largest change of the samples of one measurement if it is solved alone instead of with two.

    Returns: the change in posterior standard deviations; None if the method cannot run.
    """
    truths = torch.stack(reference.problem.truths()[:3])
    posterior = reference.problem.posterior(truths, dtype=torch.float64)
    if method.unsupported(posterior):
        return None
    per_image = 8
    alone = Posterior(
        posterior.prior,
        posterior.operator,
        posterior.y[1:2],
        posterior.noise,
        shape=posterior.shape,
        dtype=torch.float64,
    )
    together = solve(posterior, method, samples=per_image).samples[1]
    single = solve(alone, method, samples=per_image, first_image=1).samples[0]
    return float((single - together).abs().max()) / (
        reference.unit / math.sqrt(together[0].numel())
    )


def independence(x: Tensor) -> float | None:
    """Largest correlation of samples at a fixed distance, in deviations of independent samples.

        r_L = sum_i <u_i, u_(i+L)> / sqrt(n d),    u whitened samples, indices modulo n

    Noise that pairs of samples share, adjacent or halves of the batch apart, shows at one L.

    Args:
        x: samples (n, d).

    Returns: max_L |r_L|; None if the samples have no spread or are too few to be whitened.
    """
    u = x - x.mean(0)
    U, spread, _ = torch.linalg.svd(u, full_matrices=False)
    if len(x) < 4 * x.shape[1] or float(spread.max()) <= 1e-9 * float(x.norm()):
        return None
    u = U[:, spread > 1e-6 * spread.max()] * math.sqrt(len(x))
    products = torch.fft.irfft(torch.fft.rfft(u, dim=0).abs().square().sum(1), n=len(u))
    lags = products[1 : len(u) // 2 + 1] / math.sqrt(u.numel())
    if len(u) % 2 == 0:  # half the batch apart, every product occurs twice
        lags[-1] /= math.sqrt(2)
    return float(lags.abs().max())


def response(
    method: Method, reference: Reference, samples: int, seed: int = 0
) -> tuple[float, float]:
    """Relative error of the change of the mean from one measurement to another, at the same seed.

    The noise that both runs share cancels, so that an error of the gain shows in few samples.

    Returns: |change - exact change| / |exact change|, and its standard error.
    """
    truths = torch.stack(reference.problem.truths()[:2])
    both = reference.problem.posterior(truths, dtype=torch.float64)
    means, runs = [], []
    for row in range(2):
        posterior = both.replaced(y=both.y[row : row + 1])
        runs.append(sample(method, posterior, samples, seed)[0])
        means.append(reference.problem.exact(both.y[row]).mean.flatten())
    change, exact = runs[1] - runs[0], means[1] - means[0]
    error = (change.mean(0) - exact).norm() / exact.norm()
    return float(error), float(change.std(0).norm() / exact.norm()) / math.sqrt(samples)


def rotated(reference: Reference, method: Method) -> Posterior:
    """The same posterior from Q A and Q y, with an orthogonal matrix Q.

    The operator is a function without singular values, unless the method needs them.
    """
    posterior = reference.posterior
    n = math.prod(posterior.shape)
    identity = torch.eye(n, dtype=torch.float64).reshape(n, *posterior.shape)
    A = posterior.operator.A(identity).flatten(1).T
    square = torch.randn(len(A), len(A), generator=seeded("rotation"), dtype=torch.float64)
    Q = torch.linalg.qr(square).Q
    y = posterior.y.flatten(1) @ Q.T

    def make(operator: Any, y: Tensor) -> Posterior:
        return Posterior(
            posterior.prior,
            operator,
            y,
            posterior.noise,
            shape=posterior.shape,
            dtype=torch.float64,
        )

    plain = make(operators.operator(lambda x: x.flatten(1) @ (Q @ A).T, shape=posterior.shape), y)
    if method.unsupported(plain) is None:
        return plain
    return make(
        operators.dense(Q @ A, posterior.shape, tuple(posterior.y.shape[1:])),
        y.reshape(posterior.y.shape),
    )


def verify(
    method: Method | str, samples: int = 1000, seed: int = 0, cases: Sequence[str] | None = None
) -> Verdict:
    """Test a method's claim on the cases with exact posteriors.

    Args:
        method: an instance, or a registered name for its default options.
        samples: samples on each case, at least 100.
        seed: random seed of the method.
        cases: names from `all_cases`; by default all.

    Returns: the figures, the convergence order, the dependence on batch and rotation, and every
    reason why the claim fails.

    Raises: OptionError for an unknown case or too few samples.
    """
    method = get_method(method) if isinstance(method, str) else method
    names = [case.name for case in all_cases()]
    cases = names if cases is None else cases
    if unknown := [name for name in cases if name not in names]:
        raise OptionError(
            f"verify: no case is called '{unknown[0]}'; the cases are {', '.join(names)}"
        )
    if samples < 100:
        raise OptionError(f"verify: samples must be at least 100 for a floor, got {samples}")
    check_seed(seed)
    measured = [measure(method, reference(name, samples), seed) for name in cases]
    probe = reference(PROBE, samples)
    name = main_figure(probe.case)
    curve: dict[float, float] = {}
    rotation = batch = apart = None
    gains: dict[float, tuple[float, float]] = {}
    failures: list[str] = []
    on_probe = next((m for m in measured if m.case == PROBE and m.figures), None) or measure(
        method, probe, seed
    )
    if on_probe.figures:
        curve = _effort_curve(method, on_probe, probe, samples, seed)
        try:
            batch = batch_dependence(method, probe)
        except Exception as error:
            failures.append(f"with another batch: {_in_words(error)}")
        try:
            x, _, _ = sample(method, rotated(probe, method), samples, seed)
            rotation = (on_probe.figures[name].value, figures(probe, x)[name])
            apart = independence(x) if _independent(method) else None
        except UnsupportedError:
            rotation = None
        except Exception as error:
            failures.append(f"after y and A are rotated: {_in_words(error)}")
        try:
            gains = _responses(method, probe, seed)
        except Exception as error:
            failures.append(f"with another y: {_in_words(error)}")
    verdict = Verdict(
        method.name,
        values(method),
        method.claim,
        measured,
        curve,
        convergence_order(probe, curve),
        batch,
        rotation,
        apart,
        gains,
        failures,
        None,
        versions(),
    )
    judged = _judged(method, verdict, samples)
    failures += _failures(method, verdict, judged, samples)
    return replace(verdict, unchecked=None if failures else _unchecked(verdict, judged))


def _effort_curve(
    method: Method, on_probe: Measured, probe: Reference, samples: int, seed: int
) -> dict[float, float]:
    """Main figure on the probe case by factor on the effort; empty for a method without limit.

    For a method that claims a limit, all points start from the same number of particles, at least
    `samples`: a smaller default would make the first point worse and so the limit easier.
    """
    if not set(method.limit) & set(values(method)):
        return {}
    curve, name = {}, main_figure(probe.case)
    for factor in (*FACTORS, 4.0) if method.claim == "exact in the limit" else FACTORS:
        try:
            scaled = with_effort(method, factor, samples)
        except OptionError:  # the method has no instance of so little effort
            continue
        same = factor == 1 and (scaled == method or method.claim != "exact in the limit")
        point = on_probe if same else measure(scaled, probe, seed)
        if point.figures:
            curve[factor] = point.figures[name].value
    return curve


def _independent(method: Method) -> bool:
    """Whether the samples of a method must be independent: neither a cloud nor an estimate."""
    return not hasattr(method, "particles") and method.claim != "point estimate"


def _responses(method: Method, probe: Reference, seed: int) -> dict[float, tuple[float, float]]:
    """`response` by factor on the effort, for a claim that holds in the limit and no cloud.

    Resampling differs from one y to another, so that the noise of a cloud does not cancel.
    """
    if method.claim != "exact in the limit" or not _independent(method):
        return {}
    return {
        factor: response(with_effort(method, factor), probe, RESPONSE_SAMPLES, seed)
        for factor in (1.0, 4.0)
    }


def _judged(
    method: Method, verdict: Verdict, samples: int
) -> list[tuple[Reference, dict[str, Figure]]]:
    """The cases that ran and that the claim covers, with the figures on each."""
    ran = [(reference(m.case, samples), m.figures) for m in verdict.cases if m.figures]
    return [(case, figure) for case, figure in ran if method.any_prior or case.case.gaussian]


def _unchecked(verdict: Verdict, judged: Sequence[Any]) -> str | None:
    """Why nothing was checked, or None.

    A claim needs a case that it covers. Without a claim, the checks of every method need the probe.
    """
    if judged if verdict.claim != "none" else verdict.batch is not None:
        return None
    cases = "case that its claim covers" if verdict.claim != "none" else f"case `{PROBE}`"
    reasons = dict.fromkeys(m.skipped.split(";")[0] for m in verdict.cases if m.skipped)
    return f"ran on no {cases}" + (f" ({'; '.join(reasons)})" if reasons else "")


def _failures(
    method: Method,
    verdict: Verdict,
    judged: Sequence[tuple[Reference, dict[str, Figure]]],
    samples: int,
) -> Iterator[str]:
    """What does not hold, in words; docs/verify.md states the rules."""
    for measured in verdict.cases:
        if measured.failed:
            yield f"{measured.case}: {measured.failed}"
    probe = reference(PROBE, samples)
    yield from _obligation_failures(verdict, probe)
    for case, figure in judged:
        yield from _claim_failures(verdict.claim, case, figure)
        if verdict.claim == "biased" and case.case.photographic:
            yield from _bias_failures(method.bias, case, figure)
    if judged and verdict.claim == "exact in the limit" and verdict.effort:
        yield from _limit_failures(verdict, probe)
        yield from _order_failures(method, verdict, probe)
        yield from _response_failures(verdict)


def _obligation_failures(verdict: Verdict, probe: Reference) -> Iterator[str]:
    """Failures of what every method must satisfy: independence of the batch and of rotations."""
    if verdict.batch is not None and verdict.batch > 1e-3:
        yield (
            f"a sample changes by {verdict.batch:.2g} standard deviations "
            "with the other images of its batch"
        )
    if verdict.rotation is not None:
        name = main_figure(probe.case)
        before, after = (loss(name, value) for value in verdict.rotation)
        if abs(after - before) > 0.1 * before + 5 * probe.floors[name][1]:
            yield (
                f"{name} is {before:.3g}, but {after:.3g} after y and A are rotated, which leaves "
                "the posterior unchanged: check the adjoint"
            )
    if verdict.independence is not None and verdict.independence > 6:
        yield (
            "samples at a fixed distance in the batch are correlated by "
            f"{verdict.independence:.2g} standard deviations of independent ones: check that each "
            "sample has its own noise"
        )


def _claim_failures(claim: str, case: Reference, measured: dict[str, Figure]) -> Iterator[str]:
    name = main_figure(case.case)
    figure, mean = measured[name], measured["mean"]
    if claim == "exact" and case.excess(name, figure.value) > 5:
        yield (
            f"{case.name}: claims to be exact, but {name} is {figure.value:.3g}, "
            f"and {figure.floor:.3g} for exact draws"
        )
    if claim in ("biased", "exact in the limit") and _ignores_data(figure):
        yield f"{case.name}: score {figure.score:.2f}, no better than ignoring the data"
    if claim == "point estimate" and _ignores_data(mean):
        yield f"{case.name}: the estimate is no nearer to the posterior mean than the prior's mean"


def _bias_failures(
    bias: dict[str, float], case: Reference, measured: dict[str, Figure]
) -> Iterator[str]:
    """Figures of a photographic case above what a biased method states."""
    for name, bound in bias.items():
        if name not in measured:
            yield f"{case.name}: `bias` bounds '{name}'; the figures are {', '.join(measured)}"
        elif measured[name].value > bound:
            yield f"{case.name}: {name} is {measured[name].value:.3g}, above the stated {bound:g}"


def _ignores_data(figure: Figure) -> bool:
    return figure.score is not None and figure.score >= 1


def _limit_failures(verdict: Verdict, probe: Reference) -> Iterator[str]:
    name = main_figure(probe.case)
    late = {factor: value for factor, value in verdict.effort.items() if factor >= 1}
    if 1.0 not in late or len(late) < 3:
        yield f"{PROBE}: claims to be exact in the limit, but does not run with more effort"
        return
    for (_, before), (factor, after) in pairwise(late.items()):
        if probe.excess(name, after) > 5 and after > 1.1 * before + 5 * probe.floors[name][1]:
            yield (
                f"{PROBE}: claims to be exact in the limit, but {name} rises from {before:.3g} "
                f"to {after:.3g} at x{factor:g} effort"
            )
    order = convergence_order(probe, late)
    if probe.excess(name, late[max(late)]) > 5 and (order is None or order < 0.25):
        points = ", ".join(f"x{factor:g} {value:.3g}" for factor, value in late.items())
        yield (
            f"{PROBE}: claims to be exact in the limit, "
            f"but {name} does not fall with effort: {points}"
        )


def _order_failures(method: Method, verdict: Verdict, probe: Reference) -> Iterator[str]:
    """A limit that is approached more slowly than the method's sampler does, by half an order."""
    sampler = getattr(method, "sampler", None)  # settings, such as churn, may lower the order
    if not isinstance(sampler, str) or ":" in sampler:
        return
    known = traits(get_sampler(sampler))
    declared = known.order if known else None
    late = {factor: value for factor, value in verdict.effort.items() if factor >= 1}
    order = convergence_order(probe, late)
    if declared and declared > 1 and order is not None and order < declared - 0.5:
        yield (
            f"{PROBE}: converges with order {order:.2f}, but its sampler {sampler} has order "
            f"{declared}: check the noise levels of its steps"
        )


def _response_failures(verdict: Verdict) -> Iterator[str]:
    """A mean that follows y with a gain whose error neither is below 1 % nor falls with effort."""
    if len(verdict.response) < 2:
        return
    (first, _), (last, deviation) = verdict.response[1.0], verdict.response[4.0]
    if last > 0.01 + 5 * deviation and last > first * 4**-0.25:
        yield (
            f"{PROBE}: claims to be exact in the limit, but the mean follows a change of y with an "
            f"error of {first:.2g}, {last:.2g} at x4 effort: check A and its adjoint"
        )
