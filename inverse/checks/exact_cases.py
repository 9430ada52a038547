"""Cases with exact posteriors, and the figures that compare samples with them.

Every figure comes with its floor, the figure of as many exact draws, and with the figure of draws
from the prior, which ignore y. The score is

    score = (loss - floor) / (prior - floor)

It is 0 for an exact sampler, 1 for a sampler that ignores the data, and larger for a worse one.
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

TARGETS = {
    "spread": 1.0,
    "seen spread": 1.0,
    "unseen spread": 1.0,
    "cover 50 %": 0.5,
    "cover 90 %": 0.9,
}
"""Values of an exact sampler. Every other figure is an error, whose target is 0."""

PHOTOGRAPHIC_SAMPLES = 100
"""Largest number of samples on a photographic case, whose images are large."""

FLOOR_REPEATS = 20
"""Number of sets of exact draws that determine a floor."""

PROBE = "random"
"""The case that tests convergence order, batch independence and invariance to rotations."""


@dataclass(frozen=True)
class Case:
    """A problem with a closed-form posterior.

    Args:
        name: name of the case.
        problem: registered name of the problem.
        options: options of the problem.
        gaussian: whether the posterior is Gaussian.
        photographic: whether the law has the spectrum of photographs.
    """

    name: str
    problem: str
    options: dict[str, Any] = field(default_factory=dict)
    gaussian: bool = True
    photographic: bool = False


@functools.cache
def all_cases() -> tuple[Case, ...]:
    """The cases that registered problems declare.

    Gaussian posteriors come first, and among them the cases of the probe's problem.
    """
    sortable = []
    for name, entry in registry().table("inverse_problems").items():
        for case, options in entry.thing.cases.items():
            law = get_problem(name, **options).make_prior()
            gaussian = not (isinstance(law, MixturePrior) and len(law.weights) > 1)
            position = (not gaussian, PROBE not in entry.thing.cases)
            photographic = entry.thing.photographic
            sortable.append((*position, Case(case, name, options, gaussian, photographic)))
    return tuple(case for *_, case in sorted(sortable, key=lambda row: row[:2]))


@dataclass(frozen=True)
class Figure:
    """A figure of a method's samples.

    Args:
        value: the figure.
        floor: the mean figure of exact draws.
        prior: the mean figure of draws from the prior.
        score: see the module; None if the prior is as good as exact draws.
    """

    value: float
    floor: float
    prior: float
    score: float | None


@dataclass(frozen=True)
class Reference:
    """A case with its exact posterior and the figures of exact draws and of the prior.

    Args:
        case, posterior, problem: the case and its posterior.
        samples: number of samples that the figures are computed from.
        particles: smallest number of particles of a method on a photographic case.
        exact: the exact posterior.
        draws: exact draws (n, d), physical units.
        floors: mean and standard deviation of the loss of exact draws, by figure.
        values: mean figures of exact draws.
        prior: mean figures of draws from the prior.
    """

    case: Case
    posterior: Posterior
    problem: Problem
    samples: int
    particles: int
    exact: Exact
    draws: Tensor
    floors: dict[str, tuple[float, float]]
    values: dict[str, float]
    prior: dict[str, float]

    @property
    def name(self) -> str:
        """Name of the case."""
        return self.case.name

    @property
    def mean(self) -> Tensor:
        """Mean of the exact posterior: (d,), physical units."""
        return self.exact.mean.flatten()

    @functools.cached_property
    def covariance(self) -> Tensor:
        """Covariance of the exact posterior: (d, d), physical units."""
        return self.exact.covariance

    @functools.cached_property
    def unit(self) -> float:
        """Square root of the posterior's total variance: the unit of lengths."""
        return float(self.covariance.trace().sqrt())

    @functools.cached_property
    def directions(self) -> tuple[Tensor, Tensor]:
        """Eigenvectors of the covariance as columns (d, d), and their standard deviations (d,)."""
        values, vectors = torch.linalg.eigh(self.covariance)
        return vectors, values.clamp_min(0).sqrt()

    @functools.cached_property
    def views(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Bases of what y determines ("seen") and does not ("unseen"), with the spread in each.

        A direction is seen if y at least halves its variance, in the basis that diagonalises the
        covariances of prior and posterior together. Returns: by name, the dual basis as columns
        (d, k), in which coordinates are x @ basis, and their standard deviations (k,). Coordinates
        have the prior's variance 1.
        """
        law: Any = self.problem.make_prior()
        root = torch.linalg.cholesky(law.covariance * law.scale**2)
        inner = torch.linalg.solve_triangular(root, self.covariance, upper=False)
        inner = torch.linalg.solve_triangular(root, inner.T, upper=False)
        left, vectors = torch.linalg.eigh((inner + inner.T) / 2)
        basis = torch.linalg.solve_triangular(root.T, vectors, upper=True)
        return {
            name: (basis[:, chosen], left[chosen].clamp_min(0).sqrt())
            for name, chosen in (("seen", left < 0.5), ("unseen", left >= 0.5))
        }

    def excess(self, name: str, value: float) -> float:
        """Distance of a figure's loss above the floor, in standard deviations of the floor."""
        mean, deviation = self.floors[name]
        return (loss(name, value) - mean) / max(deviation, 1e-12)

    def figure(self, name: str, value: float) -> Figure:
        """A figure with its floor, its prior and its score."""
        floor, deviation = self.floors[name]
        span = loss(name, self.prior[name]) - floor
        score = (loss(name, value) - floor) / span if span > 5 * deviation else None
        return Figure(value, self.values[name], self.prior[name], score)


def loss(name: str, value: float) -> float:
    """Distance of a figure from its target."""
    return abs(value - TARGETS.get(name, 0.0))


def main_figure(case: Case) -> str:
    """The figure that decides a claim: W2 for a Gaussian posterior, sliced W1 otherwise.

    On a photographic case it is W2 of the marginals, whose floor does not grow with the image.
    """
    if case.photographic and case.gaussian:
        return "marginal W2"
    return "W2" if case.gaussian else "sliced W1"


@functools.cache
def reference(name: str, samples: int) -> Reference:
    """Prepare a case: everything that does not depend on the method.

    Args:
        name: name of a case in `all_cases`.
        samples: number of samples that the figures are computed from; a photographic case uses at
            most `PHOTOGRAPHIC_SAMPLES`.
    """
    case = next(case for case in all_cases() if case.name == name)
    particles = samples
    if case.photographic:
        samples = min(samples, PHOTOGRAPHIC_SAMPLES)
    problem = get_problem(case.problem, **case.options)
    posterior = problem.posterior(0, dtype=torch.float64)
    exact = problem.exact(posterior.y[0])
    stream = seeded("verify", name)
    draws = exact.sample(4 * samples, stream).flatten(1)
    bare = Reference(case, posterior, problem, samples, particles, exact, draws, {}, {}, {})
    of_exact_draws = [
        figures(bare, exact.sample(samples, stream).flatten(1)) for _ in range(FLOOR_REPEATS)
    ]
    law = problem.make_prior()
    if any(n is None for n in law.shape):
        law = law.sized(*posterior.shape[-2:])
    of_prior = [figures(bare, law.decode(law.sample(samples, stream)).flatten(1)) for _ in range(4)]
    floors = {}
    for key in of_exact_draws[0]:
        losses = torch.tensor([loss(key, row[key]) for row in of_exact_draws])
        floors[key] = (float(losses.mean()), float(losses.std()))
    return replace(bare, floors=floors, values=_means(of_exact_draws), prior=_means(of_prior))


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}


