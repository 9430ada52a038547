"""The Gaussian that suits a set of fields: global or regional, of single hours or several."""

from __future__ import annotations

from dataclasses import replace

import torch

from inverse.errors import OptionError
from inverse.priors.analytic import FieldLaw
from inverse_problems.atmosphere.climatology import fit_gaussian
from inverse_problems.atmosphere.training_fields import TrainingFields
from inverse_problems.atmosphere.trajectory import TrajectoryPrior, fit_persistence
from inverse_problems.atmosphere.units import GRAVITY
from inverse_problems.atmosphere.zonal import fit_zonal

ZONAL_TAPERS = (500.0, 700.0, 1000.0, 1500.0, 2000.0, 4000.0)
"""Half-widths (km) of the taper between latitudes to choose from."""


def fit_law(
    fields: TrainingFields, validation: TrainingFields, rank: int, hours: int = 1
) -> tuple[FieldLaw, dict[str, float]]:
    """The Gaussian of fields, and the entries of its card that describe the fit.

    It is a `ZonalPrior` for global fields, a `TrajectoryPrior` for several hours, and otherwise a
    `LowRankPrior`.

    Args:
        fields: training fields of single hours.
        validation: fields that select taper and inflation.
        rank: rank of the Gaussian.
        hours: consecutive hours in a sample.

    Raises: OptionError for several hours of global fields.
    """
    if fields.grid.periodic and hours > 1:
        raise OptionError(
            f"train: a prior of global fields has single hours, got --hours {hours}; use --hours 1"
        )
    if fields.grid.periodic:
        return _fit_global(fields, validation, rank)
    shift, scale = round(float(fields.values.mean()), 2), round(float(fields.values.std()), 3)
    climate = fit_gaussian(
        fields.values, validation.values, fields.grid, rank, shift=shift, scale=scale
    )
    if hours == 1:
        return climate.law, climate.card_fields()
    before, after = fields.windows(2).values.chunk(2, 1)
    persistence = fit_persistence(climate.law, before, after)
    return TrajectoryPrior(climate.law, persistence, hours), climate.card_fields()


def _fit_global(
    fields: TrainingFields, validation: TrainingFields, rank: int
) -> tuple[FieldLaw, dict[str, float]]:
    """The Gaussian of global fields with the taper that maximises the density of `validation`."""
    values, held_out = fields.values, validation.values.double()
    scale = round(float((values - values.mean((0, 3), keepdim=True)).std()), 3)
    laws, densities = {}, {}
    for taper in ZONAL_TAPERS:
        law = laws[taper] = fit_zonal(values, fields.grid, rank, taper, scale=scale)
        log_density = law.log_density(law.encode(held_out))
        densities[taper] = float(log_density.mean()) / law.mean.numel()
    best = max(densities, key=densities.__getitem__)
    return laws[best], {
        "taper_km": best,
        "held_out_nats_per_point": round(densities[best], 4),
    }


def in_decametres(fields: TrainingFields) -> TrainingFields:
    """Fields with geopotential (m2 s-2) converted to geopotential height (dam).

    In dam the height varies about as much as temperature in K. Other channels are unchanged.
    """
    gains = [1 / (10 * GRAVITY) if unit == "m2 s-2" else 1.0 for unit in fields.units]
    values = fields.values * torch.tensor(gains)[:, None, None]
    units = tuple("dam" if unit == "m2 s-2" else unit for unit in fields.units)
    return replace(fields, values=values, units=units)
