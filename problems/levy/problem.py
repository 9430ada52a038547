"""Walks with Gaussian, heavy-tailed or sparse increments, and a Gibbs sampler as the gold standard."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

import inverse
from inverse.errors import InputError, OptionError
from inverse.priors.analytic import GaussianPrior
from inverse_problems._conjugate import Conjugate
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
"""Walks whose median power sets the units and the noise."""


@dataclass(frozen=True)
class Levy(Conjugate):
    """Cumulative sums of 64 independent increments, seen as they are, through a blur, at random places or in part of their spectrum.

    The published noise level is 25 dB below the median over walks of the mean square of A x. Model units are x over the root of
    the median over walks of the mean square of x: the walk's typical size also where its variance does not exist. Gaussian
    increments have the closed-form posterior; for the others `exact` runs the Gibbs sampler of `inverse_problems.levy.gibbs`.
    Settings that the source of this problem does not fix are ours: the convolution takes the walk for 0 beyond its
    ends, imputation keeps half of the entries and always the last (past the last one seen, a walk of Student-1 increments has no
    mean), and the spectrum's rows are an orthonormal real Fourier basis (cosine and sine).

    Args:
        sigma_y: by default what `snr` says.
        increments: their law: gaussian (variance 0.25), laplace (scale 1), bernoulli-laplace (rate 0.1, scale 1) or student-1, -2, -3 (degrees of freedom).
        view: identity, convolution (13 Gaussian taps of standard deviation 2), imputation or fourier.
        view_seed: of imputation and fourier.
        snr: median signal power over noise power (dB), where sigma_y is not given.
        kept: fraction of entries that imputation sees.
        frequencies: of the 33, how many fourier sees: the lowest 5 and others at random.
    """

    name = "levy"
    summary = "walks with Gaussian, Laplace, sparse or Student increments, four operators; posterior by a Gibbs sampler"
    reference = "Levy-process benchmark of diffusion posterior samplers, 2025, https://arxiv.org/abs/2509.12821"
    truth_count = 1000

    sigma_y: float | None = None  # type: ignore[assignment]
    increments: Literal[
        "gaussian", "laplace", "bernoulli-laplace", "student-1", "student-2", "student-3"
    ] = "laplace"
    view: Literal["identity", "convolution", "imputation", "fourier"] = "identity"
    view_seed: int = 0
    snr: float = 25.0
    kept: float = 0.5
    frequencies: int = 16

    length = 64

    def __post_init__(self) -> None:
        if not -100 <= self.snr <= 100:
            raise OptionError(f"levy: snr must lie between -100 and 100 dB, got {self.snr:g}")
        if not 0 < self.kept <= 1:
            raise OptionError(f"levy: kept must be above 0 and at most 1, got {self.kept:g}")
        if not 5 <= self.frequencies <= self.length // 2 + 1:
            raise OptionError(
                f"levy: frequencies must lie between 5 and {self.length // 2 + 1}, got {self.frequencies}"
            )
        if self.sigma_y is None:
            power = (
                (_population(self.increments, self.length) @ self.matrix().T)
                .square()
                .mean(1)
                .median()
            )
            object.__setattr__(self, "sigma_y", math.sqrt(float(power) * 10 ** (-self.snr / 10)))
        super().__post_init__()

    def law(self) -> Any:
        """The law of x in model units: a `GaussianPrior` or a `WalkPrior`."""
        scale = float(_population(self.increments, self.length).square().mean(1).median().sqrt())
        law = LAWS[self.increments]
        if isinstance(law, GaussianIncrements):
            t = torch.arange(1.0, self.length + 1, dtype=torch.float64)
            return GaussianPrior(
                torch.zeros_like(t),
                (law.scale / scale) ** 2 * torch.minimum(t[:, None], t),
                scale=scale,
            )
        return WalkPrior(law.scaled(1 / scale), self.length, scale=scale)

    def matrix(self) -> Tensor:
        n, generator = self.length, inverse.seeded(self.view_seed, "levy", self.view)
        eye = torch.eye(n, dtype=torch.float64)
        if self.view == "convolution":
            taps = torch.exp(-0.5 * (torch.arange(-6.0, 7.0, dtype=torch.float64) / 2.0) ** 2)
            padded = torch.nn.functional.pad(eye, (0, 0, 6, 6))
            return (taps / taps.sum()) @ padded.unfold(0, 13, 1).mT
        if self.view == "imputation":
            seen = torch.randperm(n - 1, generator=generator)[: max(1, round(self.kept * n)) - 1]
            return eye[[*seen.sort().values.tolist(), n - 1]]
        if self.view == "fourier":
            drawn = 5 + torch.randperm(n // 2 + 1 - 5, generator=generator)[: self.frequencies - 5]
            chosen = torch.cat([torch.arange(5), drawn.sort().values])
            spectrum = torch.fft.rfft(eye, norm="ortho").T[chosen] * math.sqrt(2)
            spectrum[chosen % (n // 2) == 0] /= math.sqrt(2)
            return torch.cat([spectrum.real, spectrum.imag[chosen % (n // 2) != 0]])
        return eye

    def exact(self, y: Tensor, chains: int = 4, burn_in: int = 500, keep: int = 1000) -> Any:
        """The posterior of one measurement: closed form for Gaussian increments, else the draws of Gibbs chains."""
        if isinstance(LAWS[self.increments], GaussianIncrements):
            return super().exact(y)
        A, flat = self.matrix(), y.flatten().double().cpu()
        if len(flat) != len(A):
            raise InputError(
                f"{self.name}: a measurement has {len(A)} entries, got {len(flat)}; ask for one measurement at a time"
            )
        return Draws(
            self.gibbs().run(flat[None], inverse.seeded(self.name, "gibbs"), chains, burn_in, keep)[
                0
            ]
        )

    def gibbs(self) -> Gibbs:
        """The sampler of many measurements' posteriors at once."""
        assert self.sigma_y is not None
        return Gibbs(LAWS[self.increments], self.matrix(), self.sigma_y)


@functools.cache
def _population(increments: str, length: int) -> Tensor:
    shape = torch.empty(POPULATION, length, dtype=torch.float64)
    return (
        LAWS[increments].sample(shape, inverse.seeded("levy", "population", increments)).cumsum(1)
    )
