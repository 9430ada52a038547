"""The analysis of a weather field as maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from inverse.io.files import atomic_write
from inverse.result import Result
from inverse_problems.atmosphere.analysis_file import at_places, coarse_field, station_values
from inverse_problems.atmosphere.coastlines import coastlines
from inverse_problems.atmosphere.domain import Domain
from inverse_problems.atmosphere.netcdf import HOUR, package, stamp
from inverse_problems.atmosphere.observations import Observations
from inverse_problems.atmosphere.scene import Scene

EDGES = {"used": "black", "withheld": "red"}
"""Colour of the edge of a station's marker."""


def write_map(result: Result, scene: Scene, path: Path, max_hours: int = 4) -> None:
    """Write maps of the first variable of the first image of a result as PNG, with coastlines.

    The columns are the observations, the mean, the standard deviation, and the error of the mean;
    without a truth the last column is the difference of stations and mean.

    Args:
        max_hours: largest number of hours to draw, a row each.
    """
    package("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    last = scene.domain.hours - 1
    hours = sorted({round(hour) for hour in np.linspace(0, last, max_hours)}) if last else [0]
    figure = Figure(figsize=(18, 4.2 * len(hours)), layout="constrained")
    axes = figure.subplots(len(hours), 4, sharex=True, sharey=True, squeeze=False)
    for row, hour in zip(axes, hours, strict=True):
        _draw_hour(figure, row, result, scene, hour)
    with atomic_write(path) as temporary:
        resolution = 110 if len(hours) == 1 else 70
        FigureCanvasAgg(figure).print_figure(temporary, dpi=resolution, format="png")


def _draw_hour(figure: Any, axes: Any, result: Result, scene: Scene, hour: int) -> None:
    domain, name = scene.domain, scene.domain.variables[0]
    channel = hour * len(domain.variables)
    stations = [
        (use, observations[rows], values[rows])
        for use, observations, values in station_values(result, scene)
        for rows in [(observations.variable == name) & (observations.hour == hour)]
    ]
    all_hours = _numpy(result.mean[0, :: len(domain.variables)])
    colours = {"vmin": all_hours.min(), "vmax": all_hours.max(), "cmap": "viridis"}
    mean, std = _numpy(result.mean[0, channel]), _numpy(result.std[0, channel])
    spread = {"cmap": "magma", "vmin": 0}
    panels: list[tuple[str, Any]] = [
        (
            f"observed{_time_label(scene, hour)}",
            _draw_observations(axes[0], result, scene, channel, stations, colours),
        ),
        ("mean", _draw_field(axes[1], domain, mean, 1, colours)),
        ("standard deviation", _draw_field(axes[2], domain, std, 1, spread)),
    ]
    if result.truth is not None:
        error = mean - _numpy(result.truth[0, channel])
        colours = _diverging(max(abs(error).max(), 1e-12))
        panels.append(("error of the mean", _draw_field(axes[3], domain, error, 1, colours)))
    else:
        panels.append(("stations minus mean", _draw_departures(axes[3], result, domain, stations)))
    for axis, (title, image) in zip(axes, panels, strict=True):
        axis.set_title(title)
        axis.set_xlabel("longitude")
        if image is not None:
            figure.colorbar(image, ax=axis, shrink=0.85, label=f"{name} ({domain.units[0]})")
    axes[0].set_ylabel("latitude")


def _draw_observations(
    axis: Any,
    result: Result,
    scene: Scene,
    channel: int,
    stations: list[tuple[str, Observations, np.ndarray]],
    colours: dict[str, Any],
) -> Any:
    """The coarse field and the stations; returns the last image, None if there is none."""
    coarse = coarse_field(result, scene)
    field = None if coarse is None else coarse[channel]
    image = _draw_field(axis, scene.domain, field, scene.factor, colours)
    for use, observations, values in stations:
        label = f"stations, {use}"
        image = _draw_stations(axis, scene.domain, observations, values, use, colours, label)
    if stations:
        axis.legend(loc="upper right", fontsize=7)
    return image


def _draw_departures(
    axis: Any,
    result: Result,
    domain: Domain,
    stations: list[tuple[str, Observations, np.ndarray]],
) -> Any:
    """The stations' values minus the mean of the analysis."""
    departures = [
        (use, observations, values - at_places(result.mean[:1], domain, observations))
        for use, observations, values in stations
    ]
    largest = max([1e-12, *(abs(d).max() for _, _, d in departures if len(d))])
    image = _draw_field(axis, domain, None, 1, {})
    for use, observations, departure in departures:
        colours = _diverging(largest)
        image = _draw_stations(axis, domain, observations, departure, use, colours)
    return image


def _draw_stations(
    axis: Any,
    domain: Domain,
    observations: Observations,
    values: np.ndarray,
    use: str,
    colours: dict[str, Any],
    label: str | None = None,
) -> Any:
    # whole turns bring the longitudes onto those of the grid
    west = domain.grid.longitudes[0]
    longitude = west + (observations.longitude - west + 1e-9) % 360 - 1e-9
    marker = {"edgecolors": EDGES[use], "s": 40, "label": label}
    return axis.scatter(longitude, observations.latitude, c=values, **marker, **colours)


def _draw_field(
    axis: Any,
    domain: Domain,
    values: np.ndarray | None,
    factor: int | None,
    colours: dict[str, Any],
) -> Any:
    """A field on the grid coarsened by a factor; without values, an empty map."""
    lat, lon = np.array(domain.grid.latitudes), np.array(domain.grid.longitudes)
    axis.set_xlim(lon.min(), lon.max())
    axis.set_ylim(lat.min(), lat.max())
    coast = coastlines(lon.min(), lon.max(), lat.min(), lat.max())
    axis.plot(coast[:, 0], coast[:, 1], color="0.25", linewidth=0.6, zorder=2, label="_coast")
    if values is None:
        return None
    rows, columns = (
        np.append(edges[:: factor or 1][:count], edges[-1])
        for edges, count in zip((_edges(lat), _edges(lon)), values.shape, strict=True)
    )
    return axis.pcolormesh(columns, rows, values, **colours)


def _edges(points: np.ndarray) -> np.ndarray:
    """The edges of the cells around points: (n,) -> (n + 1,)."""
    middle = (points[1:] + points[:-1]) / 2
    return np.concatenate([[2 * points[0] - middle[0]], middle, [2 * points[-1] - middle[-1]]])


def _diverging(bound: float) -> dict[str, Any]:
    return {"cmap": "RdBu_r", "vmin": -bound, "vmax": bound}


def _time_label(scene: Scene, hour: int) -> str:
    if scene.start is not None:
        return f", valid {stamp(scene.start + hour * HOUR)}"
    return "" if scene.domain.hours == 1 else f", hour {hour}"


def _numpy(values: Tensor) -> np.ndarray:
    return values.float().numpy()
