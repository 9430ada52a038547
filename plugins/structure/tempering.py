"""Fit of beta, the tempering of structure as measurements beside y (`pseudo_measurements`).

Posteriors under the Gaussian with a prior's mean and covariance can be drawn exactly and fast. beta
minimises their continuous ranked probability score (CRPS) on held-out photographs. The score is
proper: it rewards sharpness and calibration.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from inverse.analytic_start import analytic_start
from inverse.execution import CG
from inverse.measurement.deepinv_import import deepinv
from inverse.measurement.noise import GaussianNoise
from inverse.metrics.ensemble import fair_crps
from inverse.posterior import Execution, Posterior
from inverse.priors.prior import Prior
from inverse.seeding import Generators, seeded
from inverse.training.crops import random_crops
from inverse_plugins.structure.blurs import BlurCorpus
from inverse_plugins.structure.coarse_pictures import averaged, colour_of
from inverse_plugins.structure.pseudo_measurements import with_structure
from inverse_plugins.structure.structure_network import Estimate, StructureNetworks

GRID = (1.0, 0.3, 0.1, 0.03, 0.01, 0.001)
"""Values of beta to choose from."""


@dataclass(frozen=True)
class TemperingFit:
    """Result of `fit_tempering`.

    Args:
        beta: by scale, with a "known" kernel and "blind".
        crps: mean score, intensities, of both modes: "untempered" (beta = 1), "fitted", and, with a
            known kernel, "without" structure.
    """

    beta: dict[str, dict[str, float]]
    crps: dict[str, dict[str, float]]


def fit_tempering(
    model: StructureNetworks,
    colour: float,
    corpus: BlurCorpus,
    images: list[np.ndarray],
    size: int,
    prior: Prior,
    count: int = 12,
    draws: int = 4,
) -> TemperingFit:
    """Fit beta on crops of photographs: from 1, one scale after another, the coarsest first.

    Args:
        model: structure networks.
        colour: standard deviation of the coarse colour in the blind fit, see `with_structure`.
        corpus: blurs and noise of the measurements.
        images: colour photographs, uint8.
        size: side of the crops (pixels).
        prior: prior whose mean and covariance define the Gaussian, see `analytic_start`.
        count: number of crops.
        draws: posterior draws for each crop.
    """
    cases = [_case(model, corpus, images, size, prior, i) for i in range(count)]
    scales = model.config.scales
    untempered = (1.0,) * len(scales)
    beta, crps = {}, {}
    for mode, deviation in (("known", None), ("blind", colour)):
        score = _scorer(cases, scales, deviation, draws)
        best = untempered
        for i in reversed(range(len(scales))):
            best = min(((*best[:i], b, *best[i + 1 :]) for b in GRID), key=score)
            print(f"{mode}: beta {best}, CRPS {score(best):.5f}", file=sys.stderr, flush=True)
        beta[mode] = dict(zip(map(str, scales), best, strict=True))
        crps[mode] = {"untempered": _rounded(score(untempered)), "fitted": _rounded(score(best))}
    without = [_crps(posterior, posterior, draws) for posterior, _ in cases]
    crps["known"]["without"] = _rounded(sum(without) / len(cases))
    return TemperingFit(beta, crps)


def coarse_colour_error(
    corpus: BlurCorpus, images: list[np.ndarray], size: int, scale: int, count: int = 256
) -> float:
    """Root mean square error of a blurry picture's coarse colour, intensities, four digits."""
    sharp, y = corpus.batch([images], size, count, seeded("coarse colour"))
    error = averaged(colour_of(sharp), scale) - averaged(colour_of(y), scale)
    return _rounded(float(error.square().mean().sqrt()))


Case = tuple[Posterior, dict[int, Estimate]]


def _scorer(
    cases: list[Case], scales: tuple[int, ...], colour: float | None, draws: int
) -> Callable[[tuple[float, ...]], float]:
    """Mean score of a beta for each scale, computed once for each beta."""

    @functools.cache
    def score(beta: tuple[float, ...]) -> float:
        by_scale = dict(zip(scales, beta, strict=True))
        return sum(
            _crps(posterior, with_structure(posterior, estimates, by_scale, colour), draws)
            for posterior, estimates in cases
        ) / len(cases)

    return score


def _case(
    model: StructureNetworks,
    corpus: BlurCorpus,
    images: list[np.ndarray],
    size: int,
    prior: Prior,
    index: int,
) -> Case:
    """A measured crop with its truth, and its estimates; the kernel blurs intensities linearly."""
    generator = seeded("calibration", index)
    truth = random_crops([images], size, 1, generator)
    families = zip(corpus.bank, itertools.cycle(corpus.families))
    linear = [kernel for kernel, family in families if corpus.gamma(family) == 1]
    kernel = linear[int(torch.randint(len(linear), (), generator=generator))]
    operator = deepinv("physics").Blur(filter=kernel[None, None], padding="reflect", use_fft=True)
    noise = GaussianNoise(
        0.005 + (corpus.noise - 0.005) * float(torch.rand((), generator=generator))
    )
    y = noise.sample(operator.A(truth), generator)
    with torch.no_grad():
        estimates = model(y)
    execution = Execution(solver=CG(1e-3, 60))
    return Posterior(prior, operator, y, noise, truth=truth, execution=execution), estimates


def _crps(measured: Posterior, structured: Posterior, draws: int) -> float:
    """Score of the truth of `measured` under exact draws of the Gaussian given `structured`'s y."""
    rows = structured.rows(draws)
    with torch.no_grad():
        x = analytic_start(rows, 0.0, Generators.for_samples(0, 1, draws))
    assert measured.truth is not None
    samples = structured.prior.decode(x)
    return float(fair_crps(samples[None], measured.truth).mean())


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
