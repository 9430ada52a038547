"""Posteriors that are known exactly, and the figures of samples of them.

Every figure stands beside its floor, the same figure of exact draws of equal number, and beside the prior's, the figure of who
never looked at y. In between lies

    score = (loss - floor) / (prior - floor):    0 is exact, 1 is no use of the data, more is worse than none.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from inverse.checks import distances
from inverse.posterior import Posterior
from inverse.priors.analytic import Exact, MixturePrior
from inverse.problem import Problem
from inverse.registry.discovery import get_problem, registry
from inverse.seeding import seeded

TARGETS = {"spread": 1.0, "cover 50 %": 0.5, "cover 90 %": 0.9}
"""What an exact sampler would show; every other figure is an error, as small as its floor allows."""
REPEATS = 20  # sets of exact draws behind a floor


@dataclass(frozen=True)
class Case:
    """A problem with a closed-form posterior.

    Args:
        name: of the case.
        problem: registered name.
        options: of the problem.
        gaussian: whether the posterior is Gaussian.
    """

    name: str
    problem: str
    options: dict[str, Any] = field(default_factory=dict)
    gaussian: bool = True


PROBE = "random"
"""The case on which order, independence of the batch and invariance to rotations are tested."""


@functools.cache
def all_cases() -> tuple[Case, ...]:
    """The cases that registered problems declare: Gaussian posteriors first, the problem of the probe before the others."""
    found = []
    for name, entry in registry().table("inverse_problems").items():
        for case, options in entry.thing.cases.items():
            law = get_problem(name, **options).make_prior()
            gaussian = not (isinstance(law, MixturePrior) and len(law.weights) > 1)
            found.append(
                (not gaussian, PROBE not in entry.thing.cases, Case(case, name, options, gaussian))
            )
    return tuple(case for *_, case in sorted(found, key=lambda row: row[:2]))


@dataclass(frozen=True)
class Figure:
    """One figure of a method, with its floor and the prior's, and the score between them; None where the prior is as good as the floor."""

    value: float
    floor: float
    prior: float
    score: float | None


@dataclass(frozen=True)
class Reference:
    """A case made ready: its posterior, the exact answer, draws of it, and the figures of exact draws and of the prior."""

    case: Case
    posterior: Posterior
    problem: Problem
    exact: Exact
    draws: Tensor
    floors: dict[str, tuple[float, float]]
    """Mean and standard deviation of the loss of exact draws."""
    values: dict[str, float]
    prior: dict[str, float]

    @property
    def mean(self) -> Tensor:
        return self.exact.mean.flatten()

    @functools.cached_property
    def covariance(self) -> Tensor:
        return self.exact.covariance

    @functools.cached_property
    def unit(self) -> float:
        """Root of the posterior's total variance."""
        return float(self.covariance.trace().sqrt())

    def excess(self, name: str, value: float) -> float:
        """How many standard deviations of the floor the loss lies above it."""
        mean, deviation = self.floors[name]
        return (loss(name, value) - mean) / max(deviation, 1e-12)

    def figure(self, name: str, value: float) -> Figure:
        floor, deviation = self.floors[name]
        room = loss(name, self.prior[name]) - floor
        score = (loss(name, value) - floor) / room if room > 5 * deviation else None
        return Figure(value, self.values[name], self.prior[name], score)


def loss(name: str, value: float) -> float:
    """Distance of a figure from what it should be."""
    return abs(value - TARGETS.get(name, 0.0))


def main_figure(case: Case) -> str:
    """The figure that a claim is judged by: W2 for a Gaussian posterior, else sliced W1."""
    return "W2" if case.gaussian else "sliced W1"


@functools.cache
def reference(name: str, samples: int) -> Reference:
    """A case of `all_cases` with everything that does not depend on the method."""
    case = next(c for c in all_cases() if c.name == name)
    problem = get_problem(case.problem, **case.options)
    posterior = problem.posterior(0, dtype=torch.float64)
    made: Reference = Reference(
        case, posterior, problem, problem.exact(posterior.y[0]), torch.empty(0), {}, {}, {}
    )
    stream = seeded("verify", name)
    made = replace(made, draws=made.exact.sample(4 * samples, stream).flatten(1))
    exact_rows = [
        figures(made, made.exact.sample(samples, stream).flatten(1)) for _ in range(REPEATS)
    ]
    law = problem.make_prior()
    if any(n is None for n in law.shape):
        law = law.sized(*posterior.shape[-2:])
    prior_rows = [
        figures(made, law.decode(law.sample(samples, stream)).flatten(1)) for _ in range(4)
    ]
    mean = lambda rows, name: sum(row[name] for row in rows) / len(rows)  # noqa: E731
    floors = {}
    for key in exact_rows[0]:
        losses = torch.tensor([loss(key, row[key]) for row in exact_rows])
        floors[key] = (float(losses.mean()), float(losses.std()))
    return replace(
        made,
        floors=floors,
        values={k: mean(exact_rows, k) for k in floors},
        prior={k: mean(prior_rows, k) for k in floors},
    )


def figures(made: Reference, x: Tensor) -> dict[str, float]:
    """Every figure of samples (n, d) in physical units.

    Lengths are in units of the root of the posterior's total variance, per coordinate for sliced W1 and CRPS.
    """
    mean, covariance, per_coordinate = x.mean(0), x.T.cov(), made.unit / math.sqrt(x.shape[1])
    found = (
        {"W2": distances.gaussian_w2(mean, covariance, made.mean, made.covariance) / made.unit}
        if made.case.gaussian
        else {}
    )
    found |= {
        "sliced W1": distances.sliced_wasserstein(x, made.draws[: len(x)], seeded("slices"))
        / per_coordinate,
        "mean": float((mean - made.mean).norm()) / made.unit,
        "covariance": float((covariance - made.covariance).norm() / made.covariance.norm()),
        "spread": float(covariance.trace().sqrt()) / made.unit,
    }
    law = made.exact.law
    if isinstance(law, MixturePrior) and len(law.weights) > 1:
        found["mode mass"] = float(
            (
                law.responsibilities(law.encode(x.unflatten(1, law.means.shape[1:]))).mean(1)
                - law.weights
            )
            .abs()
            .sum()
            / 2
        )
    found |= {f"cover {p} %": distances.interval_mass(x, made.draws, p / 100) for p in (50, 90)}
    return found | {"CRPS": distances.crps(x, made.draws) / per_coordinate}
