"""Training fields in memory: variables and levels of a NetCDF file or a Zarr store, served whole."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inverse.errors import InputError, OptionError
from inverse_problems.atmosphere.grid import Grid
from inverse_problems.atmosphere.netcdf import package


@dataclass(frozen=True)
class TrainingFields:
    """Fields on a latitude-longitude grid.

    Args:
        values: (N, C, H, W), physical units, float32.
        channels: what each is, e.g. ("t2m",) or ("z_850", "z_500"), levels in hPa.
        units: of each channel.
        grid: of the points.
        period: first and last time, ISO 8601.
        skipped: fields that were left out because values are missing.
        source: what the file says it is.
        times: of each, (N,) datetime64, None where the file has none.
    """

    values: Tensor
    channels: tuple[str, ...]
    units: tuple[str, ...]
    grid: Grid
    period: tuple[str, str]
    skipped: int
    source: str
    times: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def mean(self) -> Tensor:
        """(C, H, W)."""
        return self.values.mean(0)

    def windows(self, hours: int) -> TrainingFields:
        """Every run of so many fields an hour apart as one sample, (N', hours * C, H, W).

        Raises: InputError if there is none.
        """
        if hours == 1:
            return self
        times = np.array([]) if self.times is None else self.times
        follows = np.diff(times) == np.timedelta64(1, "h")
        first = [i for i in range(len(times) - hours + 1) if follows[i : i + hours - 1].all()]
        if not first:
            raise InputError(
                f"fields: no {hours} of them are an hour apart each; give hourly fields"
            )
        return replace(
            self,
            values=torch.stack([self.values[i : i + hours].flatten(0, 1) for i in first]),
            times=times[first],
        )

    def batch(self, count: int, generator: torch.Generator, mix: float = 0.0) -> Tensor:
        """Fields drawn uniformly: (count, C, H, W).

        Args:
            mix: share of them that are blends, mean + cos(angle) a + sin(angle) b of the anomalies a and b of two fields, at a
                random angle up to 90 degrees: of the same mean and covariance, and more of them than there are fields.
        """
        i, j = torch.randint(len(self.values), (2, count), generator=generator)
        angle, chosen = torch.rand(2, count, generator=generator)
        angle = (torch.pi / 2 * angle * (chosen < mix))[:, None, None, None]
        return (
            self.mean
            + angle.cos() * (self.values[i] - self.mean)
            + angle.sin() * (self.values[j] - self.mean)
        )

    def card_fields(self) -> dict[str, Any]:
        """For the card; `atmosphere.domain.domain_of` reads the first four."""
        about: dict[str, Any] = {"variables": list(self.channels), "units": list(self.units)}
        about |= {"latitudes": list(self.grid.latitudes), "longitudes": list(self.grid.longitudes)}
        return about | {
            "period": list(self.period),
            "fields": len(self),
            "skipped": self.skipped,
            "source": self.source,
        }


def load_fields(path: Path, variables: list[str], period: str = "") -> TrainingFields:
    """Fields of a NetCDF file (or Zarr store) between two times, both included.

    Every dimension but latitude, longitude and the level counts samples; variables and levels become channels. A sample with a
    missing value is left out and counted.

    Args:
        period: FIRST/LAST in ISO 8601, a day standing for its last moment at the end: 2019-03-01/2019-03-21. Empty for all times.

    Raises: InputError if the file cannot be read, lacks a variable, its grid or its units, or holds no whole field in the period.
    """
    xarray = package("xarray")
    if not path.exists():
        raise InputError(f"training fields {path}: no such file")
    if path.is_dir():
        package("zarr")
    try:
        data = (
            xarray.open_dataset(path, engine="zarr", consolidated=False)
            if path.is_dir()
            else xarray.open_dataset(path)
        )
    except (ImportError, OSError, ValueError, TypeError) as error:
        raise InputError(
            f"training fields {path}: not a readable NetCDF file ({str(error).splitlines()[0]})"
        ) from error
    with data:
        if absent := [name for name in variables if name not in data]:
            raise InputError(
                f"training fields {path}: no variable '{absent[0]}'; it holds {', '.join(map(str, data.data_vars))}"
            )
        chosen = data[variables]
        if period:
            first, _, last = period.partition("/")
            if not last:
                raise OptionError(
                    f"train: a period is FIRST/LAST, e.g. 2019-03-01/2019-03-21, got '{period}'"
                )
            if "time" not in chosen.dims:
                raise InputError(
                    f"training fields {path}: there is no dimension 'time' to take {period} of"
                )
            chosen = chosen.sel(time=slice(first, last))
        if gone := {"latitude", "longitude"} - set(chosen.dims):
            raise InputError(
                f"training fields {path}: no dimension '{min(gone)}'; it has {', '.join(map(str, chosen.dims))}"
            )
        stacks, channels, units = [], [], []
        for name in variables:
            if not chosen[name].attrs.get("units"):
                raise InputError(f"training fields {path}: variable '{name}' has no units")
            levels = chosen.level.values if "level" in chosen[name].dims else [None]
            for level in levels:
                one = chosen[name] if level is None else chosen[name].sel(level=level)
                one = one.transpose(..., "latitude", "longitude")
                stacks.append(
                    one.values.reshape(-1, *[chosen.sizes[d] for d in ("latitude", "longitude")])
                )
                channels.append(name if level is None else f"{name}_{level:g}")
                units.append(str(chosen[name].attrs["units"]))
        values = np.stack(stacks, axis=1).astype(np.float32)
        whole = np.isfinite(values).all(axis=(1, 2, 3))
        if not whole.any():
            raise InputError(
                f"training fields {path}: no whole field of {', '.join(variables)} {'in ' + period if period else ''}".rstrip()
            )
        points = (
            xarray.broadcast(chosen.time, one.isel(latitude=0, longitude=0))[0].transpose(
                *one.dims[:-2]
            )
            if "time" in chosen.dims
            else None
        )
        times = None if points is None else points.values.reshape(-1)[whole]
        each = np.sort(np.atleast_1d(chosen.time.values)) if "time" in chosen.coords else None
        span = ("", "") if each is None else (str(each[0])[:16], str(each[-1])[:16])
        grid = Grid.of(chosen.latitude.values, chosen.longitude.values)
        kept = torch.from_numpy(values[whole])
        return TrainingFields(
            kept,
            tuple(channels),
            tuple(units),
            grid,
            span,
            int((~whole).sum()),
            str(data.attrs.get("source", path.name)),
            times,
        )
