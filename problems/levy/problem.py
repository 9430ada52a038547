"""The problem `levy`: walks with Gaussian, heavy-tailed or sparse increments."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

import inverse
from inverse.errors import OptionError
from inverse.priors.analytic import GaussianPrior
from inverse.registry.options import check_options
from inverse_problems._conjugate import Conjugate, single_measurement
from inverse_problems.levy.chains import Draws
from inverse_problems.levy.gibbs import Gibbs
from inverse_problems.levy.increments import (
    BernoulliLaplaceIncrements,
    GaussianIncrements,
    Increments,
    LaplaceIncrements,
    StudentIncrements,
)
from inverse_problems.levy.walk import WalkPrior

LAWS: dict[str, Increments] = {
    "gaussian": GaussianIncrements(0.5),
    "laplace": LaplaceIncrements(),
    "bernoulli-laplace": BernoulliLaplaceIncrements(rate=0.1),
    "student-1": StudentIncrements(df=1),
    "student-2": StudentIncrements(df=2),
    "student-3": StudentIncrements(df=3),
}
POPULATION = 4096
"""Number of walks whose median power sets the model units and the noise level."""


@dataclass(frozen=True)
class Levy(Conjugate):
    """Cumulative sums of 64 independent increments, measured directly or by one of three operators.

    The published noise level is 25 dB below the median over walks of the mean square of A x. Model
    units are x over the root of the median over walks of the mean square of x, which is the walk's
    typical size even if its variance does not exist. Gaussian increments have a closed-form
    posterior; for the others `exact` runs the Gibbs sampler of `inverse_problems.levy.gibbs`.

    The source does not fix three settings. In this problem the convolution takes the walk as 0
    beyond its ends. Imputation keeps half of the entries and always the last, because a walk with
    Student-1 increments has no mean after its last observed entry. The rows of the spectrum are an
    orthonormal real Fourier basis (cosine and sine).

    Args:
        sigma_y: standard deviation of the noise; by default set by snr.
        increments: law of the increments: gaussian (variance 0.25), laplace (scale 1),
            bernoulli-laplace (rate 0.1, scale 1) or student-1, -2, -3 (degrees of freedom).
        view: identity, convolution (13 Gaussian taps of standard deviation 2), imputation (some
            entries) or fourier (some frequencies).
        view_seed: random seed of imputation and fourier.
        snr: median signal power over noise power (dB), used if sigma_y is not given.
        kept: fraction of entries that imputation observes.
        frequencies: number of the 33 frequencies that fourier observes: the lowest 5 and others at
            random.

    Raises: OptionError if an option is out of range.
    """

    name = "levy"
    summary = (
        "walks with Gaussian, Laplace, sparse or Student increments, four operators; "
        "posterior by a Gibbs sampler"
    )
    reference = (
        "Levy-process benchmark of diffusion posterior samplers, 2025, "
        "https://arxiv.org/abs/2509.12821"
    )
    truth_count = 1000

    sigma_y: inverse.Positive | None = None  # type: ignore[assignment]
    increments: Literal[
        "gaussian", "laplace", "bernoulli-laplace", "student-1", "student-2", "student-3"
    ] = "laplace"
    view: Literal["identity", "convolution", "imputation", "fourier"] = "identity"
    view_seed: inverse.Seed = 0
    snr: Annotated[float, inverse.Range(-100, 100)] = 25.0
    kept: Annotated[float, inverse.Range(above=0, high=1)] = 0.5
    frequencies: Annotated[int, inverse.Range(5, 10**6)] = 16

    length = 64

    def __post_init__(self) -> None:
        check_options(self)
        if not 5 <= self.frequencies <= self.length // 2 + 1:
            raise OptionError(
                f"levy: frequencies must lie between 5 and {self.length // 2 + 1}, "
                f"got {self.frequencies}"
            )
        if self.sigma_y is None:
            clean = _population(self.increments, self.length) @ self.matrix().T
            power = clean.square().mean(1).median()
            object.__setattr__(self, "sigma_y", math.sqrt(float(power) * 10 ** (-self.snr / 10)))
        super().__post_init__()

    def law(self) -> Any:
        """The law of x in model units: a `GaussianPrior` or a `WalkPrior`."""
        scale = float(_population(self.increments, self.length).square().mean(1).median().sqrt())
        law = LAWS[self.increments]
        if isinstance(law, GaussianIncrements):
            t = torch.arange(1.0, self.length + 1, dtype=torch.float64)
            covariance = (law.scale / scale) ** 2 * torch.minimum(t[:, None], t)
            return GaussianPrior(torch.zeros_like(t), covariance, scale=scale)
        return WalkPrior(law.scaled(1 / scale), self.length, scale=scale)

    def matrix(self) -> Tensor:
        """The forward matrix (m, 64) in physical units, float64."""
        n, generator = self.length, inverse.seeded(self.view_seed, "levy", self.view)
        eye = torch.eye(n, dtype=torch.float64)
        if self.view == "convolution":
            taps = torch.exp(-0.5 * (torch.arange(-6.0, 7.0, dtype=torch.float64) / 2.0) ** 2)
            padded = torch.nn.functional.pad(eye, (0, 0, 6, 6))
            return (taps / taps.sum()) @ padded.unfold(0, 13, 1).mT
        if self.view == "imputation":
            count = max(1, round(self.kept * n))
            observed = torch.randperm(n - 1, generator=generator)[: count - 1]
            return eye[[*observed.sort().values.tolist(), n - 1]]
        if self.view == "fourier":
            drawn = 5 + torch.randperm(n // 2 + 1 - 5, generator=generator)[: self.frequencies - 5]
            chosen = torch.cat([torch.arange(5), drawn.sort().values])
            spectrum = torch.fft.rfft(eye, norm="ortho").T[chosen] * math.sqrt(2)
            spectrum[chosen % (n // 2) == 0] /= math.sqrt(2)
            return torch.cat([spectrum.real, spectrum.imag[chosen % (n // 2) != 0]])
        return eye

    def exact(self, y: Tensor, chains: int = 4, burn_in: int = 500, keep: int = 1000) -> Any:
        """The posterior of one measurement y, m entries, physical units.

        It is an `Exact` for Gaussian increments, otherwise the `Draws` of Gibbs chains.

        Args:
            chains, burn_in, keep: see `Gibbs.run`.

        Raises: InputError if y has another number of entries.
        """
        if isinstance(LAWS[self.increments], GaussianIncrements):
            return super().exact(y)
        y = single_measurement(self.name, y, len(self.matrix()))
        generator = inverse.seeded(self.name, "gibbs")
        return Draws(self.gibbs().run(y[None], generator, chains, burn_in, keep)[0])

    def gibbs(self) -> Gibbs:
        """The Gibbs sampler of the posterior, for a batch of measurements."""
        assert self.sigma_y is not None
        return Gibbs(LAWS[self.increments], self.matrix(), self.sigma_y)


@functools.cache
def _population(increments: str, length: int) -> Tensor:
    """Walks with a fixed seed: (POPULATION, length), physical units."""
    like = torch.empty(POPULATION, length, dtype=torch.float64)
    generator = inverse.seeded("levy", "population", increments)
    return LAWS[increments].sample(like, generator).cumsum(1)
