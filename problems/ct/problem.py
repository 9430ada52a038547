"""The problem `ct`: a slice from its projections."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

import inverse
from inverse.errors import InputError, OptionError
from inverse.io.brightness import are_intensities, three_digits, unit
from inverse.io.stacks import write_tiff
from inverse_problems.ct.center import estimated_center, fan_center
from inverse_problems.ct.filtering import filled, filtered_backprojection
from inverse_problems.ct.geometry import Geometry
from inverse_problems.ct.metal import seen_rays, threshold_of
from inverse_problems.ct.projector import Projector, counts_operator, integrals_operator
from inverse_problems.ct.scan import Counts, Scan, averaged, fitted_gain, view_axis
from inverse_problems.ct.scan_files import (
    Projections,
    checked,
    read_array,
    read_projections,
    read_theta,
    slice_count,
)
from inverse_problems.ct.slices import SliceProblem

UNITS = "attenuation per pixel"
"""Description in the TIFF files that are written."""

FEWEST = 4
"""Least number of detector pixels."""

OPAQUE = 4.0
"""Line integral of intensity 1 across a simulated slice that is measured in counts."""


@dataclass(frozen=True)
class CT(SliceProblem):
    """Computed tomography of one slice: y = mu P x + noise, P the line integrals (pixels).

    P is that of `skimage.transform.radon`: sinograms of scikit-image are measurements as they are.
    y is (1, views, detectors). Intensity 0 is air and intensity 1 attenuates by mu per pixel.
    `--measurement` takes HDF5 Data Exchange files, .npy, .npz, HDF5 and TIFF.

    Args:
        slices: ground truths in place of the shipped one: a folder, .npz or .h5 file of images.
        data: what the measurement holds: integrals (line integrals), counts (with flats and darks),
            intensities (transmissions, 1 without the object).
        beam: parallel or fan (a flat detector).
        views: number of views; of a measurement, how many of its views to use, equally spaced.
            Auto is 30 simulated views, or all measured ones.
        arc: range of the angles of equally spaced views (degrees); auto is 180, or 360 for a fan.
        theta: file of the angles, one for each view (.txt, .csv, .npy).
        theta_unit: of the angles in files; auto is degree unless the file says radian.
        order: axes of a measured sinogram, views-detectors or detectors-views (scikit-image);
            auto finds the views.
        center: position of the rotation axis on the detector (detector pixels, counted from 0).
            Auto is estimated from a measurement of a parallel beam or of a full turn of a fan, else
            detectors // 2.
        size: side of the slice (pixels); auto is what every view sees.
        bin: number of neighbouring detector pixels of a measurement to join.
        slice_: slice of a measured volume, counted from 0, or all; auto is the middle one.
        circle: whether the slice is air outside the circle that every view sees.
        mu: attenuation of intensity 1 (per pixel). Auto is 1 for pictures, found from a
            measurement otherwise, and 4 / size for simulated counts and intensities.
        sigma_y: standard deviation of the noise of line integrals (units of the integrals).
        photons: photons per detector pixel without the object, of simulated counts and of
            intensities.
        likelihood: of counts and intensities: gaussian for their line integrals with variance
            1 / photons, or poisson for the counts themselves (a nonlinear operator).
        gain: counts per photon; auto is found from the flats' variance, or 1.
        sigma_model: standard deviation of errors of the model, added to the noise of line integrals
            from counts.
        flats, darks: counts without the object and without the beam: a number or a file; auto is
            those of the file, and no dark.
        source: distance of the source from the axis (pixels), of a fan; auto is twice the size.
        screen: distance of the detector from the axis (pixels), of a fan; auto is the size.
        pitch: distance of detector pixels (pixels of the slice); auto is 1, magnified by a fan.
        projector: interpolated, as skimage.transform.radon; or of the ASTRA toolbox line (square
            pixels) or strip (as wide as a detector pixel, parallel beams).
        metal: line integrals above this number are not used, nor are the rays through a mask
            picture of the slice, or of the sinogram (white = metal).

    Raises: OptionError if an option is out of range.
    """

    name = "ct"
    summary = "computed tomography: sparse views, limited arcs, parallel and fan beams, counts"
    reference = "Kak, Slaney, Principles of Computerized Tomographic Imaging, 1988"
    kind = "CT"
    exports: ClassVar[tuple[str, ...]] = (
        "reconstruction.png",
        "panel.png",
        "reconstruction.tif",
        "spread.tif",
    )

    data: Literal["integrals", "counts", "intensities"] = "integrals"
    beam: Literal["parallel", "fan"] = "parallel"
    views: Annotated[int, inverse.Range(1, 10**5)] | None = None
    arc: Annotated[float, inverse.Range(above=0, high=720)] | None = None
    theta: Path | None = None
    theta_unit: Literal["degree", "radian"] | None = None
    order: Literal["views-detectors", "detectors-views"] | None = None
    center: Annotated[float, inverse.Range(-1e5, 1e5)] | None = None
    size: Annotated[int, inverse.Range(4, 10**5)] | None = None
    bin: Annotated[int, inverse.Range(1, 10**4)] = 1
    slice_: Annotated[int, inverse.Range(0, 10**7)] | Literal["all"] | None = None
    circle: bool = True
    mu: inverse.Positive | None = None
    sigma_y: inverse.NonNegative = 1.0
    photons: inverse.Positive = 1e4
    likelihood: Literal["gaussian", "poisson"] = "gaussian"
    gain: inverse.Positive | None = None
    sigma_model: inverse.NonNegative = 0.0
    flats: str | None = None
    darks: str | None = None
    source: inverse.Positive | None = None
    screen: inverse.NonNegative | None = None
    pitch: inverse.Positive | None = None
    projector: Literal["interpolated", "line", "strip"] = "interpolated"
    metal: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.likelihood == "poisson" and self.data == "integrals":
            raise OptionError(
                "ct: likelihood=poisson needs counts, and data=integrals has none; "
                "state data=counts or data=intensities"
            )
        if self.beam == "parallel" and (self.source or self.screen):
            raise OptionError(
                "ct: source and screen belong to a fan beam, got beam=parallel; state beam=fan"
            )

        if self.metal is not None and self.likelihood == "poisson":
            raise OptionError("ct: metal= leaves out line integrals; state likelihood=gaussian")

    @property
    def in_circle(self) -> bool:
        """Whether the slice is air outside the circle that every view sees."""
        return self.circle

    # --- the scan -------------------------------------------------------------------------------

    def geometry(self, shape: tuple[int, ...]) -> Geometry:
        """The simulated scan of a slice (1, N, N).

        Raises: OptionError if the slice is not grey or not square.
        """
        size = self.side(shape)
        return self._beam(self._angles(self.views or 30), size, size, self.center)

    def _angles(self, views: int) -> np.ndarray:
        """Angles (radians) of equally spaced views, or those of the file."""
        if self.theta is not None:
            theta = read_theta(self.theta, self.theta_unit)
            if self.views is not None and len(theta) != self.views:
                raise InputError(f"ct: {self.theta} has {len(theta)} angles, views={self.views}")
            return theta
        arc = self.arc or (180.0 if self.beam == "parallel" else 360.0)
        return np.deg2rad(arc) * np.arange(views) / views

    def _beam(self, theta: np.ndarray, detectors: int, size: int, center: float | None) -> Geometry:
        center = detectors // 2 if center is None else center
        if self.beam == "parallel":
            return Geometry(theta, detectors, center, size, self.circle, self.pitch or 1.0)
        source = 2.0 * size if self.source is None else self.source
        screen = float(size) if self.screen is None else self.screen
        if source <= size / 2:
            raise OptionError(
                f"ct: the source, {source:g} pixels from the axis, lies inside the slice of "
                f"{size} pixels; source must be above {size / 2:g}"
            )
        edge = (source + screen) * math.tan(math.asin(size / 2 / source))
        pitch = 2 * edge / detectors if self.pitch is None else self.pitch
        return Geometry(theta, detectors, center, size, self.circle, pitch, source, screen)

    def _mu(self, size: int) -> float:
        return self.mu or (1.0 if self.data == "integrals" else OPAQUE / size)

    # --- the problem ----------------------------------------------------------------------------

    def operator(self, shape: tuple[int, ...]) -> Any:
        """The line integrals of a slice (1, N, N) -> (1, views, detectors).

        With likelihood=poisson, the expected counts.

        Raises: OptionError if the slice is not grey or not square.
        """
        projector = _projector(self, tuple(shape))
        mu = self._mu(shape[1])
        if self.likelihood == "gaussian":
            return integrals_operator(projector, mu, self._seen(projector))
        flat = torch.tensor(1.0 if self.data == "intensities" else self.photons * (self.gain or 1))
        return counts_operator(projector, mu, flat, torch.zeros(()))

    def noise(self, shape: tuple[int, ...]) -> inverse.Noise:
        """White Gaussian noise of line integrals, or Poisson noise of counts."""
        if self.likelihood == "poisson":
            counts = self.data == "counts"
            return inverse.PoissonNoise((self.gain or 1.0) if counts else 1 / self.photons)
        return inverse.GaussianNoise(self.sigma_y, observed=self._observed(shape))

    def _seen(self, projector: Projector) -> Tensor | None:
        """The rays that pass no metal, boolean (views, detectors); None if there is none."""
        if self.metal is None:
            return None
        seen = seen_rays(self.metal, projector, None)
        return torch.from_numpy(seen)

    def _observed(self, shape: tuple[int, ...]) -> Tensor | None:
        if self.metal is None:
            return None
        return self._seen(_projector(self, tuple(shape)))

    def measure(self, truth: Tensor, generator: torch.Generator, operator: Any = None) -> Tensor:
        """As `Problem.measure`; line integrals of counts come from counts that are drawn."""
        if self.data == "integrals" or self.likelihood == "poisson":
            return super().measure(truth, generator, operator)
        physics = self.operator(tuple(truth.shape[1:])) if operator is None else operator
        expected = self.photons * torch.exp(-physics.A(truth.double()))
        y = self._of_photons(torch.poisson(expected, generator=generator)).to(truth.dtype)
        seen = self._observed(tuple(truth.shape[1:]))
        return y if seen is None else seen * y

    def _of_photons(self, photons: Tensor) -> Tensor:
        return (self.photons / photons.clamp_min(1)).log()

    def posterior(self, truth: Tensor | int = 0, **settings: Any) -> inverse.Posterior:
        """As `Problem.posterior`, for one slice if it was measured in counts.

        Raises: InputError for several slices measured in counts, whose noise differs.
        """
        if isinstance(truth, Tensor):
            truth = self.prepare(truth)
        posterior = super().posterior(truth, **settings)
        if self.data == "integrals" or self.likelihood == "poisson":
            return posterior
        if len(posterior) > 1:
            raise InputError(
                f"ct: {len(posterior)} slices measured in counts have noise of their own; "
                "solve them one by one"
            )
        sigma = self._sigma(posterior.y[0].cpu().double())
        observed = self._observed(tuple(posterior.shape))
        return posterior.replaced(noise=inverse.GaussianNoise(sigma, observed))

    def _sigma(self, y: Tensor) -> Tensor:
        """Standard deviation of the line integrals y of counts: (1, views, detectors) -> same."""
        return (y.exp() / self.photons + self.sigma_model**2).sqrt()

    def signal_shape(self, y_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the slice, (1, N, N)."""
        size = self.size or y_shape[-1]
        return (1, size, size)

    def as_pictures(self, y: Tensor, operator: Any) -> Tensor:
        """The filtered back-projection of line integrals; counts as parts of the largest flat."""
        if self.likelihood == "poisson":
            return y / float((operator.flat + operator.dark).max())
        return operator.filtered_backprojection(y, "hann")

    def estimated_sigma_y(self, y: Tensor) -> float | None:
        """The noise of line integrals: the median second difference along the detector."""
        if self.data != "integrals" or y.shape[-1] < 16:
            return None
        second = y[..., 2:] - 2 * y[..., 1:-1] + y[..., :-2]
        return max(float(second.abs().median()) / 0.6745 / 6**0.5, 1e-9)

    # --- files ----------------------------------------------------------------------------------

    def open(self, file: Path, prior: inverse.Prior, measured: bool):
        """Read a slice (picture or array) or projections; see the class.

        Raises: InputError if the file cannot be used.
        """
        if not measured:
            return super().open(file, prior, measured)
        if self.slice_ == "all":
            raise InputError(f"{file}: slice=all takes one measured file alone")
        notes: list[str] = []
        scan = self._scan(Path(file), notes)
        posed = MeasuredCT(**vars(self) | {"scan_": scan, "mu": scan.mu})
        y = scan.counts.counts if scan.counts and self.likelihood == "poisson" else scan.integrals
        return posed, torch.from_numpy(y[None].astype(np.float32)), notes

    def parts(self, file: Path) -> list[inverse.Problem]:
        """The problems of every slice, with slice=all."""
        if self.slice_ != "all":
            return []
        if not (count := slice_count(Path(file))):
            raise InputError(f"{file}: holds no slice")
        return [replace(self, slice_=index) for index in range(count)]

    def put_together(self, file: Path, results: Iterable[inverse.Result], folder: Path) -> Path:
        """Write the attenuation per pixel of all slices as a TIFF stack, and its spread."""
        means, spreads, several = [], [], False
        for result in results:
            mu = float(result.provenance["problem"]["options"]["mu"])
            means.append(mu * result.mean[0, 0].numpy())
            spreads.append(mu * result.std[0, 0].numpy())
            several = result.samples.shape[1] > 1
        stacks = {"reconstruction.tif": means} | ({"spread.tif": spreads} if several else {})
        for name, slices in stacks.items():
            write_tiff(folder / name, np.stack(slices), description=UNITS)
        return folder / "reconstruction.tif"

    def _scan(self, file: Path, notes: list[str]) -> Scan:
        count = slice_count(file)
        chosen = count // 2 if self.slice_ is None else self.slice_
        assert not isinstance(chosen, str)
        if chosen >= count:
            raise InputError(f"{file}: slice {chosen} does not exist; there are {count}, from 0")
        if count > 1:
            notes.append(f"slice {chosen} of {count}, counted from 0")
        found = read_projections(file, self.theta_unit, chosen)
        kind = "counts" if found.exchange and self.data == "integrals" else self.data
        theta = found.theta if self.theta is None else read_theta(self.theta, self.theta_unit)
        data = self._sinogram(file, found, theta, notes)
        if theta is None:
            theta = self._equally_spaced(file, len(data), notes)
        counts = None
        if kind != "integrals":
            counts = self._counts(file, kind, data, found, notes).binned(self.bin)
        integrals = averaged(data, self.bin) if counts is None else counts.integrals()
        if integrals.shape[1] < FEWEST:
            raise InputError(
                f"{file}: {integrals.shape[1]} detector pixels; a slice needs at least {FEWEST}"
            )
        self._check_integrals(file, kind, integrals)
        rough = self._metal_free(file, integrals, notes)
        center = self._center(rough, theta, notes)
        detectors = integrals.shape[1]
        seen = min(detectors, 2 * math.ceil(min(center, detectors - center)) + 1)
        geometry = self._beam(theta, detectors, self.size or seen, center)
        seen = None
        if self.metal is not None:
            seen = seen_rays(self.metal, Projector(geometry, self.projector), integrals)
            notes.append(f"{1 - seen.mean():.1%} of the rays pass metal and are not used")
            rough = filled(torch.from_numpy(integrals), torch.from_numpy(seen)).numpy()
            integrals = integrals * seen
        mu = self._measured_mu(rough, geometry, kind, notes)
        if self.views is not None and self.views > len(theta):
            raise InputError(f"{file}: has {len(theta)} views, views={self.views} asks for more")
        if self.views is not None and self.views < len(theta):
            chosen = np.arange(self.views) * len(theta) // self.views
            notes.append(f"{self.views} of {len(theta)} views")
            geometry, integrals = replace(geometry, theta=theta[chosen]), integrals[chosen]
            seen = None if seen is None else seen[chosen]
            counts = None if counts is None else counts.views(chosen)
        if self.likelihood == "poisson" and counts is None:
            raise InputError(f"{file}: likelihood=poisson needs counts; state data=counts")
        return Scan(geometry, integrals, counts, mu, seen)

    def _metal_free(self, file: Path, integrals: np.ndarray, notes: list[str]) -> np.ndarray:
        """Line integrals with those above a stated threshold interpolated."""
        threshold = threshold_of(self.metal)
        if threshold is None:
            return integrals
        seen = torch.from_numpy(integrals <= threshold)
        if not bool(seen.any()):
            raise InputError(f"{file}: metal={self.metal} leaves no ray; every integral is above")
        return filled(torch.from_numpy(integrals), seen).numpy()

    def _sinogram(
        self, file: Path, found: Projections, theta: np.ndarray | None, notes: list[str]
    ) -> np.ndarray:
        """The projections of one slice, (views, detectors)."""
        data = found.data
        views = None if theta is None else len(theta)
        if data.ndim == 3:
            data = data[:, 0]
            if views is not None and views != len(data):
                raise InputError(
                    f"{file}: {len(data)} projections and {views} angles; "
                    "give one angle for each projection"
                )
            return data
        if data.ndim != 2:
            raise InputError(
                f"{file}: expected (views, detectors) or (views, slices, detectors), "
                f"found shape {data.shape}"
            )
        if self.order is not None:
            axis, how = ("views-detectors", "detectors-views").index(self.order), ""
        else:
            axis, how = view_axis(data, views)
        data = data if axis == 0 else data.T
        if views is not None and views != len(data):
            raise InputError(
                f"{file}: {len(data)} projections and {views} angles; "
                "give one angle for each projection"
            )
        if how:
            notes.append(f"{len(data)} views of {data.shape[1]} detector pixels: {how}")
        return data

    def _equally_spaced(self, file: Path, views: int, notes: list[str]) -> np.ndarray:
        theta = replace(self, views=None, theta=None)._angles(views)
        step = math.degrees(theta[1] - theta[0]) if views > 1 else 0.0
        notes.append(
            f"{file.name} has no angles; taken as {views} steps of {step:.4g} degrees from 0; "
            "theta=FILE states others"
        )
        return theta

    def _counts(
        self, file: Path, kind: str, data: np.ndarray, found: Projections, notes: list[str]
    ) -> Counts:
        """Counts with their flat and dark field; transmissions are counts with a flat of 1."""
        if kind == "intensities":
            if data.min() < -0.5 or data.max() > 2:
                raise InputError(
                    f"{file}: transmissions from {data.min():.4g} to {data.max():.4g}; they lie "
                    "between 0 and 1. State data=counts or data=integrals"
                )
            ones = np.ones(data.shape[1])
            return Counts(data, ones, 0 * ones, 1 / self.photons)
        negative = int((data < 0).sum())
        if negative:
            raise InputError(
                f"{file}: {negative} of {data.size} counts are negative; a detector counts from 0. "
                "State data=integrals if these are line integrals"
            )
        dark = self._field(self.darks, found.darks, data.shape[1], "darks")
        dark = np.zeros((1, data.shape[1])) if dark is None else dark
        flat = self._field(self.flats, found.flats, data.shape[1], "flats")
        if flat is None:
            raise InputError(
                f"{file}: counts need the counts without the object; state flats=FILE, or a number"
            )
        beam = flat - dark.mean(0)
        dead = int((beam.mean(0) <= 0).sum())
        if dead:
            raise InputError(
                f"{file}: the flat field does not exceed the dark field at {dead} of "
                f"{data.shape[1]} detector pixels; give flats that were taken with the beam"
            )
        gain = self.gain or fitted_gain(beam) or 1.0
        how = "stated" if self.gain else f"found from {len(flat)} flats"
        if not self.gain and len(flat) < 3:
            how = "assumed; gain=... states it"
        notes.append(f"{gain:.4g} counts per photon, {how}")
        counts = Counts(data, flat.mean(0), dark.mean(0), gain)
        none = int((data - counts.dark <= gain).sum())
        if none:
            notes.append(f"{none} of {data.size} counts hold no photon and are taken as one")
        return counts

    def _field(
        self, stated: str | None, found: np.ndarray | None, detectors: int, what: str
    ) -> np.ndarray | None:
        """Frames of the flat or the dark field of one slice, (frames, detectors)."""
        field = found
        if stated is not None:
            try:
                return np.full((1, detectors), float(stated))
            except ValueError:
                field = checked(Path(stated), read_array(Path(stated)))
        if field is None:
            return None
        if field.ndim == 3:
            count = field.shape[1]
            chosen = self.slice_ if isinstance(self.slice_, int) else count // 2
            field = field[:, min(chosen, count - 1)]
        field = field.reshape(-1, field.shape[-1])
        if field.shape[1] != detectors:
            raise InputError(
                f"ct: {what} have {field.shape[1]} detector pixels, the projections {detectors}"
            )
        return field

    def _check_integrals(self, file: Path, kind: str, integrals: np.ndarray) -> None:
        low, high = float(integrals.min()), float(integrals.max())
        if high <= 0 or low < -0.5 * high:
            raise InputError(
                f"{file}: line integrals from {low:.4g} to {high:.4g}; attenuation is positive. "
                f"Check data={kind}, and flats and darks"
            )

    def _center(self, integrals: np.ndarray, theta: np.ndarray, notes: list[str]) -> float:
        if self.center is not None:
            detectors = integrals.shape[1] * self.bin
            if not 0 <= self.center < detectors:
                raise InputError(
                    f"ct: center {self.center:g} lies beyond the {detectors} detector pixels"
                )
            return (self.center - (self.bin - 1) / 2) / self.bin
        detectors, how = integrals.shape[1], "estimated from the centres of mass"
        if self.beam == "parallel":
            center = estimated_center(integrals, theta)
        elif (found := fan_center(integrals, theta)) is not None:
            center, how = found, "where the mean over a full turn is symmetric"
        else:
            center, how = float(detectors // 2), "assumed, since the views do not tell it"
        stated = center * self.bin + (self.bin - 1) / 2
        notes.append(
            f"rotation axis at detector pixel {stated:.2f} of {detectors * self.bin}, {how}; "
            "center=... states it"
        )
        return center

    def _measured_mu(
        self, integrals: np.ndarray, geometry: Geometry, kind: str, notes: list[str]
    ) -> float:
        if self.mu is not None:
            return self.mu
        y = torch.from_numpy(integrals)[None, None]
        picture = filtered_backprojection(y, geometry, "hann")[0, 0].numpy()[geometry.inside()]
        if kind == "integrals" and are_intensities(picture):
            return 1.0
        mu = three_digits(unit(picture))
        if mu <= 0:
            raise InputError("ct: the projections hold no attenuation; check flats and darks")
        notes.append(f"intensity 1 is an attenuation of {mu:g} per pixel; mu=... states it")
        return mu

    def export(self, result: inverse.Result, folder: Path) -> None:
        """Write the pictures, and the attenuation per pixel of the mean and its spread as TIFF."""
        super().export(result, folder)
        mu = self._mu(result.samples.shape[-1])
        slices = {"reconstruction.tif": result.mean}
        if result.samples.shape[1] > 1:
            slices["spread.tif"] = result.std
        for name, values in slices.items():
            write_tiff(folder / name, mu * values[0, 0].numpy(), description=UNITS)


@dataclass(frozen=True)
class MeasuredCT(CT):
    """The problem of a measured scan.

    Args:
        scan_: geometry, counts and scale of the measurement.
    """

    scan_: Scan | None = None

    @property
    def scan(self) -> Scan:
        """The measured scan."""
        assert self.scan_ is not None
        return self.scan_

    def geometry(self, shape: tuple[int, ...]) -> Geometry:
        """That of the measurement."""
        return self.scan.geometry

    def operator(self, shape: tuple[int, ...]) -> Any:
        """The line integrals, or with likelihood=poisson the expected counts."""
        counts = self.scan.counts
        projector = _projector(self, tuple(shape))
        if self.likelihood == "gaussian" or counts is None:
            return integrals_operator(projector, self.scan.mu, self._seen(projector))
        flat, dark = (torch.from_numpy(a) for a in (counts.flat - counts.dark, counts.dark))
        return counts_operator(projector, self.scan.mu, flat, dark)

    def noise(self, shape: tuple[int, ...]) -> inverse.Noise:
        """Of the counts, or of sigma_y where line integrals were measured."""
        counts, observed = self.scan.counts, self._observed(shape)
        if counts is None:
            return inverse.GaussianNoise(self.sigma_y, observed)
        if self.likelihood == "poisson":
            return inverse.PoissonNoise(counts.gain)
        sigma = np.sqrt(counts.sigma() ** 2 + self.sigma_model**2)[None]
        return inverse.GaussianNoise(torch.from_numpy(sigma), observed)

    def _seen(self, projector: Projector) -> Tensor | None:
        return None if self.scan.seen is None else torch.from_numpy(self.scan.seen)

    def posterior(self, truth: Tensor | int = 0, **settings: Any) -> inverse.Posterior:
        """As `Problem.posterior`."""
        return inverse.ImageProblem.posterior(self, truth, **settings)

    def signal_shape(self, y_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the slice, (1, N, N)."""
        return (1, self.scan.geometry.size, self.scan.geometry.size)

    def estimated_sigma_y(self, y: Tensor) -> float | None:
        """As `CT.estimated_sigma_y`; None for counts, whose noise is known."""
        return super().estimated_sigma_y(y) if self.scan.counts is None else None


@functools.lru_cache(maxsize=2)
def _cached_projector(key: tuple[Any, ...], problem: CT) -> Projector:
    return Projector(problem.geometry(key), problem.projector)


def _projector(problem: CT, shape: tuple[int, ...]) -> Projector:
    """The projector of a problem; the same object for the same problem and shape."""
    return _cached_projector(shape, problem)