def figures(reference: Reference, x: Tensor) -> dict[str, float]:
    """Every figure of samples.

    Lengths are in units of the square root of the posterior's total variance; sliced W1 and CRPS
    are per coordinate.

    Args:
        x: samples (n, d), physical units.
    """
    mean, covariance = x.mean(0), x.T.cov()
    unit, per_coordinate = reference.unit, reference.unit / math.sqrt(x.shape[1])
    values: dict[str, float] = {}
    if main_figure(reference.case) == "marginal W2":
        vectors, spreads = reference.directions
        moved, wider = (mean - reference.mean) @ vectors, (x @ vectors).std(0) - spreads
        values["marginal W2"] = float((moved**2 + wider**2).sum().sqrt()) / unit
        for name, (basis, spreads) in reference.views.items():
            values[f"{name} spread"] = float((x @ basis).std(0).norm() / spreads.norm())
    elif reference.case.gaussian:
        w2 = distances.gaussian_w2(mean, covariance, reference.mean, reference.covariance)
        values["W2"] = w2 / unit
    w1 = distances.sliced_wasserstein(x, reference.draws[: len(x)], seeded("slices"))
    difference = (covariance - reference.covariance).norm()
    values |= {
        "sliced W1": w1 / per_coordinate,
        "mean": float((mean - reference.mean).norm()) / unit,
        "covariance": float(difference / reference.covariance.norm()),
        "spread": float(covariance.trace().sqrt()) / unit,
    }
    law = reference.exact.law
    if isinstance(law, MixturePrior) and len(law.weights) > 1:
        shares = law.responsibilities(law.encode(x.unflatten(1, law.means.shape[1:]))).mean(1)
        values["mode mass"] = float((shares - law.weights).abs().sum() / 2)
    values |= {
        f"cover {p} %": distances.interval_mass(x, reference.draws, p / 100) for p in (50, 90)
    }
    return values | {"CRPS": distances.crps(x, reference.draws) / per_coordinate}
