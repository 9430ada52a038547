"""Trials of a method on a case: its samples, their figures, and what changes them."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from inverse.checks.exact_cases import (
    Figure,
    Reference,
    figures,
    main_figure,
    noisy_distance,
)
from inverse.engine import solve
from inverse.errors import InputError, InverseError, OperatorError, UnsupportedError
from inverse.execution import Cost
from inverse.measurement import operators
from inverse.method import Method, Weighted
from inverse.particles.cloud import ancestors
from inverse.posterior import Posterior
from inverse.priors.prior import Prior
from inverse.result import collapse_notes
from inverse.seeding import Generators, SharedStream, seeded

PATH_LEVELS = 16
"""Largest number of noise levels at which the path of a method is compared with the exact one."""


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
        notes: what the method says about its samples.
        distinct: number of different samples.
        path: on a Gaussian photographic case, the marginal W2 to the exact law of x0 + sigma n at
            the noise levels that the method passes, see `noisy_distance`.
    """

    case: str
    figures: dict[str, Figure] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    skipped: str | None = None
    failed: str | None = None
    notes: list[str] = field(default_factory=list)
    distinct: int = 0
    path: dict[float, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Draws:
    """Samples of a method without the records of `solve`.

    Args:
        x: samples (measurements * samples, d), measurement by measurement, physical units; a
            weighted ensemble is resampled.
        cost: evaluations.
        seconds: duration.
        notes: that a cloud has collapsed.
        path: noise levels at which the method evaluated the prior last, from the highest down, and
            its iterates there (measurements * samples, d), model units; empty unless recorded.
    """

    x: Tensor
    cost: Cost
    seconds: float
    notes: list[str]
    path: list[tuple[float, Tensor]]


def draw(
    method: Method, posterior: Posterior, samples: int, seed: int = 0, recorded: bool = False
) -> Draws:
    """Run a method.

    Args:
        samples: samples for each measurement.
        recorded: whether to keep the path.

    Raises: UnsupportedError if the method cannot run on the posterior, InputError if it diverges,
    and the errors of the method.
    """
    rows = posterior.rows(samples)
    if reason := method.unsupported(rows):
        raise UnsupportedError(reason)
    stream, started_at = seeded("verify", seed), time.perf_counter()
    particles = getattr(method, "particles", samples)
    sizes = {len(posterior) * n for n in (samples, particles)} if recorded else set()
    with torch.no_grad(), _path(rows.prior, sizes) as path:
        (answer,) = deque(method.run(rows, samples, SharedStream(stream, len(rows))), maxlen=1)
    seconds = time.perf_counter() - started_at
    x, notes = (answer.x if isinstance(answer, Weighted) else answer), []
    if not bool(x.isfinite().all()):
        raise InputError("the samples hold NaN or infinity")
    if isinstance(answer, Weighted):
        notes = collapse_notes(method.name, answer.trace)
    if isinstance(answer, Weighted) and answer.log_weights is not None:
        log_weights = answer.log_weights.double().unflatten(0, (len(posterior), samples))
        chosen = ancestors(log_weights, Generators([stream] * len(posterior)), samples)
        x = x[(chosen + samples * torch.arange(len(posterior))[:, None]).flatten()]
    return Draws(
        posterior.prior.decode(x).flatten(1).double(), rows.cost, seconds, notes, list(path)
    )


@contextmanager
def _path(prior: Prior, sizes: set[int]) -> Iterator[list[tuple[float, Tensor]]]:
    """Record the iterates at which a prior is evaluated, of so many rows; none for no sizes.

    An iterate is kept if no later one has a higher noise level: of a method that denoises from
    every level down to 0, the iterates of the outer loop remain. Particles are kept without their
    weights.
    """
    path: list[tuple[float, Tensor]] = []

    def keep(_: Any, arguments: tuple[Any, ...]) -> None:
        x, level = arguments[0], float(torch.as_tensor(arguments[1]).detach().max())
        if len(x) not in sizes:
            return
        while path and path[-1][0] <= level:
            path.pop()
        path.append((level, torch.as_tensor(x).detach().flatten(1).clone()))

    if not sizes:
        yield path
        return
    hook = prior.register_forward_pre_hook(keep)
    try:
        yield path
    finally:
        hook.remove()


def sample(
    method: Method, posterior: Posterior, samples: int, seed: int = 0
) -> tuple[Tensor, Cost, float]:
    """Samples, cost and duration of `draw`."""
    drawn = draw(method, posterior, samples, seed)
    return drawn.x, drawn.cost, drawn.seconds


def measure(method: Method, case: Reference, seed: int = 0) -> Measured:
    """The figures of a method on one case, or why the case was skipped or failed."""
    particles = getattr(method, "particles", None)
    if case.case.photographic and isinstance(particles, int):
        method = replace(method, **{"particles": max(particles, case.particles)})
    recorded = case.case.photographic and case.case.gaussian
    try:
        drawn = draw(method, case.posterior, case.samples, seed, recorded)
    except (UnsupportedError, OperatorError) as error:  # a refusal in words, of A = 0 for example
        return Measured(case.name, skipped=str(error))
    except Exception as error:  # of a plug-in: it fails this case, and the others go on
        return Measured(case.name, failed=in_words(error))
    every = max(1, math.ceil(len(drawn.path) / PATH_LEVELS))
    return Measured(
        case.name,
        {name: case.figure(name, value) for name, value in figures(case, drawn.x).items()},
        {k: getattr(drawn.cost, k) for k in ("nfe", "vjp", "A", "A_adjoint")},
        drawn.seconds,
        notes=drawn.notes,
        distinct=len(drawn.x.unique(dim=0)),
        path={
            level: noisy_distance(case, x, level) for level, x in drawn.path[::-1][::every][::-1]
        },
    )


def in_words(error: Exception) -> str:
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
        start = getattr(method, names[option]) if option in names else None
        if start is not None:  # an option that the method chooses itself has no effort
            name = names[option]
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
