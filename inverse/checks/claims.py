"""The referee: test a method's claim against exact posteriors; see `exact_cases`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

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
from inverse.checks.trials import (
    Measured,
    batch_dependence,
    convergence_order,
    in_words,
    independence,
    measure,
    response,
    rotated,
    sample,
    with_effort,
)
from inverse.engine import versions
from inverse.errors import OptionError, UnsupportedError
from inverse.method import Method
from inverse.registry.discovery import get_method
from inverse.registry.options import values
from inverse.sampling.options import get_sampler
from inverse.sampling.traits import traits
from inverse.seeding import check_seed

FACTORS = (0.5, 1.0, 2.0)
"""Factors on the effort for the convergence order of a method that claims no limit."""

LIMIT_FACTORS = (1.0, 2.0, 4.0, 8.0)
"""Factors on the effort at which a limit is judged, from the method's own options outwards."""

PRIOR_MARGIN = 0.1
"""By how much a loss may exceed the prior's where y says little, for errors of the sampler."""

LITTLE, MUCH = 0.35, 1.2
"""Advantages of exact draws over the prior below which y says little, and not much."""

ESTIMATE_SAMPLES = 40
"""Largest number of samples of a method that claims a point estimate."""

CLOUD_SAMPLES = 250
"""Samples and smallest number of particles at which the limit of a cloud is judged."""

SHARP = ("whitened mean", "whitened spread")
"""Figures with small floors, on which a limit is judged too."""

SHARP_ORDER = 0.15
"""Order at which they must fall, floor included."""

RESPONSE_SAMPLES = 100
"""Samples for each y of `response`, whose noise mostly cancels."""


@dataclass(frozen=True)
class Verdict:
    """The result of `verify`.

    Args:
        method, options, claim: the method, its options and what it claims.
        cases: the figures on every case.
        effort: main figure on the probe case, by the factor on the options of the claim's limit.
        sharp: errors of the whitened mean and spread on the probe case, by figure and by factor on
            the effort; empty for a cloud or without a limit.
        order: convergence order: the slope of the log loss above the floor against the log effort;
            None if the loss cannot be distinguished from the floor.
        batch: largest change of a sample caused by the other images of its batch, in posterior
            standard deviations; None if the method did not run.
        rotation: the main figure before and after multiplying y and A by an orthogonal matrix.
        independence: largest correlation of samples at a fixed distance in the batch, in standard
            deviations of independent ones; None for ensembles and point estimates.
        response: error of the mean's change with y and its standard error, both relative to the
            exact change, by factor on the effort; empty unless the claim is a limit.
        errors: what failed outside the cases: with another batch, rotation or y.
        failures: why the claim, or an obligation of every method, does not hold; empty if all hold.
        unchecked: why nothing was checked, with what the method needs; None if something was.
        versions: versions of the packages that can change the figures.
    """

    method: str
    options: dict[str, Any]
    claim: str
    cases: list[Measured]
    effort: dict[float, float]
    sharp: dict[str, dict[float, float]]
    order: float | None
    batch: float | None
    rotation: tuple[float, float] | None
    independence: float | None
    response: dict[float, tuple[float, float]]
    errors: list[str]
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


