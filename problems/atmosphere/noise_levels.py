"""Standard deviations of the measurement noise, by variable and by kind of observation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from inverse.errors import OptionError
from inverse_problems.atmosphere.domain import Domain
from inverse_problems.atmosphere.observations import Observations


@dataclass(frozen=True)
class NoiseLevels:
    """Standard deviations of the noise, in the units of each variable.

    Args:
        stations: level of a variable without a level of its own, at stations.
        coarse: level of a variable without a level of its own, in coarse cells.
        by_variable: variable -> level; "t_850" takes precedence over "t".
    """

    stations: float
    coarse: float
    by_variable: dict[str, float]

    def of_cells(self, domain: Domain) -> tuple[float, ...]:
        """The level of the coarse cells of each variable of a domain."""
        return tuple(self._level(variable, self.coarse) for variable in domain.variables)

    def completed(self, observations: Observations) -> Observations:
        """Observations, with the level of their variable where they state no sigma."""
        levels = [self._level(variable, self.stations) for variable in observations.variable]
        unknown = np.isnan(observations.sigma)
        sigma = np.where(unknown, np.array(levels, dtype=np.float64), observations.sigma)
        return replace(observations, sigma=sigma)

    def _level(self, variable: str, default: float) -> float:
        without_pressure = variable.split("_")[0]
        return self.by_variable.get(variable, self.by_variable.get(without_pressure, default))


def parse_levels(texts: tuple[str, ...]) -> dict[str, float]:
    """Variable -> standard deviation, from texts "variable:number".

    Raises: OptionError for another form or a number that is not positive and finite.
    """
    levels = {}
    for text in texts:
        name, _, value = text.rpartition(":")
        try:
            levels[name] = float(value)
        except ValueError as error:
            raise OptionError(
                f"atmosphere: sigmas are variable:number, e.g. z:1.5, got '{text}'"
            ) from error
        if not name or not 0 < levels[name] < float("inf"):
            raise OptionError(
                f"atmosphere: sigmas are variable:number with a positive number, got '{text}'"
            )
    return levels
