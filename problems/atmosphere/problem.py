"""The problem `atmosphere`: weather fields from a coarse field and sparse stations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

import inverse
from inverse.errors import InputError
from inverse.measurement.operators import clone
from inverse.priors.analytic import Exact, LowRankPrior
from inverse.priors.loading import cards
from inverse_problems._conjugate import single_measurement
from inverse_problems.atmosphere import shipped_data
from inverse_problems.atmosphere.analysis_file import write_analysis
from inverse_problems.atmosphere.analysis_map import write_map
from inverse_problems.atmosphere.domain import Domain, domain_of
from inverse_problems.atmosphere.input_files import MeasurementFiles, read_truth
from inverse_problems.atmosphere.netcdf import stamp
from inverse_problems.atmosphere.noise_levels import NoiseLevels, parse_levels
from inverse_problems.atmosphere.scene import Scene
from inverse_problems.atmosphere.station_network import simulated_networks
from inverse_problems.atmosphere.trajectory import over_hours

CLIMATOLOGY = "era5-uk-t2m-gaussian"
"""Prior of single hours, if the trained prior is not installed."""
TRAJECTORIES = "era5-uk-t2m-hours"
"""Prior of consecutive hours."""


@dataclass(frozen=True)
class Atmosphere(inverse.Problem):
    """2 m temperature (K) over the United Kingdom, measured as coarse area means and at stations.

    `--input truth.nc` degrades a field from a file. `--measurement coarse.nc` (or points.nc) with
    stations=stations.csv reconstructs a field from real observations. The prior determines the grid
    and the variables.

    Args:
        sigma_y: standard deviation of the noise of coarse cells and of stations without their own
            sigma, in units of the field.
        sigma_coarse: standard deviation of the noise of coarse cells, if it differs from sigma_y.
        sigmas: standard deviations by variable, with or without its level, in units of the field:
            z:1.5,t_850:1 for a prior in dam and K.
        representativeness: standard deviation of the difference between a station's value and the
            field at its place, in units of the field.
        modalities: kinds of observations to simulate from a truth.
        factor: coarsening factor in both directions.
        count: number of simulated stations: those of the IGRA list on the grid, then random places.
        withhold: fraction of the stations withheld for the score; simulated withheld stations are
            in addition to count.
        network: random seed of the choice of stations.
        thin: radius (km) within which stations are averaged.
        stations: file of real observations to use with a measurement (.csv, .nc or IGRA soundings).
        time: time to read from a file with several (ISO 8601); the first hour of a window.
        window: number of consecutive hours to analyse at once, each with its own observations.

    Raises: OptionError if an option is out of range.
    """

    name = "atmosphere"
    summary = (
        "weather fields from a coarse field and sparse stations: "
        "ERA5 2 m temperature, or your own NetCDF and CSV"
    )
    reference = (
        "Chakraborty et al., Multimodal Atmospheric Super-Resolution With Deep Generative Models, "
        "2025, https://arxiv.org/abs/2506.22780"
    )
    prior: ClassVar[str] = "era5-uk-t2m"
    exports: ClassVar[tuple[str, ...]] = ("analysis.nc", "map.png")

    sigma_y: inverse.Positive = 0.5
    sigma_coarse: inverse.Positive | None = None
    sigmas: tuple[str, ...] = ()
    representativeness: inverse.NonNegative = 0.0
    modalities: Literal["both", "coarse", "stations"] = "both"
    factor: Annotated[int, inverse.Range(1, 10**4)] = 4
    count: inverse.Count = 25
    withhold: Annotated[float, inverse.Range(0, below=1)] = 0.2
    network: inverse.Seed = 0
    thin: Annotated[float, inverse.Range(0, 2e4)] = 0.0
    stations: Path | None = None
    time: str | None = None
    window: Annotated[int, inverse.Range(1, 1000)] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_levels(self.sigmas)

    # --- observations ---------------------------------------------------------------------------

    def on(self, domain: Domain, start: np.datetime64 | None = None) -> ObservedAtmosphere:
        """The problem on another domain, with simulated observations.

        Args:
            start: time of the first hour, if known.
        """
        return self._with_scene(replace(self._simulated_scene(domain), start=start))

    def scene(self) -> Scene:
        """The observations of the field; by default those simulated from the shipped hours."""
        return self._simulated_scene(replace(shipped_data.hours().domain, hours=self.window))

    def noise_levels(self) -> NoiseLevels:
        """Standard deviations of the noise that the options state, in units of each variable."""
        coarse = self.sigma_coarse or self.sigma_y
        return NoiseLevels(self.sigma_y, coarse, parse_levels(self.sigmas))

    def operator(self, shape: tuple[int, ...]) -> Any:
        """The observations of a field (C, H, W) -> (1, 1, m), see `Scene`.

        Raises: InputError if the shape is not that of the domain.
        """
        scene = self.scene()
        if tuple(shape) != scene.domain.shape:
            expected, actual = (" x ".join(map(str, s)) for s in (scene.domain.shape, shape))
            raise InputError(
                f"atmosphere: a field is {expected} (channels, latitudes, longitudes), got {actual}"
            )
        return scene.operator()

    def noise(self, shape: tuple[int, ...]) -> inverse.Noise:
        """Independent Gaussian noise of the coarse cells and stations; the shape is not used."""
        scene = self.scene()
        return scene.noise(self.noise_levels().of_cells(scene.domain), self.representativeness)

    def signal_shape(self, y_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(hours * variables, H, W), for a measurement of any shape."""
        return self.scene().domain.shape

    def _simulated_scene(self, domain: Domain) -> Scene:
        factor = None if self.modalities == "stations" else self.factor
        if self.modalities == "coarse":
            return Scene(domain, factor)
        extra = round(self.withhold * self.count)
        networks = simulated_networks(domain, self.count, extra, self.network)
        used, withheld = map(self.noise_levels().completed, networks)
        return Scene(domain, factor, None, used, withheld if extra else None)

    def _with_scene(self, scene: Scene) -> ObservedAtmosphere:
        return ObservedAtmosphere(**vars(self) | {"scene_": scene})

    # --- files ----------------------------------------------------------------------------------

    def truths(self) -> list[Tensor]:
        """Shipped fields that no shipped prior was trained on, K.

        They are eight hours of 25 to 31 March 2019, (1, 33, 49) each. For a window they are the
        windows of the twelve consecutive hours of 28 March 2019, (window, 33, 49) each.

        Raises: InputError for a window of more than twelve hours.
        """
        if self.window == 1:
            return [torch.from_numpy(field) for field in shipped_data.hours().values]
        hours = shipped_data.consecutive_hours().values[:, 0]
        if self.window > len(hours):
            raise InputError(
                f"atmosphere: {len(hours)} consecutive hours are shipped, "
                f"window is {self.window}; give a longer series with --input"
            )
        starts = range(0, len(hours) - self.window + 1, self.window)
        return [torch.from_numpy(hours[i : i + self.window]) for i in starts]

    def open(
        self, file: Path, prior: inverse.Prior, measured: bool
    ) -> tuple[inverse.Problem, Tensor, list[str]]:
        """Read a truth (hours * variables, H, W) or a measurement (1, 1, m); see the class.

        Raises: InputError if the prior is not of weather fields or a file cannot be used.
        """
        domain = domain_of(prior)
        if not measured:
            truth, start = read_truth(file, domain, self.time)
            notes = [] if start is None else [f"time {stamp(start)}"]
            return self.on(domain, start), torch.from_numpy(truth), notes
        files = MeasurementFiles(file, self.stations, self.time, self.thin, self.withhold)
        scene, notes = files.scene(domain, self.noise_levels())
        return self._with_scene(scene), scene.measurement(), notes

    def export(self, result: inverse.Result, folder: Path) -> None:
        """Write analysis.nc (CF conventions) and map.png of the first image of a result."""
        scene = self.scene()
        write_analysis(result, scene, folder / "analysis.nc")
        write_map(result, scene, folder / "map.png")

    # --- priors and posteriors ------------------------------------------------------------------

    def make_prior(self) -> inverse.Prior:
        """The trained prior if it is installed, otherwise the climatological Gaussian.

        For a window it is the Gaussian of trajectories.
        """
        if self.window > 1:
            return inverse.load_prior(TRAJECTORIES)
        return inverse.load_prior(self.prior if self.prior in cards() else CLIMATOLOGY)

    def resolve_prior(
        self,
        prior: inverse.Prior | str | Path | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> inverse.Prior:
        """As `Problem.resolve_prior`, for `window` consecutive hours; see `over_hours`."""
        return over_hours(super().resolve_prior(prior, device, dtype), self.window)

    def posterior(self, truth: Tensor | int = 0, **settings: Any) -> inverse.Posterior:
        """As `Problem.posterior`; the provenance records the grid and the observations."""
        posterior = super().posterior(truth, **settings)
        scene = self.scene()
        grid = scene.domain.grid
        posterior.provenance["grid"] = {
            "latitudes": list(grid.latitudes),
            "longitudes": list(grid.longitudes),
        }
        observations = posterior.provenance["observations"] = scene.record()
        if scene.withheld is not None:
            observations["withheld"]["value"] = (
                [scene.withheld.value.tolist()]
                if posterior.truth is None
                else scene.simulated_withheld(
                    posterior.truth, settings.get("seed", 0), settings.get("first_image", 0)
                )
            )
        return posterior

    def exact(self, y: Tensor) -> Exact | None:
        """The posterior of one measurement y (1, 1, m) under the climatological Gaussian.

        None if the prior is another law or a network.

        Raises: InputError if y has another number of entries.
        """
        law, shape = self.make_prior().double(), self.scene().domain.shape
        if not isinstance(law, LowRankPrior):
            return None
        n = torch.Size(shape).numel()
        operator = clone(self.scene().operator(), "cpu", torch.float64)
        matrix = operator.A(torch.eye(n, dtype=torch.float64).reshape(n, *shape)).flatten(1).T
        y = single_measurement(self.name, y, len(matrix))
        sigma = self.noise(()).sigma.flatten()  # type: ignore[attr-defined]
        return Exact(law.given(matrix, sigma, y), float(law.log_evidence(matrix, sigma, y)))


@dataclass(frozen=True)
class ObservedAtmosphere(Atmosphere):
    """The problem with given observations, from files or on the domain of another prior.

    Args:
        scene_: observations of the field.
    """

    scene_: Scene | None = None

    def scene(self) -> Scene:
        """The given observations."""
        return self.scene_ or super().scene()
