"""An analysis for those who work with weather fields: CF NetCDF and a map."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inverse import __version__
from inverse.io.files import atomic_write
from inverse.measurement.operators import clone
from inverse.result import Result
from inverse_problems.atmosphere.domain import Domain
from inverse_problems.atmosphere.grid import Grid
from inverse_problems.atmosphere.netcdf import HOUR, package, stamp, write
from inverse_problems.atmosphere.observations import Observations
from inverse_problems.atmosphere.scene import Scene

STANDARD_NAMES = {
    "t2m": "air_temperature",
    "t": "air_temperature",
    "z": "geopotential",
    "u": "eastward_wind",
    "v": "northward_wind",
    "q": "specific_humidity",
}


def export(result: Result, scene: Scene, folder: Path) -> None:
    """analysis.nc and map.png of the first image of a result."""
    write(folder / "analysis.nc", dataset(result, scene))
    draw(result, scene, folder / "map.png")


def dataset(result: Result, scene: Scene) -> Any:
    """Mean, standard deviation and members of each variable, the coarse field, observations used and withheld beside the analysis at
    their places, and how all of it came about: an xarray dataset after the CF conventions. Several hours have a dimension `time`."""
    domain, place = scene.domain, ("latitude", "longitude")
    fields: dict[str, Any] = {}
    whole = {
        "mean": (result.mean[0], "mean of the ensemble"),
        "std": (result.std[0], "standard deviation of the ensemble"),
    }
    if result.truth is not None:
        whole["truth"] = result.truth[0], "field that was observed"
    for kind, (values, words) in whole.items():
        fields |= _variables(kind, domain, _numpy(values), place, words)
    fields |= _variables(
        "members", domain, _numpy(result.samples[0]), place, "members of the ensemble"
    )
    coordinates = _axes("", domain.grid) | {
        "member": ("member", np.arange(result.samples.shape[1]), {"standard_name": "realization"})
    }
    if domain.hours > 1 or scene.start is not None:
        coordinates["time"] = _clock(scene)
    if (coarse := coarse_field(result, scene)) is not None and scene.factor is not None:
        coordinates |= _axes("coarse_", domain.grid.coarsened(scene.factor))
        fields |= _variables(
            "coarse",
            domain,
            coarse,
            ("coarse_latitude", "coarse_longitude"),
            "coarse field that was used",
        )
    for kind, seen, observed in stations(result, scene):
        fields |= _points(kind, seen, observed, domain, result)
    came = result.provenance
    attributes = {
        "Conventions": "CF-1.11",
        "title": "Ensemble analysis of a weather field from a coarse field and stations",
        "source": f"inverse {__version__}, {came['method']['name']} with the prior {came['prior']}",
        "history": f"inverse solve --problem {came['problem']['name']} --method {came['method']['name']} --seed {came['seed']}",
        "provenance": json.dumps(
            {key: value for key, value in came.items() if key not in ("observations", "trace")},
            default=str,
        ),
    }
    return package("xarray").Dataset(fields, coordinates, attributes)


def _variables(
    kind: str, domain: Domain, values: np.ndarray, place: tuple[str, str], words: str
) -> dict[str, Any]:
    """Each variable of values (hours * variables, h, w), or of members of such, by its name and kind."""
    values = values.reshape(
        *values.shape[:-3], domain.hours, len(domain.variables), *values.shape[-2:]
    )
    values, dims = (
        (values[..., 0, :, :, :], place) if domain.hours == 1 else (values, ("time", *place))
    )
    found = {}
    for c, (name, unit) in enumerate(zip(domain.variables, domain.units, strict=True)):
        standard = (
            "geopotential_height"
            if name[0] == "z" and unit in ("m", "dam", "km")
            else STANDARD_NAMES.get(name.split("_")[0])
        )
        about = {
            "units": unit,
            "long_name": f"{name}, {words}",
            **({"standard_name": standard} if standard else {}),
        }
        found[f"{name}_{kind}"] = (
            ("member", *dims) if kind == "members" else dims,
            values[..., c, :, :],
            about,
        )
    return found


def _axes(prefix: str, grid: Grid) -> dict[str, Any]:
    latitude = {"units": "degrees_north", "standard_name": "latitude"} | (
        {} if prefix else {"axis": "Y"}
    )
    longitude = {"units": "degrees_east", "standard_name": "longitude"} | (
        {} if prefix else {"axis": "X"}
    )
    return {
        f"{prefix}latitude": (f"{prefix}latitude", np.array(grid.latitudes), latitude),
        f"{prefix}longitude": (f"{prefix}longitude", np.array(grid.longitudes), longitude),
    }


def _clock(scene: Scene) -> Any:
    """The hours, since the first one where nobody knows when that was; a scalar if there is one hour."""
    dims, hours = (
        ((), np.array(0)) if scene.domain.hours == 1 else ("time", np.arange(scene.domain.hours))
    )
    if scene.start is None:
        return dims, hours, {"units": "1", "long_name": "hours since the first"}
    since = str(scene.start.astype("datetime64[s]")).replace("T", " ")
    return (
        dims,
        hours,
        {
            "units": f"hours since {since}",
            "calendar": "standard",
            "standard_name": "time",
            "axis": "T",
        },
    )


def coarse_field(result: Result, scene: Scene) -> np.ndarray | None:
    """The coarse field that was used, (hours * variables, h, w), NaN where it was missing; None without one."""
    if scene.factor is None:
        return None
    part = result.y[0].flatten()[scene.operator().modalities["coarse"]].double().numpy()
    shape = (scene.domain.shape[0], *scene.domain.grid.coarsened(scene.factor).shape)
    if scene.coarse is None:
        return part.reshape(shape)
    whole = np.full(shape, np.nan)
    whole[~np.isnan(scene.coarse)] = part
    return whole


def stations(result: Result, scene: Scene) -> list[tuple[str, Observations, np.ndarray]]:
    """("used" or "withheld", observations, their values (n,)), those there are."""
    found = []
    if scene.used is not None:
        found.append(
            (
                "used",
                scene.used,
                result.y[0].flatten()[scene.operator().modalities["stations"]].double().numpy(),
            )
        )
    if scene.withheld is not None:
        found.append(
            (
                "withheld",
                scene.withheld,
                np.array(result.provenance["observations"]["withheld"]["value"][0]),
            )
        )
    return found


def draw(result: Result, scene: Scene, path: Path, most: int = 4) -> None:
    """What was observed, reconstruction, spread, and error or, without a truth, what stations say against the analysis: of the first
    variable, a row for each of at most `most` hours."""
    package("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    hours = (
        sorted({round(h) for h in np.linspace(0, scene.domain.hours - 1, most)})
        if scene.domain.hours > 1
        else [0]
    )
    figure = Figure(figsize=(18, 4.2 * len(hours)), layout="constrained")
    axes = figure.subplots(len(hours), 4, sharex=True, sharey=True, squeeze=False)
    for row, hour in zip(axes, hours, strict=True):
        _draw_hour(figure, row, result, scene, hour)
    with atomic_write(path) as temporary:
        FigureCanvasAgg(figure).print_figure(
            temporary, dpi=110 if len(hours) == 1 else 70, format="png"
        )


def _draw_hour(figure: Any, axes: Any, result: Result, scene: Scene, hour: int) -> None:
    domain, name = scene.domain, scene.domain.variables[0]
    channel = hour * len(domain.variables)
    mean, std, whole = (
        _numpy(result.mean[0, channel]),
        _numpy(result.std[0, channel]),
        _numpy(result.mean[0, :: len(domain.variables)]),
    )
    coarse = coarse_field(result, scene)
    here = [
        (kind, seen, values, (seen.variable == name) & (seen.hour == hour))
        for kind, seen, values in stations(result, scene)
    ]
    points = [(kind, seen[rows], values[rows]) for kind, seen, values, rows in here]
    shown = {"vmin": whole.min(), "vmax": whole.max(), "cmap": "viridis"}
    image = _field(
        axes[0], domain, None if coarse is None else coarse[channel], scene.factor, shown
    )
    for kind, seen, values in points:
        edge = "black" if kind == "used" else "red"
        image = axes[0].scatter(
            _turned(seen.longitude, domain),
            seen.latitude,
            c=values,
            edgecolors=edge,
            s=40,
            label=f"stations, {kind}",
            **shown,
        )
    if points:
        axes[0].legend(loc="upper right", fontsize=7)
    when = (
        ""
        if domain.hours == 1
        else f", {stamp(scene.start + hour * HOUR)}"
        if scene.start is not None
        else f", hour {hour}"
    )
    panels: list[tuple[Any, str, Any]] = [
        (axes[0], f"observed{when}", image),
        (axes[1], "mean", _field(axes[1], domain, mean, 1, shown)),
    ]
    panels.append(
        (
            axes[2],
            "standard deviation",
            _field(axes[2], domain, std, 1, {"cmap": "magma", "vmin": 0}),
        )
    )
    if result.truth is not None:
        error = mean - _numpy(result.truth[0, channel])
        bound = max(abs(error).max(), 1e-12)
        panels.append(
            (
                axes[3],
                "error of the mean",
                _field(
                    axes[3], domain, error, 1, {"cmap": "RdBu_r", "vmin": -bound, "vmax": bound}
                ),
            )
        )
    else:
        apart = [
            (kind, seen, values - at(result.mean[:1], domain, seen))
            for kind, seen, values in points
        ]
        bound = max([1e-12, *(abs(gap).max() for _, _, gap in apart if len(gap))])
        image = _field(axes[3], domain, None, 1, {})
        for kind, seen, gap in apart:
            edge, settings = (
                "black" if kind == "used" else "red",
                {"cmap": "RdBu_r", "vmin": -bound, "vmax": bound},
            )
            image = axes[3].scatter(
                _turned(seen.longitude, domain),
                seen.latitude,
                c=gap,
                edgecolors=edge,
                s=40,
                **settings,
            )
        panels.append((axes[3], "stations minus mean", image))
    for axis, title, image in panels:
        axis.set_title(title)
        axis.set_xlabel("longitude")
        if image is not None:
            figure.colorbar(image, ax=axis, shrink=0.85, label=f"{name} ({domain.units[0]})")
    axes[0].set_ylabel("latitude")


def at(fields: Tensor, domain: Domain, seen: Observations) -> np.ndarray:
    """Fields (1, C, H, W) at observations' places: (n,)."""
    return clone(Scene(domain).at(seen), "cpu", torch.float64).A(fields.double())[0, 0, 0].numpy()


