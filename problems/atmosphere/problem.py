"""Weather fields from a coarse field and sparse stations: hours of ERA5 held out, or measurements in NetCDF and CSV."""

from __future__ import annotations

import functools
import importlib.resources
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

import inverse
from inverse.errors import InputError, OptionError
from inverse.measurement.operators import clone
from inverse.priors.analytic import Exact, LowRankPrior
from inverse.priors.loading import cards
from inverse_problems.atmosphere import analysis, observations, simulation
from inverse_problems.atmosphere.domain import Domain, domain_of
from inverse_problems.atmosphere.igra import read_station_list
from inverse_problems.atmosphere.measurement import Sources, read_truth
from inverse_problems.atmosphere.netcdf import Fields, read_fields, stamp
from inverse_problems.atmosphere.scene import Scene
from inverse_problems.atmosphere.trajectory import over_hours

CLIMATOLOGY = "era5-uk-t2m-gaussian"
TRAJECTORIES = "era5-uk-t2m-hours"


@dataclass(frozen=True)
class Atmosphere(inverse.Problem):
    """2 m temperature in K over the United Kingdom, seen as area means of coarse cells and at the places of radiosonde stations.

    `--input truth.nc` degrades a field of one's own; `--measurement coarse.nc` (or points.nc) with stations=stations.csv reconstructs what was
    really observed. With another prior everything is on that prior's grid and of its variables.

    Args:
        sigma_y: standard deviation of the noise, in units of the field; of the coarse cells and of each station that does not say its own.
        sigma_coarse: that of the coarse cells, if it is another.
        sigmas: other standard deviations by variable, with or without its level, in units of the field: z:1.5,t_850:1 for a prior in dam and K.
        representativeness: standard deviation of what a station's value has and its place on the grid has not, units of the field.
        modalities: what is simulated from a truth.
        factor: coarsening in both directions.
        count: stations that are simulated: of the IGRA list where it has as many on the grid, the rest at random places.
        withhold: share of stations kept for the score; simulated ones come on top of count.
        network: seed of the choice of stations.
        thin: stations within this distance in km are averaged.
        stations: real observations to use beside a measurement, .csv, .nc or IGRA soundings.
        time: which one of a file with several, ISO 8601; of a window the first.
        window: hours that are analysed at once, each with a coarse field and stations of its own.
    """

    name = "atmosphere"
    summary = "weather fields from a coarse field and sparse stations: ERA5 2 m temperature, or NetCDF and CSV of one's own"
    reference = "Chakraborty et al., Multimodal Atmospheric Super-Resolution With Deep Generative Models, 2025, https://arxiv.org/abs/2506.22780"
    prior: ClassVar[str] = "era5-uk-t2m"

    sigma_y: float = 0.5
    sigma_coarse: float | None = None
    sigmas: tuple[str, ...] = ()
    representativeness: float = 0.0
    modalities: Literal["both", "coarse", "stations"] = "both"
    factor: int = 4
    count: int = 25
    withhold: float = 0.2
    network: int = 0
    thin: float = 0.0
    stations: Path | None = None
    time: str | None = None
    window: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma_y == 0 or not (
            self.sigma_coarse is None or 0 < self.sigma_coarse < float("inf")
        ):
            raise OptionError(
                f"atmosphere: sigma_y and sigma_coarse must be positive, got {self.sigma_y:g} and {self.sigma_coarse}"
            )
        if self.count < 1 or self.factor < 1 or not 0 <= self.withhold < 1:
            raise OptionError(
                f"atmosphere: count and factor must be at least 1 and withhold in [0, 1), got {self.count}, {self.factor}, {self.withhold:g}"
            )
        if self.window < 1:
            raise OptionError(f"atmosphere: window must be at least 1 hour, got {self.window}")
        if not (self.representativeness >= 0 and self.thin >= 0):
            raise OptionError(
                f"atmosphere: representativeness and thin must be at least 0, got {self.representativeness:g} and {self.thin:g}"
            )

        self.by_variable()

    # --- what is observed ---------------------------------------------------------------------------------------------

    def on(self, domain: Domain, start: np.datetime64 | None = None) -> Observed:
        """The problem on another domain, to be simulated there."""
        return Observed(**vars(self) | {"scene_": replace(self._simulated(domain), start=start)})

    def scene(self) -> Scene:
        """What is observed: here, of the shipped hours."""
        return self._simulated(replace(shipped().domain, hours=self.window))

    def operator(self, shape: tuple[int, ...]) -> Any:
        scene = self.scene()
        if tuple(shape) != scene.domain.shape:
            want, got = (" x ".join(map(str, s)) for s in (scene.domain.shape, shape))
            raise InputError(
                f"atmosphere: a field here is {want} (channels, latitudes, longitudes), got {got}"
            )
        return scene.operator()

    def noise(self, shape: tuple[int, ...]) -> inverse.Noise:
        scene, known = self.scene(), self.by_variable()
        other = self.sigma_coarse or self.sigma_y
        return scene.noise(
            tuple(known.get(v, known.get(_base(v), other)) for v in scene.domain.variables),
            self.representativeness,
        )

    def by_variable(self) -> dict[str, float]:
        """`sigmas` as a mapping."""
        found = {}
        for text in self.sigmas:
            name, _, value = text.rpartition(":")
            try:
                found[name] = float(value)
            except ValueError as error:
                raise OptionError(
                    f"atmosphere: sigmas are variable:number, e.g. z:1.5, got '{text}'"
                ) from error
            if not name or not 0 < found[name] < float("inf"):
                raise OptionError(
                    f"atmosphere: sigmas are variable:number with a positive number, got '{text}'"
                )
        return found

    def signal_shape(self, y_shape: tuple[int, ...]) -> tuple[int, ...]:
        return self.scene().domain.shape

    def _simulated(self, domain: Domain) -> Scene:
        factor = None if self.modalities == "stations" else self.factor
        if self.modalities == "coarse":
            return Scene(domain, factor)
        extra = round(self.withhold * self.count)
        used, kept = (
            self._levelled(seen) for seen in networks(domain, self.count, extra, self.network)
        )
        return Scene(domain, factor, None, used, kept if extra else None)

    # --- files --------------------------------------------------------------------------------------------------------

    def truths(self) -> list[Tensor]:
        """Eight hours of days 25 to 31 of March 2019, which no shipped prior has seen: (1, 33, 49) each, K; for a window, what it
        takes of twelve hours that follow one another on the 28th: (window, 33, 49) each."""
        if self.window == 1:
            return [torch.from_numpy(hour) for hour in shipped().values]
        hours = shipped_window().values[:, 0]
        if self.window > len(hours):
            raise InputError(
                f"atmosphere: {len(hours)} hours that follow one another ship, window is {self.window}; give a longer series with --input"
            )
        return [
            torch.from_numpy(hours[i : i + self.window])
            for i in range(0, len(hours) - self.window + 1, self.window)
        ]

    def open(
        self, file: Path, prior: inverse.Prior, measured: bool
    ) -> tuple[inverse.Problem, Tensor, list[str]]:
        domain = domain_of(prior)
        if not measured:
            truth, start = read_truth(file, domain, self.time)
            return (
                self.on(domain, start),
                torch.from_numpy(truth),
                [] if start is None else [f"time {stamp(start)}"],
            )
        scene, notes = Sources(file, self.stations, self.time, self.thin, self.withhold).scene(
            domain, self._levelled
        )
        return Observed(**vars(self) | {"scene_": scene}), scene.measurement(), notes

    def _levelled(self, seen: observations.Observations) -> observations.Observations:
        """With the problem's standard deviation where an observation does not have its own."""
        known = self.by_variable()
        ours = np.array(
            [known.get(v, known.get(_base(v), self.sigma_y)) for v in seen.variable],
            dtype=np.float64,
        )
        return replace(seen, sigma=np.where(np.isnan(seen.sigma), ours, seen.sigma))

    def export(self, result: inverse.Result, folder: Path) -> None:
        """analysis.nc (CF conventions) and map.png."""
        analysis.export(result, self.scene(), folder)

    # --- priors and answers -------------------------------------------------------------------------------------------

    def make_prior(self) -> inverse.Prior:
        """The trained prior where it is installed, otherwise the climatological Gaussian field; for a window, that of trajectories."""
        return inverse.load_prior(
            TRAJECTORIES
            if self.window > 1
            else self.prior
            if self.prior in cards()
            else CLIMATOLOGY
        )

    def resolve_prior(
        self,
        prior: inverse.Prior | str | Path | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> inverse.Prior:
        return over_hours(super().resolve_prior(prior, device, dtype), self.window)

    def posterior(self, truth: Tensor | int = 0, **settings: Any) -> inverse.Posterior:
        posterior = super().posterior(truth, **settings)
        scene = self.scene()
        grid = scene.domain.grid
        posterior.provenance["grid"] = {
            "latitudes": list(grid.latitudes),
            "longitudes": list(grid.longitudes),
        }
        posterior.provenance["observations"] = scene.record()
        if posterior.truth is not None and scene.withheld is not None:
            posterior.provenance["observations"]["withheld"]["value"] = self._withheld(
                scene, posterior.truth, settings
            )
        elif scene.withheld is not None:
            posterior.provenance["observations"]["withheld"]["value"] = [
                scene.withheld.value.tolist()
            ]
        return posterior

    def _withheld(self, scene: Scene, truth: Tensor, settings: dict[str, Any]) -> list[list[float]]:
        """What the withheld stations would have measured of each truth, with noise of their own."""
        assert scene.withheld is not None
        clean = clone(scene.at(scene.withheld), "cpu", torch.float64).A(truth.cpu().double())[
            :, 0, 0
        ]
        first, seed = settings.get("first_image", 0), settings.get("seed", 0)
        streams = [inverse.seeded(seed, "withheld", first + i) for i in range(len(clean))]
        noise = torch.stack(
            [
                torch.randn(clean.shape[1], generator=stream, dtype=torch.float64)
                for stream in streams
            ]
        )
        return (clean + torch.from_numpy(scene.withheld.sigma) * noise).tolist()

    def exact(self, y: Tensor) -> Exact | None:
        """The posterior of one measurement (1, 1, m) under the climatological field; None with a trained prior."""
        law, flat = self.make_prior().double(), y.flatten().double().cpu()
        if not isinstance(law, LowRankPrior):
            return None
        n = torch.Size(self.scene().domain.shape).numel()
        operator = clone(self.scene().operator(), "cpu", torch.float64)
        matrix = (
            operator.A(torch.eye(n, dtype=torch.float64).reshape(n, *self.scene().domain.shape))
            .flatten(1)
            .T
        )
        if len(flat) != len(matrix):
            raise InputError(
                f"atmosphere: a measurement has {len(matrix)} entries, got {len(flat)}; ask for one measurement at a time"
            )
        sigma = self.noise(()).sigma.flatten()  # type: ignore[attr-defined]
        return Exact(law.given(matrix, sigma, flat), float(law.log_evidence(matrix, sigma, flat)))


@dataclass(frozen=True)
class Observed(Atmosphere):
    """The problem that a file poses, or another prior's domain.

    Args:
        scene_: what is observed.
    """

    scene_: Scene | None = None

    def scene(self) -> Scene:
        return self.scene_ or super().scene()


def _base(variable: str) -> str:
    """The variable of a level: t_850 -> t."""
    return variable.split("_")[0]


def folder() -> Path:
    """Where the shipped fields, the climatology and the station list are."""
    return Path(str(importlib.resources.files("inverse_data"))) / "atmosphere"


@functools.lru_cache(maxsize=64)
def networks(
    domain: Domain, count: int, extra: int, seed: int
) -> tuple[observations.Observations, observations.Observations]:
    """Places of `count` stations on a domain and of `extra` others; see `simulation.network`."""
    places = simulation.network(
        read_station_list(folder() / "igra2-station-list.txt.gz"), domain, count + extra, seed
    )
    return simulation.at_stations(places[:count], domain), simulation.at_stations(
        places[count:], domain
    )


@functools.cache
def shipped() -> Fields:
    """The shipped hours, K."""
    return read_fields(folder() / "era5-uk-t2m-hours.nc", ("t2m",))


@functools.cache
def shipped_window() -> Fields:
    """Twelve shipped hours that follow one another, K."""
    return read_fields(folder() / "era5-uk-t2m-window.nc", ("t2m",))
