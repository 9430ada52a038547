"""The domain of a prior of weather fields: variables, units, grid and hours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inverse.errors import InputError
from inverse_problems.atmosphere.grid import Grid


@dataclass(frozen=True)
class Domain:
    """Channels and grid of a field (hours * variables, latitude, longitude).

    All variables of the first hour come first.

    Args:
        variables: names in the order of the channels; "t_850" is t at 850 hPa.
        units: unit of each variable.
        grid: grid of every variable.
        hours: number of consecutive hours.
    """

    variables: tuple[str, ...]
    units: tuple[str, ...]
    grid: Grid
    hours: int = 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """(hours * variables, H, W)."""
        return self.hours * len(self.variables), *self.grid.shape

    def unit(self, variable: str) -> str:
        """The unit of a variable."""
        return self.units[self.variables.index(variable)]


def domain_of(prior: Any) -> Domain:
    """The domain that a prior's card states in `extra`; the prior's shape determines the hours.

    Raises: InputError if the card states no variables, units, latitudes or longitudes.
    """
    extra = getattr(prior, "extra", None) or {}
    missing = [key for key in ("variables", "units", "latitudes", "longitudes") if key not in extra]
    if missing:
        name = getattr(prior, "name", type(prior).__name__)
        raise InputError(
            f"prior {name}: is not a prior of weather fields "
            f"(its card lacks {', '.join(missing)}); omit --prior or name a prior of weather fields"
        )
    variables, units = tuple(extra["variables"]), tuple(extra["units"])
    grid = Grid.of(extra["latitudes"], extra["longitudes"])
    return Domain(variables, units, grid, prior.shape[0] // len(variables))