def _field(
    axis: Any,
    domain: Domain,
    values: np.ndarray | None,
    factor: int | None,
    settings: dict[str, Any],
) -> Any:
    lat, lon = np.array(domain.grid.latitudes), np.array(domain.grid.longitudes)
    axis.set_xlim(lon.min(), lon.max())
    axis.set_ylim(lat.min(), lat.max())
    if values is None:
        return None
    rows, columns = _edges(lat)[:: factor or 1], _edges(lon)[:: factor or 1]
    rows, columns = (
        np.append(e[:n], last)
        for e, n, last in (
            (rows, values.shape[0], _edges(lat)[-1]),
            (columns, values.shape[1], _edges(lon)[-1]),
        )
    )
    return axis.pcolormesh(columns, rows, values, **settings)


def _edges(points: np.ndarray) -> np.ndarray:
    middle = (points[1:] + points[:-1]) / 2
    return np.concatenate([[2 * points[0] - middle[0]], middle, [2 * points[-1] - middle[-1]]])


def _turned(longitude: np.ndarray, domain: Domain) -> np.ndarray:
    """Longitudes by whole turns onto those of the grid."""
    first = domain.grid.longitudes[0]
    return first + (longitude - first + 1e-9) % 360 - 1e-9


def _points(
    kind: str, seen: Observations, values: np.ndarray, domain: Domain, result: Result
) -> dict[str, Any]:
    dim = f"{kind}_observation"
    text = {"station": seen.station, "variable": seen.variable}
    numbers: dict[str, Any] = {
        "latitude": (seen.latitude, {"units": "degrees_north"}),
        "longitude": (seen.longitude, {"units": "degrees_east"}),
        "value": (
            values,
            {"long_name": f"what was observed, {kind}, in the units of its variable"},
        ),
        "sigma": (seen.sigma, {"long_name": "standard deviation of its instrument's noise"}),
        "analysis": (
            at(result.mean[:1], domain, seen),
            {"long_name": "mean of the ensemble at its place"},
        ),
    }
    if domain.hours > 1:
        numbers["hour"] = (seen.hour, {"long_name": "hours since the first"})
    found: dict[str, Any] = {
        f"{kind}_{key}": (dim, np.array([str(x) for x in column], dtype=object))
        for key, column in text.items()
    }
    return found | {
        f"{kind}_{key}": (dim, np.asarray(column, dtype=np.float64), about)
        for key, (column, about) in numbers.items()
    }


def _numpy(values: Tensor) -> np.ndarray:
    return values.float().numpy()
