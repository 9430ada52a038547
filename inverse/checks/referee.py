"""The referee: a method against posteriors that are known exactly, and its claim against what was measured; see `cases`."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from inverse.checks.cases import (
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
from inverse.errors import InverseError, OptionError
from inverse.execution import Cost
from inverse.measurement import operators
from inverse.method import Method, Weighted
from inverse.particles.cloud import ancestors
from inverse.posterior import Posterior
from inverse.registry.discovery import get_method
from inverse.registry.options import values
from inverse.seeding import Generators, SharedStream, check_seed, seeded

FACTORS = (0.25, 0.5, 1.0, 2.0)
"""Of the effort, for the order; a method that claims a limit is taken to 4 as well."""


@dataclass(frozen=True)
class Measured:
    """A method on one case.

    Args:
        case: name.
        figures: by name; empty if skipped.
        cost: evaluations per sample by name.
        seconds: for all samples.
        skipped: why there are no figures.
    """

    case: str
    figures: dict[str, Figure] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    skipped: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What `verify` found.

    Args:
        method, options, claim: the accused.
        cases: figures for every case.
        effort: factor on the options that the claim's limit is taken in, and the main figure of the probe case, floor included.
        order: slope of the log loss above the floor against the log effort, None where it cannot be told from the floor.
        batch: largest change of a sample through the other images of its batch, in posterior standard deviations; None if nothing ran.
        rotation: the main figure, and that after y and A were multiplied by one orthogonal matrix, through A and its adjoint alone.
        failures: why the claim or an obligation of every method does not hold; empty if all do.
        versions: of what decides the figures.
    """

    method: str
    options: dict[str, Any]
    claim: str
    cases: list[Measured]
    effort: dict[float, float]
    order: float | None
    batch: float | None
    rotation: tuple[float, float] | None
    failures: list[str]
    versions: dict[str, str]

    @property
    def held(self) -> bool:
        return not self.failures


def sample(
    method: Method, posterior: Posterior, samples: int, seed: int = 0
) -> tuple[Tensor, Cost, float]:
    """Final samples of each measurement, one after the other (measurements * samples, d), physical units, a weighted ensemble resampled; the cost; and seconds.

    Raises: OptionError with the reason if the method cannot run here or diverges.
    """
    rows = posterior.rows(samples)
    if reason := method.unsupported(rows):
        raise OptionError(reason)
    stream, began = seeded("verify", seed), time.perf_counter()
    with torch.no_grad():
        (answer,) = deque(method.run(rows, samples, SharedStream(stream, len(rows))), maxlen=1)
    seconds = time.perf_counter() - began
    x = answer.x if isinstance(answer, Weighted) else answer
    if not bool(x.isfinite().all()):
        raise OptionError(f"{method.name} diverged")
    if isinstance(answer, Weighted) and answer.log_weights is not None:
        log_weights = answer.log_weights.double().unflatten(0, (len(posterior), samples))
        chosen = ancestors(log_weights, Generators([stream] * len(posterior)), samples)
        x = x[(chosen + samples * torch.arange(len(posterior))[:, None]).flatten()]
    return posterior.prior.decode(x).flatten(1).double(), rows.cost, seconds


def measure(method: Method, made: Reference, samples: int, seed: int = 0) -> Measured:
    """All figures of a method on one case, or why there are none."""
    try:
        x, cost, seconds = sample(method, made.posterior, samples, seed)
    except InverseError as error:
        return Measured(made.case.name, skipped=str(error))
    found = {name: made.figure(name, value) for name, value in figures(made, x).items()}
    return Measured(
        made.case.name,
        found,
        {k: getattr(cost, k) for k in ("nfe", "vjp", "A", "A_adjoint")},
        seconds,
    )


def at_effort(method: Method, factor: float, samples: int = 1) -> Method:
    """The method with each option in `method.limit` multiplied by factor to its power; a cloud starts from at least `samples` particles."""
    known = {f.name.rstrip("_"): f for f in fields(method)}
    changed = {}
    for option, power in method.limit.items():
        if option in known:
            value = (
                max(getattr(method, known[option].name), samples if option == "particles" else 0)
                * factor**power
            )
            changed[known[option].name] = (
                max(1, round(value))
                if isinstance(getattr(method, known[option].name), int)
                else value
            )
    return replace(method, **changed)


def order(made: Reference, curve: dict[float, float]) -> float | None:
    """Slope of log loss over log effort, squares of the floor removed, over the points that stand clear of it."""
    name = main_figure(made.case)
    floor, deviation = made.floors[name]
    clear = {k: math.sqrt(v**2 - floor**2) for k, v in curve.items() if v > floor + 4 * deviation}
    if len(clear) < 2:
        return None
    k, v = torch.tensor(list(clear)).log(), torch.tensor(list(clear.values())).log()
    return -float(((k - k.mean()) * (v - v.mean())).sum() / (k - k.mean()).square().sum())


