"""A scene: the observations of a field, as an operator, its noise and its measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inverse.measurement.modalities import stack, stacked_noise
from inverse.measurement.noise import GaussianNoise
from inverse.measurement.operators import clone
from inverse.seeding import indices, seeded
from inverse_problems.atmosphere.domain import Domain
from inverse_problems.atmosphere.observations import Observations
from inverse_problems.atmosphere.operators import coarsen, sample


@dataclass(frozen=True)
class Scene:
    """Observations of a field, or of consecutive fields: a coarse field, stations, or both.

    The operator's modalities are `coarse` and `stations`.

    Args:
        domain: variables, units, grid and hours of the field.
        factor: coarsening factor of the coarse field; None without a coarse field.
        coarse: values of the coarse field (hours * variables, h, w) in the domain's units, NaN
            where missing; None if they are simulated.
        used: observations at stations, with their standard deviations; None without stations.
        withheld: observations withheld for the score.
        start: time of the first hour, if known.
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
            parts["coarse"] = coarsen(self.domain.grid, self.factor, self._observed_cells())
        if self.used is not None:
            parts["stations"] = self.at(self.used)
        return stack(parts, self.domain.shape)

    def at(self, observations: Observations) -> Any:
        """The operator of observations at stations: (B, C, H, W) -> (B, 1, 1, n)."""
        return sample(
            self.domain.grid,
            *observations.places,
            channels=self.domain.shape[0],
            channel=observations.channel(self.domain),
        )

    def _observed_cells(self) -> Tensor | None:
        """Boolean (hours * variables, h, w); None for a simulated coarse field, observed whole."""
        return None if self.coarse is None else torch.from_numpy(~np.isnan(self.coarse))

    def noise(self, sigma_coarse: tuple[float, ...], representativeness: float) -> GaussianNoise:
        """Independent Gaussian noise of the coarse cells and the stations.

        Args:
            sigma_coarse: standard deviation of the coarse cells of each variable, in its units.
            representativeness: standard deviation of the difference between a station's value and
                the field at its place, in units of the field; added to the instrument's variance.
        """
        sigma: dict[str, float | Tensor] = {}
        if self.factor is not None:
            shape = (self.domain.shape[0], *self.domain.grid.coarsened(self.factor).shape)
            levels = torch.tensor(sigma_coarse * self.domain.hours, dtype=torch.float64)
            cells, observed = levels[:, None, None].expand(shape), self._observed_cells()
            sigma["coarse"] = cells if observed is None else cells[observed]
        if self.used is not None:
            sigma["stations"] = torch.from_numpy(np.hypot(self.used.sigma, representativeness))
        return stacked_noise(self.operator(), sigma)

    def measurement(self) -> Tensor:
        """The measured values y (1, 1, m), in the order of `operator`."""
        parts = [] if self.coarse is None else [self.coarse[~np.isnan(self.coarse)]]
        parts += [] if self.used is None else [self.used.value]
        return torch.from_numpy(np.concatenate(parts))[None, None]

    def simulated_withheld(
        self, truth: Tensor, seed: int, first_image: int | Sequence[int]
    ) -> list[list[float]]:
        """Simulated values of the withheld observations, with noise: one list for each truth.

        Args:
            truth: (B, C, H, W) in the domain's units.
            seed: random seed of the noise.
            first_image: index of the first truth, or the index of each truth.
        """
        if self.withheld is None:
            return []
        clean = clone(self.at(self.withheld), "cpu", torch.float64).A(truth.cpu().double())
        clean = clean[:, 0, 0]
        noise = [
            torch.randn(clean.shape[1], generator=seeded(seed, "withheld", i), dtype=torch.float64)
            for i in indices(first_image, len(clean))
        ]
        return (clean + torch.from_numpy(self.withheld.sigma) * torch.stack(noise)).tolist()

    def record(self) -> dict[str, Any]:
        """Places and variables of the observations, for the provenance of a result."""
        names = ("station", "latitude", "longitude", "variable", "hour")
        record: dict[str, Any] = {}
        for use, part in (("used", self.used), ("withheld", self.withheld)):
            if part is not None:
                columns = {name: getattr(part, name).tolist() for name in names}
                record[use] = columns | {"places_sha256": part.sha256}
        return record

    def __str__(self) -> str:
        coarse = "" if self.factor is None else f"coarse field of factor {self.factor}"
        stations = ""
        if self.used is not None:
            stations = f"{len(self.used)} observations ({self.used.sha256[:12]})"
        return " and ".join(part for part in (coarse, stations) if part)
