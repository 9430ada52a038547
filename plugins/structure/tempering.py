"""How far coarse structure is to be trusted as measurements beside y: the beta of `structure.measurements`.

It is fitted where posteriors can be drawn exactly and fast: under the Gaussian that has a prior's mean and covariance, on held-out
photographs, by the continuous ranked probability score of the truth, which is proper: it asks for sharpness and for calibration.
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
from inverse_plugins.structure.measurements import guided
from inverse_plugins.structure.network import Estimate, Structure, averaged, colour_of

GRID = (1.0, 0.3, 0.1, 0.03, 0.01, 0.001)
"""Values of beta that are tried."""


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` found.

    beta: by scale, with a "known" kernel and "blind".
    crps: mean score, intensities, of each of the two: with structure as it is ("untempered"), tempered ("fitted"), and, where there is a
        kernel, with none ("without").
    """

    beta: dict[str, dict[str, float]]
    crps: dict[str, dict[str, float]]


def calibrate(
    model: Structure,
    colour: float,
    corpus: BlurCorpus,
    images: list[np.ndarray],
    size: int,
    prior: Prior,
    count: int = 12,
    draws: int = 4,
) -> Calibration:
    """Fit beta on `count` crops of colour photographs with kernels of the corpus: from 1, one scale after another, the coarsest first.

    Args:
        colour: see `guided`, of the blind fit.
        prior: whose Gaussian is used; see `start.gaussian_of`.
    """
    cases = [_case(model, corpus, images, size, prior, i) for i in range(count)]
    scales = model.config.scales
    beta, crps = {}, {}
    for mode, shade in (("known", None), ("blind", colour)):
        score = _scorer(cases, scales, shade, draws)
        chosen = (1.0,) * len(scales)
        for i in reversed(range(len(scales))):
            chosen = min(((*chosen[:i], b, *chosen[i + 1 :]) for b in GRID), key=score)
            print(f"{mode}: beta {chosen}, CRPS {score(chosen):.5f}", file=sys.stderr, flush=True)
        beta[mode] = dict(zip(map(str, scales), chosen, strict=True))
        crps[mode] = {
            "untempered": _rounded(score((1.0,) * len(scales))),
            "fitted": _rounded(score(chosen)),
        }
    crps["known"]["without"] = _rounded(
        sum(_crps(posterior, posterior, draws) for posterior, _ in cases) / len(cases)
    )
    return Calibration(beta, crps)


Case = tuple[Posterior, dict[int, Estimate]]


def _scorer(
    cases: list[Case], scales: tuple[int, ...], colour: float | None, draws: int
) -> Callable[[tuple[float, ...]], float]:
    """Mean score of a beta for each scale, computed once."""

    @functools.cache
    def score(beta: tuple[float, ...]) -> float:
        chosen = dict(zip(scales, beta, strict=True))
        return sum(
            _crps(posterior, guided(posterior, found, chosen, colour), draws)
            for posterior, found in cases
        ) / len(cases)

    return score


def coarse_colour_error(
    corpus: BlurCorpus, images: list[np.ndarray], size: int, scale: int, count: int = 256
) -> float:
    """Root mean square error of a blurry picture's coarse colour, intensities."""
    sharp, y = corpus.batch([images], size, count, seeded("coarse colour"))
    return _rounded(
        float(
            (averaged(colour_of(sharp), scale) - averaged(colour_of(y), scale))
            .square()
            .mean()
            .sqrt()
        )
    )


def _case(
    model: Structure,
    corpus: BlurCorpus,
    images: list[np.ndarray],
    size: int,
    prior: Prior,
    index: int,
) -> Case:
    """A measured crop (its truth kept), and what the networks say of it; a kernel of a family that blurs intensities."""
    generator = seeded("calibration", index)
    truth = random_crops([images], size, 1, generator)
    linear = [
        k
        for k, family in zip(corpus.bank, itertools.cycle(corpus.families))
        if corpus.gamma(family) == 1
    ]
    kernel = linear[int(torch.randint(len(linear), (), generator=generator))]
    operator = deepinv("physics").Blur(filter=kernel[None, None], padding="reflect", use_fft=True)
    noise = GaussianNoise(
        0.005 + (corpus.noise - 0.005) * float(torch.rand((), generator=generator))
    )
    y = noise.sample(operator.A(truth), generator)
    with torch.no_grad():
        estimates = model(y)
    return Posterior(
        prior, operator, y, noise, truth=truth, execution=Execution(solver=CG(1e-3, 60))
    ), estimates


def _crps(posterior: Posterior, given: Posterior, draws: int) -> float:
    """Of the truth of `posterior` under exact draws of the Gaussian given the other's y."""
    rows = given.rows(draws)
    with torch.no_grad():
        samples = given.prior.decode(analytic_start(rows, 0.0, Generators.for_samples(0, 1, draws)))
    assert posterior.truth is not None
    return float(fair_crps(samples[None], posterior.truth).mean())


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
