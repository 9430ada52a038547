"""What a prior of weather fields is about: variables in order of its channels, their units, and its grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inverse.errors import InputError
from inverse_problems.atmosphere.grid import Grid


@dataclass(frozen=True)
class Domain:
    """Channels and grid of a field (hours * variables, latitude, longitude), all variables of the first hour first.

    Args:
        variables: their names; a variable on a pressure level is "t_850", hPa.
        units: of each variable.
        grid: of all.
        hours: that follow one another; 1 for a field of one time.
    """

    variables: tuple[str, ...]
    units: tuple[str, ...]
    grid: Grid
    hours: int = 1

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.hours * len(self.variables), *self.grid.shape

    def unit(self, variable: str) -> str:
        return self.units[self.variables.index(variable)]


def domain_of(prior: Any) -> Domain:
    """The domain that a prior's card states in `extra`: variables, units, latitudes, longitudes; its hours are what its shape holds of them.

    Raises: InputError for a prior of something else.
    """
    about = getattr(prior, "extra", None) or {}
    missing = [key for key in ("variables", "units", "latitudes", "longitudes") if key not in about]
    if missing:
        name = getattr(prior, "name", type(prior).__name__)
        raise InputError(
            f"prior {name}: is no prior of weather fields (its card names no {', '.join(missing)}); leave --prior out or name one that is"
        )
    hours = prior.shape[0] // len(about["variables"])
    return Domain(
        tuple(about["variables"]),
        tuple(about["units"]),
        Grid.of(about["latitudes"], about["longitudes"]),
        hours,
    )