def verify(
    method: Method | str,
    samples: int = 1000,
    seed: int = 0,
    cases: Sequence[str] | None = None,
    thorough: bool = False,
    known: Mapping[str, Measured] | None = None,
    observe: Callable[[Measured], object] | None = None,
) -> Verdict:
    """Test a method's claim on the cases with exact posteriors.

    Args:
        method: an instance, or a registered name for its default options.
        samples: samples on each case, at least 100.
        seed: random seed of the method.
        cases: names from `all_cases`; by default all, without the thorough ones.
        thorough: whether the thorough cases are among the default.
        known: cases that an interrupted run has measured, by name.
        observe: called with the figures of each other case.

    Returns: the figures, the convergence order, the dependence on batch and rotation, and every
    reason why the claim fails.

    Raises: OptionError for an unknown case or too few samples.
    """
    method = get_method(method) if isinstance(method, str) else method
    names = [case.name for case in all_cases()]
    if cases is None:
        cases = [case.name for case in all_cases() if thorough or not case.thorough]
    if unknown := [name for name in cases if name not in names]:
        raise OptionError(
            f"verify: no case is called '{unknown[0]}'; the cases are {', '.join(names)}"
        )
    if samples < 100:
        raise OptionError(f"verify: samples must be at least 100 for a floor, got {samples}")
    check_seed(seed)
    samples = _enough(method, samples)
    measured = []
    for case in cases:
        found = (known or {}).get(case)
        if found is None:
            found = measure(method, reference(case, samples), seed)
            if observe is not None:
                observe(found)
        measured.append(found)
    probe = reference(PROBE, samples)
    name = main_figure(probe.case)
    curve: dict[float, float] = {}
    sharp: dict[str, dict[float, float]] = {}
    rotation = batch = apart = None
    gains: dict[float, tuple[float, float]] = {}
    errors: list[str] = []
    on_probe = next((m for m in measured if m.case == PROBE and m.figures), None) or measure(
        method, probe, seed
    )
    if on_probe.figures:
        points = _effort_curve(method, on_probe, samples, seed)
        curve = {factor: point.figures[name].value for factor, point in points.items()}
        if method.claim == "exact in the limit" and _independent(method):
            sharp = {
                key: {f: loss(key, point.figures[key].value) for f, point in points.items()}
                for key in SHARP
            }
        try:
            batch = batch_dependence(method, probe)
        except Exception as error:
            errors.append(f"with another batch: {in_words(error)}")
        try:
            x, _, _ = sample(method, rotated(probe, method), samples, seed)
            rotation = (on_probe.figures[name].value, figures(probe, x)[name])
            chosen, _ = method.chosen(probe.posterior, samples)
            apart = independence(x) if _independent(chosen) else None
        except UnsupportedError:
            rotation = None
        except Exception as error:
            errors.append(f"after y and A are rotated: {in_words(error)}")
        try:
            gains = _responses(method, probe, seed)
        except Exception as error:
            errors.append(f"with another y: {in_words(error)}")
    verdict = Verdict(
        method.name,
        values(method),
        method.claim,
        measured,
        curve,
        sharp,
        convergence_order(_limit_probe(method, samples), curve),
        batch,
        rotation,
        apart,
        gains,
        errors,
        [],
        None,
        versions(),
    )
    return judge(method, verdict, samples)


def judge(method: Method, verdict: Verdict, samples: int = 1000) -> Verdict:
    """A verdict with the failures that follow from its figures.

    Args:
        samples: samples on each case that the figures come from.
    """
    samples = _enough(method, samples)
    judged = _judged(method, verdict, samples)
    failures = verdict.errors + list(_failures(method, verdict, judged, samples))
    unchecked = None if failures else _unchecked(verdict, judged)
    return replace(verdict, failures=failures, unchecked=unchecked)


def _enough(method: Method, samples: int) -> int:
    """The number of samples; estimates, which have little spread or none, need few."""
    return min(samples, ESTIMATE_SAMPLES) if method.claim == "point estimate" else samples


def _limit_probe(method: Method, samples: int) -> Reference:
    """The probe on which a limit is judged."""
    cloud = hasattr(method, "particles")
    return reference(PROBE, min(samples, CLOUD_SAMPLES) if cloud else samples)


def _effort_curve(
    method: Method, on_probe: Measured, samples: int, seed: int
) -> dict[float, Measured]:
    """The probe case by factor on the effort; empty for a method without limit.

    For a method that claims a limit, all points start from the same number of particles, at least
    as many as the samples: a smaller default would make the first point worse and so the limit
    easier.
    """
    probe = _limit_probe(method, samples)
    samples = probe.samples
    if with_effort(method, 2.0, samples) == with_effort(method, 1.0, samples):
        return {}
    curve, name = {}, main_figure(probe.case)
    known = on_probe.figures[name].floor == probe.figure(name, 0.0).floor
    for factor in LIMIT_FACTORS if method.claim == "exact in the limit" else FACTORS:
        try:
            scaled = with_effort(method, factor, samples)
        except OptionError:  # the method has no instance of so little effort
            continue
        same = factor == 1 and (scaled == method or method.claim != "exact in the limit")
        point = on_probe if same and known else measure(scaled, probe, seed)
        if point.figures:
            curve[factor] = point
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
    """The cases that ran and that the claim covers, with the figures on each.

    A claim covers Gaussian laws, and every law if the method says so. A bias and an estimate are
    also judged on laws of photographs.
    """
    ran = [(reference(m.case, samples), m.figures) for m in verdict.cases if m.figures]
    images = method.claim in ("biased", "point estimate")  # whose purpose are photographs
    return [
        (made, figure)
        for made, figure in ran
        if method.any_prior or made.case.gaussian or (images and made.case.photographic)
    ]


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
        if _collapsed(method, measured):
            yield (
                f"{measured.case}: {measured.distinct} different samples, and no note of the "
                "method says that its cloud has collapsed"
            )
    probe = reference(PROBE, samples)
    yield from _obligation_failures(verdict, probe)
    for case, figure in judged:
        yield from _claim_failures(method, case, figure)
        if verdict.claim == "biased" and case.case.photographic and case.case.gaussian:
            yield from _bias_failures(method.bias, case, figure)
    if judged and verdict.claim == "exact in the limit" and verdict.effort:
        yield from _limit_failures(verdict, _limit_probe(method, samples))
        yield from _order_failures(method, verdict, probe)
        yield from _response_failures(verdict)
        yield from _sharp_failures(verdict, probe)


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


