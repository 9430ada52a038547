"""Loaders of the laws of weather fields that the cards of priors name (hook `inverse_laws`)."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from inverse.priors.loading import PriorCard, load_low_rank
from inverse.registry.types import Range, convert
from inverse_problems.atmosphere.trajectory import TrajectoryPrior
from inverse_problems.atmosphere.zonal import ZonalPrior, zonal_prior


def load_zonal(card: PriorCard, weights: dict[str, Tensor]) -> ZonalPrior:
    """The Gaussian of global fields that a card and its weights describe."""
    return zonal_prior(weights, card.law["shape"][-1], **card.model_units)


def load_trajectory(card: PriorCard, weights: dict[str, Tensor]) -> TrajectoryPrior:
    """The Gaussian of consecutive hours that a card and its weights describe."""
    of_hour = {name.removeprefix("hour."): value for name, value in weights.items()}
    hours = convert(card.law.get("hours"), Annotated[int, Range(1, 1000)], "law.hours")
    return TrajectoryPrior(load_low_rank(card, of_hour), weights["persistence"], hours)
