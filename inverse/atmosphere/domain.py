"""What a prior of weather fields is about: variables in order of its channels, their units, and its grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inverse.atmosphere.grid import Grid
from inverse.errors import InputError


@dataclass(frozen=True)
class Domain:
    """Channels and grid of a field (channels, latitude, longitude).

    Args:
        variables: name of each channel; a variable on a pressure level is "t_850", hPa.
        units: of each channel.
        grid: of all.
    """

    variables: tuple[str, ...]
    units: tuple[str, ...]
    grid: Grid

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.variables), *self.grid.shape

    def unit(self, variable: str) -> str:
        return self.units[self.variables.index(variable)]


def domain_of(prior: Any) -> Domain:
    """The domain that a prior's card states in `extra`: variables, units, latitudes, longitudes.

    Raises: InputError for a prior of something else.
    """
    about = getattr(prior, "extra", None) or {}
    missing = [key for key in ("variables", "units", "latitudes", "longitudes") if key not in about]
    if missing:
        name = getattr(prior, "name", type(prior).__name__)
        raise InputError(f"prior {name}: is no prior of weather fields (its card names no {', '.join(missing)}); leave --prior out or name one that is")
    return Domain(tuple(about["variables"]), tuple(about["units"]), Grid.of(about["latitudes"], about["longitudes"]))
