"""The Gaussian of a field's climate: mean and covariance of the fields of a few weeks.

The fields of a month of hours are many, but few of them are independent. The sample covariance is
therefore singular, and its distant correlations are noise. As in ensemble data assimilation it is
tapered with distance and inflated; taper and inflation maximise the density of held-out days. The
result is stored as a low rank and a floor.

Sources: Gaspari, Cohn, Construction of correlation functions in two and three dimensions, Quarterly
Journal of the Royal Meteorological Society 1999, eq. 4.10 (the taper); Hamill, Whitaker, Snyder,
Distance-dependent filtering of background error covariance estimates, Monthly Weather Review 2001.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from inverse.priors.analytic import LowRankPrior
from inverse_problems.atmosphere.grid import Grid, distance

TAPERS = (200.0, 300.0, 400.0, 500.0, 700.0, 1000.0)
"""Half-widths of the taper to choose from, km."""
INFLATIONS = (1.0, 1.25, 1.5, 2.0)
"""Factors on the covariance to choose from."""


@dataclass(frozen=True)
class Climatology:
    """A fitted Gaussian, and its taper and inflation.

    Args:
        law: the Gaussian, model units.
        taper: half-width of the taper, km; correlations vanish at twice that distance.
        inflation: factor on the covariance.
        held_out: log density of the held-out fields, nats per entry of a field.
    """

    law: LowRankPrior
    taper: float
    inflation: float
    held_out: float

    def card_fields(self) -> dict[str, float]:
        """Entries of the card of the prior."""
        return {
            "taper_km": self.taper,
            "inflation": self.inflation,
            "held_out_nats_per_point": round(self.held_out, 4),
        }


def fit_gaussian(
    fields: Tensor,
    held_out: Tensor,
    grid: Grid,
    rank: int = 400,
    tapers: tuple[float, ...] = TAPERS,
    inflations: tuple[float, ...] = INFLATIONS,
    **units: float,
) -> Climatology:
    """The Gaussian of fields; held-out fields determine its taper and inflation.

    The taper is the same within a channel and between channels.

    Args:
        fields: (N, C, H, W), physical units.
        held_out: (M, C, H, W), physical units; separated from `fields` by days, because nearby
            hours are nearly equal.
        grid: grid of the fields.
        rank: number of directions above the floor.
        tapers: half-widths of the taper to choose from, km.
        inflations: factors on the covariance to choose from.
        units: shift and scale of the law's model units, and its trusted noise levels.
    """
    shape = tuple(fields.shape[1:])
    x, other = (
        (f.double().flatten(1) - units.get("shift", 0.0)) / units.get("scale", 1.0)
        for f in (fields, held_out)
    )
    mean = x.mean(0)
    covariance = (x - mean).T @ (x - mean) / len(x)
    lat, lon = torch.meshgrid(
        torch.tensor(grid.latitudes), torch.tensor(grid.longitudes), indexing="ij"
    )
    places = (lat.flatten().repeat(shape[0]), lon.flatten().repeat(shape[0]))
    km = distance(places, places)
    best: Climatology | None = None
    for taper in tapers:
        variances, basis = torch.linalg.eigh(covariance * gaspari_cohn(km, taper))
        variances, basis = variances.flip(0).clamp_min(0), basis.flip(1)
        kept = min(rank, len(mean) - 1)
        floor = variances[kept:].mean()
        for inflation in inflations:
            law = LowRankPrior(
                mean.reshape(shape),
                basis[:, :kept],
                inflation * variances[:kept],
                inflation * floor,
                **units,
            )
            score = float(law.log_density(other.reshape(-1, *shape)).mean()) / len(mean)
            if best is None or score > best.held_out:
                best = Climatology(law, taper, inflation, score)
    assert best is not None
    return best


def gaspari_cohn(distance: Tensor, half_width: float) -> Tensor:
    """The fifth-order piecewise rational correlation: any shape -> same shape.

    It is 1 at distance 0, 0 beyond twice the half-width, and positive definite in space.

    Args:
        distance: km.
        half_width: km.

    Source: Gaspari, Cohn, 1999, eq. 4.10.
    """
    z = distance / half_width
    near = -0.25 * z**5 + 0.5 * z**4 + 0.625 * z**3 - 5 / 3 * z**2 + 1
    far = z**5 / 12 - 0.5 * z**4 + 0.625 * z**3 + 5 / 3 * z**2 - 5 * z + 4
    far = far - 2 / (3 * z.clamp_min(1))
    return torch.where(z <= 1, near, torch.where(z < 2, far, torch.zeros_like(z)))
