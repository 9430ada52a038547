"""Denoising errors of a field prior, compared with those of the Gaussian of the fields."""

from __future__ import annotations

import math

import torch

from inverse.priors.analytic import FieldLaw
from inverse.priors.prior import Prior
from inverse.seeding import seeded
from inverse_problems.atmosphere.training_fields import TrainingFields

FIELD_LEVELS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.6, 1.0, 2.0, 4.0, 10.0)
"""Noise levels of the denoising table of a field prior, model units."""


def field_table(
    prior: Prior, law: FieldLaw, fields: TrainingFields, count: int = 168
) -> dict[str, list[float]]:
    """Root mean square errors of denoising, for a prior and the Gaussian, physical units.

    Args:
        prior: prior to evaluate.
        law: Gaussian to compare with.
        fields: fields to denoise.
        count: approximate largest number of fields to use, equally spaced.

    Returns: "sigma", "prior" and "gaussian" -> a number for each of `FIELD_LEVELS`.
    """
    x0 = prior.encode(fields.values[:: max(1, len(fields) // count)])
    table: dict[str, list[float]] = {"sigma": [], "prior": [], "gaussian": []}
    for i, level in enumerate(FIELD_LEVELS):
        sigma = torch.full((len(x0),), level)
        noisy = x0 + level * torch.randn(x0.shape, generator=seeded("denoising", i))
        table["sigma"].append(level * prior.scale)
        for name, denoiser in (("prior", prior), ("gaussian", law)):
            with torch.no_grad():
                error = float((denoiser(noisy, sigma) - x0).square().mean().sqrt())
            table[name].append(error * prior.scale)
    return {name: [float(f"{value:.4g}") for value in values] for name, values in table.items()}


def error_ratio(table: dict[str, list[float]]) -> float:
    """Ratio of the prior's mean square error to the Gaussian's, geometric mean over noise levels.

    Args:
        table: see `field_table`.
    """
    ratios = [2 * math.log(a / b) for a, b in zip(table["prior"], table["gaussian"], strict=True)]
    return math.exp(sum(ratios) / len(ratios))