def batch_dependence(method: Method, made: Reference) -> float | None:
    """Largest change of the samples of one measurement of three when it is solved alone, in posterior standard deviations; None if the method cannot run."""
    posterior = made.problem.posterior(torch.stack(made.problem.truths()[:3]), dtype=torch.float64)
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
    return float((single - together).abs().max()) / (made.unit / math.sqrt(together[0].numel()))


def rotated(made: Reference, method: Method) -> Posterior:
    """The same posterior seen through Q A and Q y, Q orthogonal: as a bare function with its adjoint, or with singular values if the method needs them."""
    posterior = made.posterior
    n = math.prod(posterior.shape)
    A = (
        posterior.operator.A(torch.eye(n, dtype=torch.float64).reshape(n, *posterior.shape))
        .flatten(1)
        .T
    )
    Q = torch.linalg.qr(
        torch.randn(len(A), len(A), generator=seeded("rotation"), dtype=torch.float64)
    ).Q
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
    """Hold a method to its claim on the closed-form cases.

    Args:
        method: an instance, or a registered name for its defaults.
        samples: on each case.
        seed: of the method's randomness.
        cases: names from `all_cases`; by default all.

    Returns: figures, order, batch and rotation invariance, and every reason why the claim fails.
    """
    method = get_method(method) if isinstance(method, str) else method
    known = [case.name for case in all_cases()]
    cases = known if cases is None else cases
    if unknown := [name for name in cases if name not in known]:
        raise OptionError(f"verify: no case is called '{unknown[0]}'; there are {', '.join(known)}")
    if samples < 100:
        raise OptionError(f"verify: a floor needs at least 100 samples, got {samples}")
    check_seed(seed)
    measured = [measure(method, reference(name, samples), samples, seed) for name in cases]
    probe = reference(PROBE, samples)
    name = main_figure(probe.case)
    curve: dict[float, float] = {}
    rotation = batch = None
    ran = next((m for m in measured if m.case == PROBE and m.figures), None) or measure(
        method, probe, samples, seed
    )
    if ran.figures:
        if method.limit and set(method.limit) & set(values(method)):
            for factor in (*FACTORS, 4.0) if method.claim == "exact in the limit" else FACTORS:
                again = (
                    ran
                    if factor == 1
                    else measure(at_effort(method, factor, samples), probe, samples, seed)
                )
                if again.figures:
                    curve[factor] = again.figures[name].value
        batch = batch_dependence(method, probe)
        x, _, _ = sample(method, rotated(probe, method), samples, seed)
        rotation = (ran.figures[name].value, figures(probe, x)[name])
    verdict = Verdict(
        method.name,
        values(method),
        method.claim,
        measured,
        curve,
        order(probe, curve),
        batch,
        rotation,
        [],
        versions(),
    )
    return replace(verdict, failures=list(_failures(method, verdict, samples)))


def _failures(method: Method, verdict: Verdict, samples: int) -> Iterator[str]:
    """What does not hold, in words; see docs/verify.md for the rules."""
    ran = [m for m in verdict.cases if m.figures]
    judged = [
        (reference(m.case, samples), m.figures)
        for m in ran
        if method.any_prior or reference(m.case, samples).case.gaussian
    ]
    if not judged and verdict.claim == "none":
        return
    if not judged:
        yield f"ran on none of the cases that its claim speaks of ({'; '.join({m.skipped for m in verdict.cases if m.skipped})})"
        return
    if verdict.batch is not None and verdict.batch > 1e-3:
        yield f"a sample moves by {verdict.batch:.2g} standard deviations with the other images of its batch"
    probe = reference(PROBE, samples)
    name = main_figure(probe.case)
    if verdict.rotation is not None:
        here, turned = (loss(name, v) for v in verdict.rotation)
        if abs(turned - here) > 0.1 * here + 5 * probe.floors[name][1]:
            yield f"{name} is {here:.3g}, and {turned:.3g} after y and A are rotated, which the posterior does not notice: look at the adjoint"
    for made, found in judged:
        name = main_figure(made.case)
        figure = found[name]
        if verdict.claim == "exact" and made.excess(name, figure.value) > 5:
            yield f"{made.case.name}: claims to be exact, {name} is {figure.value:.3g} where exact draws have {figure.floor:.3g}"
        if (
            verdict.claim in ("biased", "exact in the limit")
            and figure.score is not None
            and figure.score >= 1
        ):
            yield f"{made.case.name}: score {figure.score:.2f}, no better than ignoring the data"
        mean = found["mean"]
        if verdict.claim == "point estimate" and mean.score is not None and mean.score >= 1:
            yield f"{made.case.name}: its point is no nearer to the posterior mean than the prior's mean"
    if verdict.claim == "exact in the limit" and verdict.effort:
        late = {k: v for k, v in verdict.effort.items() if k >= 1}
        steady = order(probe, late)
        if probe.excess(name := main_figure(probe.case), late[max(late)]) > 5 and (
            steady is None or steady < 0.25
        ):
            yield (
                f"{PROBE}: claims to be exact in the limit, {name} does not fall with effort: "
                + ", ".join(f"x{k:g} {v:.3g}" for k, v in late.items())
            )
