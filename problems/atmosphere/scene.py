"""What is observed of a field, or of consecutive ones: a coarse field, stations, or both, as an operator, its noise and its measurement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inverse.measurement.modalities import stack, stacked_noise
from inverse.measurement.noise import GaussianNoise
from inverse_problems.atmosphere.domain import Domain
from inverse_problems.atmosphere.observations import Observations
from inverse_problems.atmosphere.operators import coarsen, sample


@dataclass(frozen=True)
class Scene:
    """Modalities over a domain: `coarse`, `stations`.

    Args:
        domain: of the field.
        factor: of the coarse field, None without one.
        coarse: its values (hours * variables, h, w) in the domain's units, NaN where missing; None where they are yet to be simulated.
        used: observations at stations, with the standard deviation of each; None without.
        withheld: those kept for the score.
        start: the first hour, where it is known.
    """

    domain: Domain
    factor: int | None = None
    coarse: np.ndarray | None = None
    used: Observations | None = None
    withheld: Observations | None = None
    start: np.datetime64 | None = None

    def operator(self) -> Any:
        """The modalities stacked: (B, C, H, W) -> (B, 1, 1, m)."""
        parts = {}
        if self.factor is not None:
            seen = None if self.coarse is None else torch.from_numpy(~np.isnan(self.coarse))
            parts["coarse"] = coarsen(self.domain.grid, self.factor, seen)
        if self.used is not None:
            parts["stations"] = self.at(self.used)
        return stack(parts, self.domain.shape)

    def at(self, seen: Observations) -> Any:
        """The operator that observes a field at these stations."""
        return sample(
            self.domain.grid,
            *seen.places,
            channels=self.domain.shape[0],
            channel=seen.channel(self.domain),
        )

    def noise(self, sigma_coarse: tuple[float, ...], representativeness: float) -> GaussianNoise:
        """Independent noise: that of each variable of the coarse field, and of each station its instrument's with what a point is not representative of."""
        sigma: dict[str, float | Tensor] = {}
        if self.factor is not None:
            shape = (self.domain.shape[0], *self.domain.grid.coarsened(self.factor).shape)
            levels = torch.tensor(sigma_coarse * self.domain.hours, dtype=torch.float64)[
                :, None, None
            ].expand(shape)
            sigma["coarse"] = (
                levels if self.coarse is None else levels[torch.from_numpy(~np.isnan(self.coarse))]
            )
        if self.used is not None:
            sigma["stations"] = torch.from_numpy(np.hypot(self.used.sigma, representativeness))
        return stacked_noise(self.operator(), sigma)

    def measurement(self) -> Tensor:
        """y (1, 1, m) of what was observed, in the order of `operator`."""
        whole = [] if self.coarse is None else [self.coarse[~np.isnan(self.coarse)]]
        whole += [] if self.used is None else [self.used.value]
        return torch.from_numpy(np.concatenate(whole))[None, None]

    def record(self) -> dict[str, Any]:
        """What was observed where, for a result's provenance."""
        found: dict[str, Any] = {}
        for name, seen in (("used", self.used), ("withheld", self.withheld)):
            if seen is not None:
                columns = {
                    field: getattr(seen, field).tolist()
                    for field in ("station", "latitude", "longitude", "variable", "hour")
                }
                found[name] = columns | {"places_sha256": seen.sha256}
        return found

    def __str__(self) -> str:
        coarse = "" if self.factor is None else f"coarse field of factor {self.factor}"
        stations = (
            "" if self.used is None else f"{len(self.used)} observations ({self.used.sha256[:12]})"
        )
        return " and ".join(part for part in (coarse, stations) if part)
