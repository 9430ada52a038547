"""Training fields: variables and levels of a NetCDF file or a Zarr store, held in memory."""

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
        channels: names, e.g. ("t2m",) or ("z_850", "z_500") with levels in hPa.
        units: unit of each channel.
        grid: grid of every channel.
        period: first and last time, ISO 8601.
        skipped: number of fields left out because values are missing.
        source: source that the file states, or its name.
        times: time of each field, (N,) datetime64; None if the file has no times.
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
        """Mean of the fields: (C, H, W)."""
        return self.values.mean(0)

    def windows(self, hours: int) -> TrainingFields:
        """Every sequence of consecutive hourly fields as a sample: (N', hours * C, H, W).

        Raises: InputError if no sequence has this length.
        """
        if hours == 1:
            return self
        times = np.array([]) if self.times is None else self.times
        follows = np.diff(times) == np.timedelta64(1, "h")
        first = [i for i in range(len(times) - hours + 1) if follows[i : i + hours - 1].all()]
        if not first:
            raise InputError(
                f"fields: no {hours} fields are at consecutive hours; give hourly fields"
            )
        samples = torch.stack([self.values[i : i + hours].flatten(0, 1) for i in first])
        return replace(self, values=samples, times=times[first])

    def batch(self, count: int, generator: torch.Generator, mix: float = 0.0) -> Tensor:
        """Fields drawn uniformly, with replacement: (count, C, H, W).

        Args:
            mix: fraction of blends, mean + cos(angle) a + sin(angle) b, where a and b are the
                anomalies of two fields and the angle is random, from 0 to 90 degrees. A blend has
                the mean and covariance of the fields; blends augment the training data.
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
        """Entries of the card of a prior; `domain_of` reads the first four."""
        return {
            "variables": list(self.channels),
            "units": list(self.units),
            "latitudes": list(self.grid.latitudes),
            "longitudes": list(self.grid.longitudes),
            "period": list(self.period),
            "fields": len(self),
            "skipped": self.skipped,
            "source": self.source,
        }


def load_fields(path: Path, variables: list[str], period: str = "") -> TrainingFields:
    """Fields of a NetCDF file or a Zarr store in a period.

    Variables and levels become channels. All dimensions except latitude, longitude and level become
    the samples. A sample with a missing value is left out and counted.

    Args:
        path: NetCDF file or Zarr store (a folder).
        variables: names of variables.
        period: FIRST/LAST in ISO 8601, both included; a day as LAST includes all its hours, e.g.
            2019-03-01/2019-03-21. Empty for all times.

    Raises: InputError if the file cannot be read, lacks a variable, its grid or its units, or has
        no complete field in the period. OptionError if the period has another form.
    """
    with _opened(path) as data:
        if missing := [name for name in variables if name not in data]:
            raise InputError(
                f"training fields {path}: no variable '{missing[0]}'; "
                f"it holds {', '.join(map(str, data.data_vars))}"
            )
        selected = _in_period(data[variables], period, path)
        if absent := {"latitude", "longitude"} - set(selected.dims):
            raise InputError(
                f"training fields {path}: no dimension '{min(absent)}'; "
                f"it has {', '.join(map(str, selected.dims))}"
            )
        layers, channels, units = _layers(selected, variables, path)
        sides = selected.sizes["latitude"], selected.sizes["longitude"]
        values = np.stack([layer.values.reshape(-1, *sides) for layer in layers], axis=1)
        values = values.astype(np.float32)
        complete = np.isfinite(values).all(axis=(1, 2, 3))
        if not complete.any():
            when = f" in {period}" if period else ""
            raise InputError(
                f"training fields {path}: no complete field of {', '.join(variables)}{when}"
            )
        times = _sample_times(selected, layers[-1])
        return TrainingFields(
            torch.from_numpy(values[complete]),
            channels,
            units,
            Grid.of(selected.latitude.values, selected.longitude.values),
            _span(selected),
            int((~complete).sum()),
            str(data.attrs.get("source", path.name)),
            None if times is None else times[complete],
        )


def _opened(path: Path) -> Any:
    """The xarray dataset of a NetCDF file or a Zarr store."""
    xarray = package("xarray")
    if not path.exists():
        raise InputError(f"training fields {path}: no such file")
    if path.is_dir():
        package("zarr")
    settings = {"engine": "zarr", "consolidated": False} if path.is_dir() else {}
    try:
        return xarray.open_dataset(path, **settings)
    except (ImportError, OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"training fields {path}: not a readable NetCDF file ({reason})"
        ) from error


def _in_period(data: Any, period: str, path: Path) -> Any:
    if not period:
        return data
    first, _, last = period.partition("/")
    if not last:
        raise OptionError(
            f"train: a period is FIRST/LAST, e.g. 2019-03-01/2019-03-21, got '{period}'"
        )
    if "time" not in data.dims:
        raise InputError(f"training fields {path}: has no dimension 'time' for the period {period}")
    return data.sel(time=slice(first, last))


def _layers(
    data: Any, variables: list[str], path: Path
) -> tuple[list[Any], tuple[str, ...], tuple[str, ...]]:
    """Each variable and level (..., latitude, longitude), its name and its unit."""
    layers, channels, units = [], [], []
    for name in variables:
        item = data[name]
        if not item.attrs.get("units"):
            raise InputError(f"training fields {path}: variable '{name}' has no units")
        for level in data.level.values if "level" in item.dims else [None]:
            layer = item if level is None else item.sel(level=level)
            layers.append(layer.transpose(..., "latitude", "longitude"))
            channels.append(name if level is None else f"{name}_{level:g}")
            units.append(str(item.attrs["units"]))
    return layers, tuple(channels), tuple(units)


def _sample_times(data: Any, layer: Any) -> np.ndarray | None:
    """The time of each sample of a layer (..., latitude, longitude), or None without times."""
    if "time" not in data.dims:
        return None
    point = layer.isel(latitude=0, longitude=0)
    times = package("xarray").broadcast(data.time, point)[0].transpose(*layer.dims[:-2])
    return times.values.reshape(-1)


def _span(data: Any) -> tuple[str, str]:
    """The first and the last time, to the minute; empty without times."""
    if "time" not in data.coords:
        return "", ""
    times = np.sort(np.atleast_1d(data.time.values))
    return str(times[0])[:16], str(times[-1])[:16]
