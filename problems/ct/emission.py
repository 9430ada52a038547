"""Positron emission tomography: activity from counts, with attenuation and a known background."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

import inverse
from inverse.errors import InputError
from inverse.io.arrays import read_named
from inverse.io.brightness import three_digits, unit
from inverse_problems.ct.filtering import filtered_backprojection
from inverse_problems.ct.geometry import Geometry, circle_mask
from inverse_problems.ct.projector import Projector
from inverse_problems.ct.scan import view_axis
from inverse_problems.ct.scan_files import checked, read_array, read_projections, read_theta
from inverse_problems.ct.slices import SliceProblem

WATER = 0.096 * 0.3
"""Attenuation of water at 511 keV per simulated pixel of 3 mm (Hubbell, Seltzer, NIST 1995)."""


@dataclass(frozen=True)
class PET(SliceProblem):
    """Emission tomography of one slice: y ~ Poisson(scale a P x + background), counts.

    P holds line integrals (pixels), as in `ct`, and a is the part of the photon pairs that leaves
    the body. Randoms and scatter are a known background. y is (1, views, detectors). A measurement
    is a file of counts; an .npz or HDF5 file may hold `theta`, `attenuation` (factors from 0 to 1),
    `randoms` and `scatter` of the same shape.

    Args:
        slices: ground truths in place of the shipped one: a folder, .npz or .h5 file of images.
        likelihood: poisson (a nonlinear operator, negative activity counts as none), or gaussian:
            counts without background, with their own number as variance.
        views: number of simulated views over 180 degrees.
        total: expected counts of a simulated slice, without background.
        contamination: simulated background, as a part of the mean of the other counts.
        attenuated: whether simulated counts are attenuated, by water within the circle.
        theta: file of the angles, one for each view (.txt, .csv, .npy); auto is those of the file,
            or equal steps over 180 degrees.
        theta_unit: of the angles in files; auto is degree unless the file says radian.
        attenuation: file of factors; auto is those of the file, or 1.
        background: file or number of counts; auto is randoms and scatter of the file, or 0.
        scale: counts per intensity and pixel; auto is found from the measurement.
        sigma_y: not used; counts have their own noise.
    """

    name = "pet"
    summary = "emission tomography: Poisson counts, attenuation, randoms and scatter"
    reference = "Shepp, Vardi, Maximum Likelihood Reconstruction for Emission Tomography, TMI 1982"
    kind = "PET"

    likelihood: Literal["gaussian", "poisson"] = "gaussian"
    views: Annotated[int, inverse.Range(1, 10**5)] = 60
    total: Annotated[float, inverse.Range(above=0, high=1e12)] = 1e6
    contamination: Annotated[float, inverse.Range(0, 100)] = 0.2
    attenuated: bool = True
    theta: Path | None = None
    theta_unit: Literal["degree", "radian"] | None = None
    attenuation: Path | None = None
    background: str | None = None
    scale: inverse.Positive | None = None

    # --- the problem ----------------------------------------------------------------------------

    def scan(self, shape: tuple[int, ...]) -> Emission:
        """The simulated scan of a slice (1, N, N).

        Raises: OptionError if the slice is not grey or not square.
        """
        size = self.side(shape)
        theta = math.pi * np.arange(self.views) / self.views
        projector = _projector(theta.tobytes(), size, size // 2, size)
        water = torch.from_numpy(circle_mask(size))[None, None] * WATER * 96 / size
        factors = torch.exp(-projector.forward(water.double()))[0]
        factors = factors if self.attenuated else torch.ones_like(factors)
        # a slice of mean intensity 1/4, as a head is, gives `total` counts
        inside = 0.25 * torch.from_numpy(circle_mask(size))[None, None].double()
        scale = self.scale or self.total / float((factors * projector.forward(inside)).sum())
        mean = self.contamination * self.total / factors.numel()
        return Emission(projector, factors, torch.full_like(factors, mean), scale)

    def operator(self, shape: tuple[int, ...]) -> Any:
        """The expected counts of a slice, without background if the likelihood is gaussian."""
        return _operators()[self.likelihood == "poisson"](self.scan(shape))

    def noise(self, shape: tuple[int, ...]) -> inverse.Noise:
        """Poisson noise; of a gaussian likelihood, that of the mean count until y is known."""
        if self.likelihood == "poisson":
            return inverse.PoissonNoise(1.0)
        scan = self.scan(shape)
        return inverse.GaussianNoise(max(self.total / scan.factors.numel(), 1.0) ** 0.5)

    def measure(self, truth: Tensor, generator: torch.Generator, operator: Any = None) -> Tensor:
        """Counts that are drawn, without the known background if the likelihood is gaussian."""
        scan = self.scan(tuple(truth.shape[1:]))
        clean = scan.expected(truth.double().clamp_min(0))
        counts = torch.poisson(clean, generator=generator)
        return (counts if self.likelihood == "poisson" else counts - scan.background).to(truth)

    def posterior(self, truth: Tensor | int = 0, **settings: Any) -> inverse.Posterior:
        """As `Problem.posterior`, for one slice if the likelihood is gaussian.

        Raises: InputError for several slices, whose noise differs.
        """
        if isinstance(truth, Tensor):
            truth = self.prepare(truth)
        posterior = super().posterior(truth, **settings)
        if self.likelihood == "poisson":
            return posterior
        if len(posterior) > 1:
            raise InputError(
                f"pet: {len(posterior)} slices have noise of their own; solve them one by one"
            )
        counts = posterior.y[0].cpu().double() + self.scan(posterior.shape).background
        return posterior.replaced(noise=inverse.GaussianNoise(counts.clamp_min(1).sqrt()))

    def signal_shape(self, y_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the slice, (1, N, N)."""
        return (1, y_shape[-1], y_shape[-1])

    def as_pictures(self, y: Tensor, operator: Any) -> Tensor:
        """The filtered back-projection of counts, corrected for background and attenuation."""
        return operator.filtered_backprojection(y, "hann")

    # --- files ----------------------------------------------------------------------------------

    def open(self, file: Path, prior: inverse.Prior, measured: bool):
        """Read a slice (picture or array) or counts; see the class.

        Raises: InputError if the file cannot be used.
        """
        if not measured:
            return super().open(file, prior, measured)
        notes: list[str] = []
        file = Path(file)
        found = read_projections(file, self.theta_unit)
        theta = found.theta if self.theta is None else read_theta(self.theta, self.theta_unit)
        if found.data.ndim != 2:
            raise InputError(
                f"{file}: expected counts (views, detectors), found shape {found.data.shape}"
            )
        axis, how = view_axis(found.data, None if theta is None else len(theta))
        notes.append(f"{found.data.shape[axis]} views: {how}")
        if found.data.min() < 0:
            negative = int((found.data < 0).sum())
            raise InputError(
                f"{file}: {negative} of {found.data.size} counts are negative; give prompt counts, "
                "with randoms as background"
            )
        named = read_named(file, ("attenuation", "randoms", "scatter"))
        factors = self._factors(file, named.get("attenuation"), found.data.shape)
        background = self._background(file, named, found.data.shape)
        counts, loss, known = (
            torch.from_numpy((a if axis == 0 else a.T).copy())[None]
            for a in (found.data, factors, background)
        )
        views, detectors = counts.shape[1:]
        angles = math.pi * np.arange(views) / views if theta is None else theta
        projector = _projector(angles.tobytes(), detectors, detectors // 2, detectors)
        trues = (counts - known) / loss.clamp_min(1e-3)
        first = filtered_backprojection(trues[None], projector.geometry, "hann")[0, 0]
        scale = self.scale or three_digits(unit(first[torch.from_numpy(circle_mask(detectors))]))
        if scale <= 0:
            raise InputError(f"{file}: the counts do not exceed the background")
        notes.append(f"intensity 1 is {scale:g} counts per pixel and line; scale=... states it")
        emission = Emission(projector, loss, known, scale)
        own: dict[str, Any] = vars(self) | {"emission_": emission, "scale": scale}
        posed = MeasuredPET(**own)
        y = counts if self.likelihood == "poisson" else counts - known
        return posed, y.float(), notes

    def _factors(self, file: Path, own: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
        path = file if self.attenuation is None else self.attenuation
        factors = own if self.attenuation is None else read_array(self.attenuation)
        if factors is None:
            return np.ones(shape)
        factors = checked(path, factors)
        if factors.shape != shape:
            raise InputError(f"{path}: attenuation of shape {factors.shape}, counts of {shape}")
        if factors.min() < 0 or factors.max() > 1 + 1e-6:
            raise InputError(
                f"{path}: attenuation factors from {factors.min():.4g} to {factors.max():.4g}; "
                "they are the part that leaves the body, from 0 to 1"
            )
        return factors

    def _background(
        self, file: Path, named: dict[str, np.ndarray], shape: tuple[int, ...]
    ) -> np.ndarray:
        if self.background is None:
            parts = [checked(file, named[name]) for name in ("randoms", "scatter") if name in named]
        else:
            try:
                parts = [np.full(shape, float(self.background))]
            except ValueError:
                parts = [checked(Path(self.background), read_array(Path(self.background)))]
        for part in parts:
            if part.shape != shape:
                raise InputError(f"{file}: background of shape {part.shape}, counts of {shape}")
            if part.min() < 0:
                raise InputError(f"{file}: the background is negative; it is a number of counts")
        return sum(parts, np.zeros(shape))


@dataclass(frozen=True, eq=False, repr=False)
class Emission:
    """What a scan sees: counts = scale factors P x + background.

    Args:
        projector: P.
        factors: attenuation, (1, views, detectors), from 0 to 1.
        background: randoms and scatter (counts), (1, views, detectors).
        scale: counts per intensity and pixel.
    """

    projector: Projector
    factors: Tensor
    background: Tensor
    scale: float

    def __repr__(self) -> str:
        views, detectors = self.factors.shape[1:]
        return f"{views} views of {detectors} detectors, scale {self.scale:g}"

    def expected(self, x: Tensor) -> Tensor:
        """Expected counts with background, (B, 1, N, N) -> (B, 1, views, detectors), float64."""
        return self.scale * self.factors * self.projector.forward(x) + self.background


@dataclass(frozen=True)
class MeasuredPET(PET):
    """The problem of measured counts.

    Args:
        emission_: what the scan saw.
    """

    emission_: Emission | None = None

    def scan(self, shape: tuple[int, ...]) -> Emission:
        """That of the measurement."""
        assert self.emission_ is not None
        return self.emission_


@functools.lru_cache(maxsize=2)
def _projector(theta: bytes, detectors: int, center: int, size: int) -> Projector:
    return Projector(Geometry(np.frombuffer(theta), detectors, center, size))


@functools.cache
def _operators() -> tuple[Any, Any]:
    physics = inverse.physics

    class Trues(physics.LinearPhysics):  # type: ignore[name-defined, misc]
        """Expected counts without background."""

        def __init__(self, emission: Emission):
            super().__init__()
            self.projector = emission.projector
            self.register_buffer("gains", emission.scale * emission.factors.double())
            self.gains: Tensor

        def A(self, x: Tensor, **_: Any) -> Tensor:
            return self.gains * self.projector.forward(x)

        def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:
            return self.projector.adjoint(self.gains * y)

        def filtered_backprojection(self, y: Tensor, window: str) -> Tensor:
            lines = y / self.gains.clamp_min(1e-3 * self.gains.max())
            return filtered_backprojection(lines, self.projector.geometry, window)

    class Prompts(physics.Physics):  # type: ignore[name-defined, misc]
        """Expected counts with background; negative activity counts as none."""

        def __init__(self, emission: Emission):
            super().__init__()
            self.trues = Trues(emission)
            self.register_buffer("background", emission.background.double())
            self.background: Tensor

        def A(self, x: Tensor, **_: Any) -> Tensor:
            return self.trues.A(x.clamp_min(0)) + self.background

        def filtered_backprojection(self, y: Tensor, window: str) -> Tensor:
            return self.trues.filtered_backprojection(y - self.background, window)

    return Trues, Prompts
