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
    "whitened spread": 1.0,
    "cover 50 %": 0.5,
    "cover 90 %": 0.9,
}
"""Values of an exact sampler. Every other figure is an error, whose target is 0."""

PHOTOGRAPHIC_SAMPLES = 100
"""Largest number of samples on a photographic case, whose images are large."""

LARGE_SAMPLES = 300
"""Largest number of samples on another case with more than 32 unknowns."""

PHOTOGRAPHIC_PARTICLES = 200
"""Smallest number of particles on a photographic case."""

THOROUGH_SAMPLES = 40
"""Largest number of samples on a thorough photographic case."""

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
        thorough: whether the case is run with `--thorough` only.
    """

    name: str
    problem: str
    options: dict[str, Any] = field(default_factory=dict)
    gaussian: bool = True
    photographic: bool = False
    thorough: bool = False


@functools.cache
def all_cases() -> tuple[Case, ...]:
    """The cases that registered problems declare.

    Gaussian posteriors come first, and among them the cases of the probe's problem; thorough cases
    come last.
    """
    sortable = []
    for name, entry in registry().table("inverse_problems").items():
        for case, options in entry.thing.cases.items():
            law = get_problem(name, **options).make_prior()
            gaussian = not (isinstance(law, MixturePrior) and len(law.weights) > 1)
            thing = entry.thing
            position = (thing.thorough, not gaussian, PROBE not in thing.cases)
            kind = (gaussian, thing.photographic, thing.thorough)
            sortable.append((*position, Case(case, name, options, *kind)))
    return tuple(case for *_, case in sorted(sortable, key=lambda row: row[:3]))


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
    def spectral(self) -> bool:
        """Whether Fourier waves take the place of the covariance, which is too large."""
        return self.case.photographic and hasattr(self.exact.law, "spectrum")

    @functools.cached_property
    def unit(self) -> float:
        """Square root of the posterior's total variance: the unit of lengths."""
        if self.spectral:
            return float(self.directions[1].norm())
        return float(self.covariance.trace().sqrt())

    @functools.cached_property
    def directions(self) -> tuple[Tensor, Tensor]:
        """Directions as columns (d, d), and their standard deviations (d,) given y.

        They are the eigenvectors of the covariance, or Fourier waves, of which no matrix is built:
        `coordinates` transforms samples, and the first tensor is empty.
        """
        if self.spectral:
            law = self.exact.law
            variances = law.scale**2 * law.spectrum(*self.posterior.shape[-2:]).flatten()
            return torch.empty(0), variances.sqrt()
        values, vectors = torch.linalg.eigh(self.covariance)
        return vectors, values.clamp_min(0).sqrt()

    def coordinates(self, x: Tensor) -> Tensor:
        """Coordinates along `directions`, complex for Fourier waves: (n, d) -> (n, d)."""
        if not self.spectral:
            return x @ self.directions[0]
        pictures = x.reshape(-1, *self.posterior.shape)
        return torch.fft.fft2(pictures, norm="ortho").flatten(1)

    @functools.cached_property
    def octaves(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Fourier waves by octave, seen and unseen; see `views`.

        Returns: by name, the indices of waves, and their standard deviations under the prior.
        Octave 1 holds 1 cycle per image. Octaves with fewer than 8 waves are left out.
        """
        height, width = self.posterior.shape[-2:]
        fy, fx = torch.fft.fftfreq(height, 1 / height), torch.fft.fftfreq(width, 1 / width)
        octave = (fy[:, None] ** 2 + fx**2).sqrt().flatten().log2().floor() + 1
        law: Any = self.problem.make_prior()
        spreads = law.scale * law.spectrum(height, width).flatten().sqrt()
        seen = (self.directions[1] / spreads).square() < 0.5
        sets = {"seen": seen & (octave > -1), "unseen": ~seen & (octave > -1)}
        parts = {
            f"{name} octave {j}": chosen & (octave == j)
            for name, chosen in sets.items()
            for j in range(1, int(octave.max()) + 1)
        }
        waves = {f"{name} spread": chosen for name, chosen in sets.items()} | parts
        return {
            name: (chosen.nonzero()[:, 0], spreads[chosen])
            for name, chosen in waves.items()
            if int(chosen.sum()) >= 8
        }

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
    return abs(value - TARGETS.get(name, 1.0 if " octave " in name else 0.0))


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
        samples: number of samples that the figures are computed from, at most the constants of this
            module.
    """
    case = next(case for case in all_cases() if case.name == name)
    particles = samples
    if case.photographic:
        particles = min(samples, PHOTOGRAPHIC_PARTICLES)
        samples = min(samples, THOROUGH_SAMPLES if case.thorough else PHOTOGRAPHIC_SAMPLES)
    problem = get_problem(case.problem, **case.options)
    posterior = problem.posterior(0, dtype=torch.float64)
    if not case.photographic and math.prod(posterior.shape) > 32:
        samples = min(samples, LARGE_SAMPLES)
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
    mean = x.mean(0)
    unit, per_coordinate = reference.unit, reference.unit / math.sqrt(x.shape[1])
    values: dict[str, float] = {}
    if reference.case.photographic:
        values |= _along_directions(reference, x)
    elif reference.case.gaussian:
        w2 = distances.gaussian_w2(mean, x.T.cov(), reference.mean, reference.covariance)
        values |= {"W2": w2 / unit} | _whitened(reference, x)
    w1 = distances.sliced_wasserstein(x, reference.draws[: len(x)], seeded("slices"))
    values |= {
        "sliced W1": w1 / per_coordinate,
        "mean": float((mean - reference.mean).norm()) / unit,
        "spread": float(x.var(0).sum().sqrt()) / unit,
    }
    if not reference.spectral:
        difference = (x.T.cov() - reference.covariance).norm()
        values["covariance"] = float(difference / reference.covariance.norm())
    law = reference.exact.law
    if isinstance(law, MixturePrior) and len(law.weights) > 1:
        shares = law.responsibilities(law.encode(x.unflatten(1, law.means.shape[1:]))).mean(1)
        values["mode mass"] = float((shares - law.weights).abs().sum() / 2)
    values |= {
        f"cover {p} %": distances.interval_mass(x, reference.draws, p / 100) for p in (50, 90)
    }
    return values | {"CRPS": distances.crps(x, reference.draws) / per_coordinate}


def _along_directions(reference: Reference, x: Tensor) -> dict[str, float]:
    """Marginal W2 and the spreads of what y determines and does not: x (n, d)."""
    moved = reference.coordinates((x.mean(0) - reference.mean)[None])[0].abs()
    spreads = reference.directions[1]
    along = reference.coordinates(x).var(0).sqrt()
    values = {"marginal W2": float((moved**2 + (along - spreads) ** 2).sum().sqrt())}
    values["marginal W2"] /= reference.unit
    if reference.spectral:
        return values | {
            name: float((along[waves] / scale).norm() / (spreads[waves] / scale).norm())
            for name, (waves, scale) in reference.octaves.items()
        }
    return values | {
        f"{name} spread": float((x @ basis).std(0).norm() / spreads.norm())
        for name, (basis, spreads) in reference.views.items()
        if len(spreads)
    }


def _whitened(reference: Reference, x: Tensor) -> dict[str, float]:
    """Errors of the mean and the spread in standard deviations of the posterior: x (n, d).

    They weigh all directions alike, and show what W2 does not. Directions of less than 5 % of the
    largest standard deviation are left out, which a sampler need not resolve.
    """
    vectors, spreads = reference.directions
    kept = spreads > 0.05 * spreads.max()
    u = (x - reference.mean) @ vectors[:, kept] / spreads[kept]
    return {
        "whitened mean": float(u.mean(0).square().mean().sqrt()),
        "whitened spread": float(u.var(0).mean().sqrt()),
    }


def noisy_distance(reference: Reference, x: Tensor, sigma: float) -> float:
    """Marginal W2 of noisy samples to the exact law of x0 + sigma n given y.

    It is in units of the root of that law's total variance, so that n exact draws have about
    sqrt(3 / (2 n)) at every level.

    Args:
        x: (n, d), model units.
        sigma: noise level, model units.
    """
    scale = reference.exact.law.scale
    exact = (reference.directions[1] / scale).square() + sigma**2
    mean = reference.exact.law.mean.flatten()
    moved = reference.coordinates((x.mean(0) - mean)[None])[0].abs()
    wider = reference.coordinates(x).var(0).sqrt() - exact.sqrt()
    return float(((moved**2 + wider**2).sum() / exact.sum()).sqrt())
