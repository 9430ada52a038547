"""What files of measurements say about a domain: a coarse field, points, or both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from inverse.errors import InputError
from inverse_problems.atmosphere.domain import Domain
from inverse_problems.atmosphere.netcdf import chosen, conformed, moment, read_fields, stamp
from inverse_problems.atmosphere.observations import (
    Observations,
    admitted,
    joined,
    thinned,
    withheld,
)
from inverse_problems.atmosphere.readers import is_points, read
from inverse_problems.atmosphere.scene import Scene


@dataclass(frozen=True)
class Sources:
    """What somebody has measured.

    Args:
        file: a coarse field, or points.
        stations: points beside it.
        time: which one of several, or the first of several hours, ISO 8601.
        thin: stations within this distance in km are averaged.
        withhold: share of stations kept for the score.
    """

    file: Path
    stations: Path | None = None
    time: str | None = None
    thin: float = 0.0
    withhold: float = 0.0

    def scene(
        self, domain: Domain, levelled: Callable[[Observations], Observations]
    ) -> tuple[Scene, list[str]]:
        """What was observed of a domain, and a sentence for each thing that was left out.

        Args:
            levelled: gives observations the standard deviation that they do not say themselves.
        """
        factor: int | None = None
        coarse: np.ndarray | None = None
        start: np.datetime64 | None = (
            None if self.time is None else moment(self.time).astype("datetime64[m]")
        )
        seen: list[tuple[Path, Observations]] = []
        notes: list[str] = []
        if is_points(self.file):
            seen.append((self.file, read(self.file)))
        else:
            coarse, factor, start, notes = read_coarse(self.file, domain, self.time)
        if self.stations is not None:
            seen.append((self.stations, read(self.stations)))
        if not seen:
            return Scene(domain, factor, coarse, start=start), notes
        if start is None and domain.hours > 1:
            start = _earliest(seen)
        points = []
        for path, each in seen:
            found, why = admitted(each, domain, str(path), start)
            points.append(found)
            notes += [f"{path}: {reason}" for reason in why]
        used, kept = withheld(thinned(levelled(joined(points)), self.thin), self.withhold)
        return Scene(domain, factor, coarse, used, kept if len(kept) else None, start), notes


def read_truth(
    file: Path, domain: Domain, time: str | None
) -> tuple[np.ndarray, np.datetime64 | None]:
    """A whole field (hours * variables, H, W) on the domain's own grid, and its first hour.

    Raises: InputError for another grid, or where a value is missing.
    """
    fields, _ = conformed(read_fields(file, domain.variables), domain, file)
    truth, start = chosen(fields, time, file, domain.hours)
    if fields.domain.grid.shape != domain.grid.shape:
        raise InputError(f"{file}: its grid is {fields.domain.grid}, the prior's {domain.grid}")
    if gone := int(np.isnan(truth).sum()):
        raise InputError(
            f"{file}: {gone} of {truth.size} values are missing; a truth must be whole, a --measurement need not be"
        )
    return truth, start


def read_coarse(
    file: Path, domain: Domain, time: str | None
) -> tuple[np.ndarray, int, np.datetime64 | None, list[str]]:
    """Values (hours * variables, h, w) of a coarse field, the factor by which the domain's grid is its, its first hour, and what is missing.

    Raises: InputError if its grid is none over the domain's, or nothing is there.
    """
    fields = read_fields(file, domain.variables)
    for factor in range(1, min(domain.grid.shape)):
        over = domain.grid.coarsened(factor)
        if over.holds(fields.domain.grid):
            values, start = chosen(
                conformed(fields, replace(domain, grid=over), file)[0], time, file, domain.hours
            )
            gone = np.isnan(values)
            if gone.all():
                raise InputError(f"{file}: all {values.size} values are missing")
            notes = (
                []
                if start is None
                else [
                    f"time {stamp(start)}"
                    + (f" and the {domain.hours - 1} hours after it" if domain.hours > 1 else "")
                ]
            )
            return (
                values,
                factor,
                start,
                notes
                + (
                    [f"{gone.sum()} of {values.size} coarse values are missing and masked"]
                    if gone.any()
                    else []
                ),
            )
    fours = domain.grid.coarsened(4)
    found, wanted = (
        fields.domain.grid,
        f"{domain.grid}) coarsened by a whole factor; by 4 that is {fours}",
    )
    raise InputError(f"{file}: its grid is {found}; expected the prior's ({wanted}")


def _earliest(seen: list[tuple[Path, Observations]]) -> np.datetime64:
    """The first time of any observation.

    Raises: InputError if none says when it was.
    """
    times = np.concatenate([each.time for _, each in seen])
    if np.isnat(times).all():
        raise InputError(
            f"{seen[0][0]}: no observation says when it was; a window of several hours needs a column 'time'"
        )
    return np.nanmin(times)
