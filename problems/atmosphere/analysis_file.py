"""The analysis of a weather field as a NetCDF file by the CF conventions."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inverse import __version__
from inverse.io.files import strict_json
from inverse.measurement.operators import clone
from inverse.result import Result
from inverse_problems.atmosphere.domain import Domain
from inverse_problems.atmosphere.grid import Grid
from inverse_problems.atmosphere.netcdf import package, write
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
"""Variable -> its CF standard name."""
PLACE = ("latitude", "longitude")
COARSE_PLACE = ("coarse_latitude", "coarse_longitude")


def write_analysis(result: Result, scene: Scene, path: Path) -> None:
    """Write the analysis of the first image of a result as NetCDF; see `analysis_dataset`."""
    write(path, analysis_dataset(result, scene))


def analysis_dataset(result: Result, scene: Scene) -> Any:
    """The analysis of the first image of a result as an xarray dataset by the CF conventions.

    It holds the mean, standard deviation and members of each variable, the truth if known, the
    coarse field, the used and withheld observations with the analysis at their places, and the
    provenance. Several hours have a dimension `time`.
    """
    domain = scene.domain
    layers = [
        ("mean", result.mean[0], "mean of the ensemble"),
        ("std", result.std[0], "standard deviation of the ensemble"),
        ("members", result.samples[0], "members of the ensemble"),
    ]
    if result.truth is not None:
        layers.insert(2, ("truth", result.truth[0], "field that was observed"))
    fields: dict[str, Any] = {}
    for quantity, values, description in layers:
        fields |= _variables(quantity, domain, values.float().numpy(), PLACE, description)
    members = np.arange(result.samples.shape[1])
    coordinates = _axes(domain.grid, PLACE, {"axis": "Y"}, {"axis": "X"}) | {
        "member": ("member", members, {"standard_name": "realization"})
    }
    if domain.hours > 1 or scene.start is not None:
        coordinates["time"] = _time_coordinate(scene)
    if (coarse := coarse_field(result, scene)) is not None and scene.factor is not None:
        coordinates |= _axes(domain.grid.coarsened(scene.factor), COARSE_PLACE, {}, {})
        description = "coarse field that was used"
        fields |= _variables("coarse", domain, coarse, COARSE_PLACE, description)
    for use, observations, measured in station_values(result, scene):
        fields |= _points(use, observations, measured, domain, result)
    return package("xarray").Dataset(fields, coordinates, _attributes(result))


def coarse_field(result: Result, scene: Scene) -> np.ndarray | None:
    """The coarse field used for the first image, (hours * variables, h, w), NaN where missing.

    None without a coarse field.
    """
    if scene.factor is None:
        return None
    values = result.y[0].flatten()[scene.operator().modalities["coarse"]].double().numpy()
    shape = (scene.domain.shape[0], *scene.domain.grid.coarsened(scene.factor).shape)
    if scene.coarse is None:
        return values.reshape(shape)
    field = np.full(shape, np.nan)
    field[~np.isnan(scene.coarse)] = values
    return field


def station_values(result: Result, scene: Scene) -> list[tuple[str, Observations, np.ndarray]]:
    """("used" or "withheld", observations, their values (n,)) for the first image of a result."""
    parts = []
    if scene.used is not None:
        values = result.y[0].flatten()[scene.operator().modalities["stations"]]
        parts.append(("used", scene.used, values.double().numpy()))
    if scene.withheld is not None:
        withheld = result.provenance["observations"]["withheld"]["value"][0]
        parts.append(("withheld", scene.withheld, np.array(withheld)))
    return parts


def at_places(fields: Tensor, domain: Domain, observations: Observations) -> np.ndarray:
    """Fields (1, C, H, W) interpolated to the places of observations: (n,)."""
    operator = clone(Scene(domain).at(observations), "cpu", torch.float64)
    return operator.A(fields.double())[0, 0, 0].numpy()


def _command() -> str:
    """The command line of this process; "" where it is not the `inverse` command."""
    name = Path(sys.argv[0]).name if sys.argv else ""
    return shlex.join(["inverse", *sys.argv[1:]]) if name == "inverse" else ""


def _attributes(result: Result) -> dict[str, str]:
    provenance = result.provenance
    problem, method = provenance["problem"]["name"], provenance["method"]["name"]
    rest = {key: item for key, item in provenance.items() if key not in ("observations", "trace")}
    return {
        "Conventions": "CF-1.11",
        "title": "Ensemble analysis of a weather field from a coarse field and stations",
        "source": f"inverse {__version__}, {method} with the prior {provenance['prior']}",
        "history": _command()
        or f"inverse.solve of {problem} with {method}, seed {provenance['seed']}",
        "provenance": strict_json(rest),
    }


def _variables(
    quantity: str, domain: Domain, values: np.ndarray, place: tuple[str, str], description: str
) -> dict[str, Any]:
    """Each variable of values (..., hours * variables, h, w), named after it and a quantity."""
    channels = domain.hours, len(domain.variables)
    values = values.reshape(*values.shape[:-3], *channels, *values.shape[-2:])
    dims: tuple[str, ...] = ("time", *place)
    if domain.hours == 1:
        values, dims = values[..., 0, :, :, :], place
    if quantity == "members":
        dims = ("member", *dims)
    variables = {}
    for c, (name, unit) in enumerate(zip(domain.variables, domain.units, strict=True)):
        attributes = {"units": unit, "long_name": f"{name}, {description}"}
        if standard_name := _standard_name(name, unit):
            attributes["standard_name"] = standard_name
        variables[f"{name}_{quantity}"] = (dims, values[..., c, :, :], attributes)
    return variables


def _standard_name(variable: str, unit: str) -> str | None:
    if variable[0] == "z" and unit in ("m", "dam", "km"):
        return "geopotential_height"
    return STANDARD_NAMES.get(variable.split("_")[0])


def _axes(
    grid: Grid, names: tuple[str, str], latitude: dict[str, str], longitude: dict[str, str]
) -> dict[str, Any]:
    """The coordinates of a grid, with further attributes of each."""
    lat, lon = names
    latitude = {"units": "degrees_north", "standard_name": "latitude"} | latitude
    longitude = {"units": "degrees_east", "standard_name": "longitude"} | longitude
    return {
        lat: (lat, np.array(grid.latitudes), latitude),
        lon: (lon, np.array(grid.longitudes), longitude),
    }


def _time_coordinate(scene: Scene) -> Any:
    """Hours since the first, with its time if known; a scalar for a single hour."""
    hours = scene.domain.hours
    dims, values = ((), np.array(0)) if hours == 1 else ("time", np.arange(hours))
    if scene.start is None:
        return dims, values, {"units": "1", "long_name": "hours since the first"}
    since = str(scene.start.astype("datetime64[s]")).replace("T", " ")
    attributes = {"calendar": "standard", "standard_name": "time", "axis": "T"}
    return dims, values, {"units": f"hours since {since}"} | attributes


def _points(
    use: str, observations: Observations, values: np.ndarray, domain: Domain, result: Result
) -> dict[str, Any]:
    """The columns of used or withheld observations, and the analysis at their places."""
    dim = f"{use}_observation"
    columns: dict[str, tuple[np.ndarray, dict[str, str]]] = {
        "latitude": (observations.latitude, {"units": "degrees_north"}),
        "longitude": (observations.longitude, {"units": "degrees_east"}),
        "value": (values, {"long_name": f"observed value, {use}, in the units of its variable"}),
        "sigma": (
            observations.sigma,
            {"long_name": "standard deviation of the noise of its instrument"},
        ),
        "analysis": (
            at_places(result.mean[:1], domain, observations),
            {"long_name": "mean of the ensemble at its place"},
        ),
    }
    if domain.hours > 1:
        columns["hour"] = (observations.hour, {"long_name": "hours since the first"})
    texts = {"station": observations.station, "variable": observations.variable}
    points: dict[str, Any] = {
        f"{use}_{name}": (dim, np.array([str(text) for text in column], dtype=object))
        for name, column in texts.items()
    }
    return points | {
        f"{use}_{name}": (dim, np.asarray(column, dtype=np.float64), attributes)
        for name, (column, attributes) in columns.items()
    }
