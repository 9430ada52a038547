"""Truths and measurements of weather fields, read from files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from inverse.errors import InputError
from inverse_problems.atmosphere.domain import Domain
from inverse_problems.atmosphere.grid import Grid
from inverse_problems.atmosphere.gridded_fields import (
    GriddedFields,
    conformed,
    read_fields,
    window_of,
)
from inverse_problems.atmosphere.netcdf import moment, stamp
from inverse_problems.atmosphere.noise_levels import NoiseLevels
from inverse_problems.atmosphere.observation_files import holds_points, read_observations
from inverse_problems.atmosphere.observations import (
    Observations,
    admitted,
    joined,
    thinned,
    withheld,
)
from inverse_problems.atmosphere.scene import Scene


@dataclass(frozen=True)
class MeasurementFiles:
    """The files of a measurement, and how to use them.

    Args:
        file: coarse field or point observations.
        stations: more point observations.
        time: time to use of several, or the first of several hours (ISO 8601).
        thin: radius (km) within which stations are averaged.
        withhold: fraction of the stations withheld for the score.
    """

    file: Path
    stations: Path | None = None
    time: str | None = None
    thin: float = 0.0
    withhold: float = 0.0

    def scene(self, domain: Domain, levels: NoiseLevels) -> tuple[Scene, list[str]]:
        """The observations of a domain, and a note on each kind of value left out.

        Args:
            levels: standard deviations of observations that state none.

        Raises: InputError if a file cannot be used or no observation is left.
        """
        factor: int | None = None
        coarse: np.ndarray | None = None
        start = None if self.time is None else moment(self.time).astype("datetime64[m]")
        notes: list[str] = []
        paths = [] if self.stations is None else [self.stations]
        if holds_points(self.file):
            paths = [self.file, *paths]
        else:
            coarse, factor, start, notes = read_coarse(self.file, domain, self.time)
        tables = [(path, read_observations(path)) for path in paths]
        if not tables:
            return Scene(domain, factor, coarse, start=start), notes
        if start is None and domain.hours > 1:
            start = _earliest(tables)
        timed = [path for path, table in tables if not np.isnat(table.time).all()]
        if start is None and coarse is not None and timed:
            raise InputError(
                f"{timed[0]}: its observations have times, {self.file} has none; say which hour "
                "the field is of with --problem-option time=2019-03-25T12"
            )
        parts = []
        for path, table in tables:
            part, reasons = admitted(table, domain, str(path), start)
            parts.append(part)
            notes += [f"{path}: {reason}" for reason in reasons]
        points = thinned(levels.completed(joined(parts)), self.thin)
        used, kept_back = withheld(points, self.withhold)
        scene = Scene(domain, factor, coarse, used, kept_back if len(kept_back) else None, start)
        return scene, notes


def read_truth(
    file: Path, domain: Domain, time: str | None
) -> tuple[np.ndarray, np.datetime64 | None]:
    """A complete field (hours * variables, H, W) on the grid of a domain, and its first hour.

    Raises: InputError for another grid, or if a value is missing.
    """
    fields, _ = conformed(read_fields(file, domain.variables), domain, file)
    truth, start = window_of(fields, time, file, domain.hours)
    if fields.domain.grid.shape != domain.grid.shape:
        raise InputError(f"{file}: its grid is {fields.domain.grid}, the prior's {domain.grid}")
    if missing := int(np.isnan(truth).sum()):
        raise InputError(
            f"{file}: {missing} of {truth.size} values are missing; "
            "a truth must be complete, a --measurement need not be"
        )
    return truth, start


def read_coarse(
    file: Path, domain: Domain, time: str | None
) -> tuple[np.ndarray, int, np.datetime64 | None, list[str]]:
    """A coarse field over a domain.

    Returns: its values (hours * variables, h, w) in the units of the domain, NaN where missing; the
    factor by which its grid is coarser; its first hour; and notes for the user.

    Raises: InputError if its grid is not the domain's, coarsened, or all values are missing.
    """
    fields = read_fields(file, domain.variables)
    factor, grid = _coarsening(fields, domain, file)
    on_grid, _ = conformed(fields, replace(domain, grid=grid), file)
    values, start = window_of(on_grid, time, file, domain.hours)
    missing = np.isnan(values)
    if missing.all():
        raise InputError(f"{file}: all {values.size} values are missing")
    notes = []
    if start is not None:
        following = f" and the {domain.hours - 1} hours after it" if domain.hours > 1 else ""
        notes.append(f"time {stamp(start)}{following}")
    if missing.any():
        notes.append(f"{missing.sum()} of {values.size} coarse values are missing and masked")
    return values, factor, start, notes


def _coarsening(fields: GriddedFields, domain: Domain, file: Path) -> tuple[int, Grid]:
    """The factor by which the grid of fields is coarser than a domain's, and that coarse grid."""
    for factor in range(1, min(domain.grid.shape)):
        grid = domain.grid.coarsened(factor)
        if grid.holds(fields.domain.grid):
            return factor, grid
    raise InputError(
        f"{file}: its grid is {fields.domain.grid}; expected the prior's ({domain.grid}) "
        f"coarsened by a whole factor; by 4 that is {domain.grid.coarsened(4)}"
    )


def _earliest(tables: list[tuple[Path, Observations]]) -> np.datetime64:
    """The first time of any observation.

    Raises: InputError if no observation has a time.
    """
    times = np.concatenate([table.time for _, table in tables])
    if np.isnat(times).all():
        raise InputError(
            f"{tables[0][0]}: no observation has a time; "
            "a window of several hours needs a column 'time'"
        )
    return np.nanmin(times)