def _collapsed(method: Method, measured: Measured) -> bool:
    """Whether a cloud has shrunk to a few particles, unlike an estimate, and does not say so."""
    few = 0 < measured.distinct <= 3
    return (
        few
        and hasattr(method, "particles")
        and method.claim != "point estimate"
        and not measured.notes
    )


def _claim_failures(method: Method, case: Reference, measured: dict[str, Figure]) -> Iterator[str]:
    name, claim = main_figure(case.case), method.claim
    figure, mean = measured[name], measured["mean"]
    if claim == "exact" and case.excess(name, figure.value) > 5:
        yield (
            f"{case.name}: claims to be exact, but {name} is {figure.value:.3g}, "
            f"and {figure.floor:.3g} for exact draws"
        )
    excess = method.bias.get("excess", 0.0)
    if claim in ("biased", "exact in the limit") and _ignores_data(case, name, figure, excess):
        allowed = f" and the stated excess of {excess:g}" if excess else ""
        yield (
            f"{case.name}: {name} is {figure.value:.3g}, no better than ignoring the data, "
            f"{figure.prior:.3g}{allowed}"
        )
    if claim == "point estimate" and _ignores_data(case, "mean", mean, excess):
        yield f"{case.name}: the estimate is no nearer to the posterior mean than the prior's mean"


def _bias_failures(
    bias: dict[str, float], case: Reference, measured: dict[str, Figure]
) -> Iterator[str]:
    """Figures of a Gaussian photographic case above what a biased method states."""
    for name, bound in bias.items():
        if name == "excess":
            continue
        if name not in measured:
            yield f"{case.name}: `bias` bounds '{name}'; the figures are {', '.join(measured)}"
        elif measured[name].value > bound:
            yield f"{case.name}: {name} is {measured[name].value:.3g}, above the stated {bound:g}"


def _ignores_data(case: Reference, name: str, figure: Figure, excess: float = 0.0) -> bool:
    """Whether a loss is that of the prior or more.

    Where y says little the loss may be larger by a margin, for errors of the sampler, and where it
    does not say much by the excess that the method states: there every bias shows.
    """
    advantage, allowed = figure.prior - figure.floor, 0.0
    if figure.score is None or advantage < LITTLE:
        allowed = PRIOR_MARGIN + 5 * case.floors[name][1]
    if figure.score is None or advantage < MUCH:
        allowed = max(allowed, excess)
    return figure.value >= figure.prior + allowed


def _limit_failures(verdict: Verdict, probe: Reference) -> Iterator[str]:
    name = main_figure(probe.case)
    late = {factor: value for factor, value in verdict.effort.items() if factor >= 1}
    if 1.0 not in late or len(late) < 4:
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


def _sharp_failures(verdict: Verdict, probe: Reference) -> Iterator[str]:
    """A mean or a spread that exact draws do not have, and that more effort does not approach."""
    for name, curve in verdict.sharp.items():
        first, last = next(iter(curve.values())), list(curve.values())[-1]
        mean, deviation = probe.floors[name]
        if last > mean + 6 * deviation and last > first * max(curve) ** -SHARP_ORDER:
            points = ", ".join(f"x{factor:g} {value:.2g}" for factor, value in curve.items())
            yield (
                f"{PROBE}: claims to be exact in the limit, but the error of the {name} stays: "
                f"{points}, where exact draws have {mean:.2g}"
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
