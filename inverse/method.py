"""A method turns a posterior into samples; a guidance defines only how to denoise given y."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from inverse.analytic_start import analytic_start, unmet_requirement
from inverse.errors import OptionError
from inverse.posterior import Posterior
from inverse.registry.options import check_options
from inverse.registry.types import Count, Positive
from inverse.sampling.integrator import Denoise
from inverse.sampling.options import get_sampler
from inverse.sampling.schedules import schedule
from inverse.seeding import Generators

CLAIMS = ("exact", "exact in the limit", "point estimate", "biased", "none")
GROUPS = ("point estimates", "samples", "particles", "baselines")
"""What a method returns, or what it is for, in the order of `inverse methods`."""
NEEDS = {
    "linear": ("a linear operator", lambda p: p.linear),
    "decomposable": ("an operator with known singular values", lambda p: p.decomposable),
    "gaussian": ("Gaussian noise", lambda p: p.gaussian),
    "white": (
        "one sigma_y for all measurements",
        lambda p: not p.gaussian or p.noise.sigma.ndim == 0,
    ),
    "noisy": ("sigma_y > 0", lambda p: not (p.gaussian and p.noise.noiseless)),
    "exact-prior": ("a prior whose denoiser is exact", lambda p: p.prior.exact),
    "image": ("an image (channels, height, width)", lambda p: len(p.shape) == 3),
}


@dataclass(frozen=True)
class Weighted:
    """An iterate that is a weighted ensemble.

    Args:
        x: particles (B, *shape), model units.
        log_weights: (B,), normalised over the rows of each image or not; None for equal weights.
        log_evidence: log p(y) for each image (images,), nats, if the method estimates it.
        trace: diagnostics of each noise level, numbers and lists of numbers for each image by name;
            stored with the result.
    """

    x: Tensor
    log_weights: Tensor | None
    log_evidence: Tensor | None = None
    trace: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Method(ABC):
    """Base of every method: a frozen dataclass whose fields are its options.

    Class attributes that every method declares (`inverse plugins` reports a method that does not):
        name: in kebab-case.
        reference: authors, title, venue, year and link.
        equation: the update in one line.

    Class attributes with a default:
        group: where `inverse methods` lists the method, one of `GROUPS`; by default "point
            estimates" for methods that claim so, else "samples".
        claim: what the method promises on a conjugate problem, one of `CLAIMS`; `inverse verify`
            checks it.
        bias: largest figures of a `biased` method on the photographic cases of `inverse verify`, by
            name. By default it is nearer to the posterior than the posterior's mean alone, whose
            "marginal W2" is 1, and where y says little its spread is at most 1.25 of the exact one.
            "excess", of any method, is by how much its W2 may exceed the prior's where y says
            little; 0 by default.
        any_prior: whether the claim holds for every prior, not only for Gaussian ones.
        limit: the options in which the limit is taken, with their powers of the effort.
        needs: what the method needs of a posterior, names from `NEEDS`.
        units: why the samples depend on the units of y; empty if they do not, which the tests
            check.
    """

    name: ClassVar[str]
    group: ClassVar[str] = ""
    reference: ClassVar[str] = ""
    equation: ClassVar[str] = ""
    claim: ClassVar[str] = "biased"
    bias: ClassVar[dict[str, float]] = {"marginal W2": 1.0, "unseen spread": 1.25}
    any_prior: ClassVar[bool] = False
    limit: ClassVar[dict[str, float]] = {"steps": 1.0}
    needs: ClassVar[tuple[str, ...]] = ()
    units: ClassVar[str] = ""

    @classmethod
    def listed_in(cls) -> str:
        """The group of `GROUPS` in which `inverse methods` lists this method."""
        by_claim = "point estimates" if cls.claim == "point estimate" else "samples"
        return cls.group or by_claim

    @classmethod
    def undeclared(cls) -> list[str]:
        """The class attributes that every method declares and this one lacks."""
        return [field for field in ("reference", "equation") if not getattr(cls, field)]

    def __post_init__(self) -> None:
        check_options(self)
        steps = getattr(self, "steps", None)
        if steps is not None and steps < 1:
            raise OptionError(f"{self.name}: steps must be at least 1, got {steps}")

    def unsupported(self, posterior: Posterior) -> str | None:
        """Why this method cannot run on this posterior, or None if it can."""
        missing = [
            words
            for need in self.needs
            for words, offered in [NEEDS[need]]
            if not offered(posterior)
        ]
        if not missing:
            return None
        found = f"{type(posterior.operator).__name__} with {posterior.noise!r}"
        return f"{self.name} needs {' and '.join(missing)}; this posterior has {found}"

    def chosen(self, posterior: Posterior, samples: int) -> tuple[Method, str]:
        """The method that runs on this posterior, and why; itself and "" unless it is a choice.

        Args:
            posterior: of one or more measurements.
            samples: samples for each measurement.
        """
        return self, ""

    def derived(self, posterior: Posterior) -> dict[str, float]:
        """Settings computed from the options and this posterior, for the record."""
        return {}

    def notes(self, posterior: Posterior) -> list[str]:
        """Remarks on how the method treats this posterior, stored and printed with the result."""
        return []

    @property
    def total(self) -> int | None:
        """Number of iterates that `run` yields, if known beforehand; for progress only."""
        return getattr(self, "steps", None)

    @abstractmethod
    def run(
        self, posterior: Posterior, samples: int, generator: Generators
    ) -> Iterator[Tensor | Weighted]:
        """Yield iterates (B, *shape) in model units, the last is the answer.

        Args:
            posterior: of B rows, `samples` consecutive ones for each measurement.
            samples: number of rows that share a measurement; only ensembles need it.
            generator: one stream per row.
        """


@dataclass(frozen=True)
class Guidance(Method):
    """Methods that replace E[x0 | x] by an estimate of E[x0 | x, y] in a sampler.

    A subclass implements `denoise`.

    Args:
        steps: sampler steps.
        sampler: name of a registered sampler, with settings after a colon: ddim:eta=0.5 (`inverse
            samplers` lists them).
        schedule: name of a noise schedule.
        sigma_max: first noise level, model units; by default the prior's.
        sigma_min: last noise level before 0, model units; by default the prior's, at least 0.002.
        analytic_start: level, model units, above which a draw of the prior's Gaussian given y
            replaces the steps; auto is none.
    """

    steps: Count = 100
    sampler: str = "ddim"
    schedule: str = "karras"
    sigma_max: Positive | None = None
    sigma_min: Positive | None = None
    analytic_start: Positive | None = None

    def unsupported(self, posterior: Posterior) -> str | None:
        reason = unmet_requirement(posterior) if self.analytic_start is not None else None
        return super().unsupported(posterior) or (
            f"analytic_start needs {reason}" if reason else None
        )

    @abstractmethod
    def denoise(self, posterior: Posterior, x: Tensor, sigma: Tensor) -> Tensor:
        """Estimate E[x0 | x, y]: x (B, *shape), sigma () or (B, 1, ..., 1) -> (B, *shape)."""

    def guide(self, posterior: Posterior, generator: Generators) -> Denoise:
        """The denoiser of the sampler.

        A guidance that draws random numbers overrides this to pass the generator to its `denoise`.
        """
        return lambda x, sigma: self.denoise(posterior, x, sigma)

    def run(
        self, posterior: Posterior, samples: int, generator: Generators
    ) -> Iterator[Tensor | Weighted]:
        x, sigmas = self.begin(posterior, generator)
        yield from get_sampler(self.sampler)(self.guide(posterior, generator), x, sigmas, generator)

    def begin(self, posterior: Posterior, generator: Generators) -> tuple[Tensor, Tensor]:
        """x at the first noise level (B, *shape), and the levels from that one down to 0."""
        sigmas = noise_levels(posterior, self.schedule, self.steps, self.sigma_min, self.sigma_max)
        if self.analytic_start is None:
            return sigmas[0] * standard_normal(posterior, generator), sigmas
        sigmas = sigmas[sigmas <= self.analytic_start]
        if len(sigmas) < 2:
            raise OptionError(
                f"{self.name}: analytic_start must be at least the last level of the schedule, "
                f"got {self.analytic_start:g}"
            )
        return analytic_start(posterior, float(sigmas[0]), generator), sigmas


def standard_normal(posterior: Posterior, generator: Generators) -> Tensor:
    """A draw of N(0, I) with the shape, dtype and device of the unknown: (B, *shape)."""
    return generator.randn_like(
        torch.empty(
            len(posterior), *posterior.shape, dtype=posterior.dtype, device=posterior.device
        )
    )


def noise_levels(
    posterior: Posterior,
    name: str,
    steps: int,
    sigma_min: Positive | None = None,
    sigma_max: Positive | None = None,
) -> Tensor:
    """A named schedule that ends in 0: (steps + 1,), dtype and device of x.

    Args:
        sigma_min: last level before 0; by default the prior's, at least 0.002, below which data of
            unit variance need no denoising.
        sigma_max: first level; by default the prior's, which covers the spread of x0.

    Raises: OptionError if the levels are not in order or leave the range of the prior.
    """
    low = max(posterior.prior.sigma_min, 0.002) if sigma_min is None else sigma_min
    high = posterior.prior.sigma_max if sigma_max is None else sigma_max
    if not 0 < low < high:
        raise OptionError(f"noise levels: need 0 < sigma_min < sigma_max, got {low:g} and {high:g}")
    prior = posterior.prior
    if not prior.exact and not (0.999 * prior.sigma_min <= low and high <= 1.001 * prior.sigma_max):
        raise OptionError(
            f"noise levels: {low:g} to {high:g} leave the range of the prior, "
            f"{prior.sigma_min:g} to {prior.sigma_max:g}; stay within it"
        )
    return schedule(name, steps, low, high).to(posterior.device, posterior.dtype)
