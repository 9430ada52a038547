"""Deconvolution of fluorescence microscopy, of pictures and stacks, from photon counts."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

import inverse
from inverse.errors import InputError, OptionError
from inverse.io.brightness import three_digits, unit
from inverse.priors.field import FieldPrior, matern
from inverse.priors.volume import Plane, VolumePrior
from inverse_problems.microscopy.counting import brightness_operator, counts_operator
from inverse_problems.microscopy.point_spread import Optics, measured_psf, optical_psf
from inverse_problems.microscopy.specimen import filaments
from inverse_problems.microscopy.stacks import Voxel, read_stack, write_stack

PLANES: dict[str, tuple[Plane, ...]] = {"focal": ("yx",), "all": ("yx", "zx", "zy")}
SMOOTH = "smooth-field"
"""Name of the default prior."""

SIDE = 96
"""Side of a simulated specimen (pixels)."""

UNKNOWN_VOXEL = (
    "the file does not state the side of its pixels; state pixel=... (nm)"
    " and for a stack step=..., or a point spread function: psf=FILE"
)


@dataclass(frozen=True)
class Microscopy(inverse.Problem):
    """Widefield fluorescence: y = Poisson(scale psf * x + background) + read noise, electrons.

    x is an image (1, height, width) or a stack (1, depth, height, width). A measurement is a TIFF
    file (also ImageJ's and OME's), .npy, .npz or HDF5 of camera counts; the counts are turned into
    photo-electrons, (counts - offset) / gain. Beyond the edges of the image x is mirrored.

    Args:
        psf: optics (computed from the numbers below), or the file of a measured one.
        wavelength: of the emitted light in vacuum (nm).
        na: numerical aperture of the objective.
        immersion: refractive index of the immersion medium, at least na.
        specimen: refractive index of the specimen; auto is that of the immersion.
        focus: depth of the focal plane below the cover glass (um).
        pixel: side of a pixel in the specimen (nm); auto is that of the file, or 65.
        step: distance of the planes of a stack (nm); auto is that of the file, or 200.
        depth: planes of a simulated stack; auto is a picture.
        likelihood: gaussian (y without background, with its own number as variance) or poisson (a
            nonlinear operator; negative x counts as dark; read noise is added to both the counts
            and their expectation, as its variance).
        scale: photo-electrons of intensity 1; auto is found from the measurement, or 200 for a
            simulated picture and 5000 for a simulated stack, whose light spreads over the planes.
        background: light from elsewhere (photo-electrons); auto is found from the measurement, or
            5 for a simulated one.
        gain: counts per photo-electron.
        offset: counts without light.
        read_noise: standard deviation of the camera's noise (photo-electrons).
        boundary: continuation beyond the edges: reflect, replicate, circular or zeros.
        slices: planes that a prior of pictures judges in a stack: focal, or all three.
        sigma_y: not used; counts have their own noise.

    Raises: OptionError if an option is out of range.
    """

    name = "microscopy"
    summary = "deconvolution of fluorescence pictures and stacks, Poisson and read noise"
    reference = (
        "Gibson, Lanni, Experimental test of an analytical model of aberration in an oil-immersion "
        "objective lens, JOSA A 1992"
    )
    prior: ClassVar[str] = ""
    exports: ClassVar[tuple[str, ...]] = ("reconstruction.tif", "reconstruction.png", "panel.png")

    psf: str = "optics"
    wavelength: Annotated[float, inverse.Range(100, 5000)] = 520.0
    na: Annotated[float, inverse.Range(0.02, 1.7)] = 1.4
    immersion: Annotated[float, inverse.Range(1, 2)] = 1.515
    specimen: Annotated[float, inverse.Range(1, 2)] | None = None
    focus: Annotated[float, inverse.Range(0, 1000)] = 0.0
    pixel: Annotated[float, inverse.Range(1, 1e5)] | None = None
    step: Annotated[float, inverse.Range(1, 1e6)] | None = None
    depth: Annotated[int, inverse.Range(2, 1000)] | None = None
    likelihood: Literal["gaussian", "poisson"] = "gaussian"
    scale: inverse.Positive | None = None
    background: inverse.NonNegative | None = None
    gain: inverse.Positive = 1.0
    offset: inverse.NonNegative = 0.0
    read_noise: inverse.NonNegative = 1.0
    boundary: Literal["reflect", "replicate", "circular", "zeros"] = "reflect"
    slices: Literal["focal", "all"] = "focal"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.na >= self.immersion:
            raise OptionError(
                f"microscopy: na={self.na:g} needs an immersion medium of a larger refractive "
                f"index, got immersion={self.immersion:g}; oil has 1.515, water 1.33"
            )

    # --- the instrument -------------------------------------------------------------------------

    @property
    def voxel(self) -> Voxel:
        """Sides of a voxel of a simulated image."""
        return Voxel(self.pixel or 65.0, self.step or 200.0)

    def point_spread(self, size: tuple[int, ...]) -> Tensor:
        """The point spread function for an image of this size: (h, w) or (d, h, w), sum 1."""
        if self.psf != "optics":
            stated = None if self.pixel is None else Voxel(self.pixel, self.step or self.pixel)
            return measured_psf(Path(self.psf), stated, size)
        optics = Optics(
            self.wavelength,
            self.na,
            self.immersion,
            self.immersion if self.specimen is None else self.specimen,
            self.focus,
        )
        return optical_psf(optics, self.voxel, size)

    @property
    def is_stack(self) -> bool:
        """Whether x is a stack."""
        return self.depth is not None

    @property
    def _scale(self) -> float:
        return self.scale or (5000.0 if self.is_stack else 200.0)

    @property
    def _background(self) -> float:
        return 5.0 if self.background is None else self.background

    # --- the problem ----------------------------------------------------------------------------

    def operator(self, shape: tuple[int, ...]) -> Any:
        """Expected photo-electrons of x (1, H, W) or (1, D, H, W).

        Without background if the likelihood is gaussian; with the variance of the read noise if it
        is poisson.

        Raises: OptionError if x has colours; InputError if the point spread function is unusable.
        """
        if len(shape) not in (3, 4) or shape[0] != 1:
            raise OptionError(
                f"microscopy: an image has one channel, (1, H, W) or (1, D, H, W), got "
                f"{tuple(shape)}; use a grey prior"
            )
        psf = self.point_spread(tuple(shape[1:]))
        if self.likelihood == "gaussian":
            return brightness_operator(psf, shape, self.boundary, self._scale)
        dark = self._background + self.read_noise**2
        return counts_operator(psf, shape, self.boundary, self._scale, dark)

    def noise(self, shape: tuple[int, ...]) -> inverse.Noise:
        """Poisson noise; of a gaussian likelihood, that of the background until y is known."""
        if self.likelihood == "poisson":
            return inverse.PoissonNoise(1.0)
        return inverse.GaussianNoise(max(self._background + self.read_noise**2, 1.0) ** 0.5)

    def measure(self, truth: Tensor, generator: torch.Generator, operator: Any = None) -> Tensor:
        """Photo-electrons of a camera; see `from_electrons`."""
        shape = tuple(truth.shape[1:])
        blur = brightness_operator(self.point_spread(shape[1:]), shape, self.boundary, self._scale)
        expected = blur.A(truth.double().clamp_min(0)).clamp_min(0) + self._background
        counts = torch.poisson(expected, generator=generator)
        noise = torch.randn(counts.shape, generator=generator, dtype=counts.dtype)
        return self.from_electrons(counts + self.read_noise * noise).to(truth.dtype)

    def from_electrons(self, electrons: Tensor) -> Tensor:
        """y: without background, or for poisson with the variance of the read noise, not below 0.

        Source of the shift: Snyder, Hammoud, White, Image recovery from data acquired with a
        charge-coupled-device camera, JOSA A 1993.
        """
        if self.likelihood == "gaussian":
            return electrons - self._background
        return (electrons + self.read_noise**2).clamp_min(0)

    def posterior(self, truth: Tensor | int = 0, **settings: Any) -> inverse.Posterior:
        """As `Problem.posterior`, for one image if the likelihood is gaussian.

        Raises: InputError for several images, whose noise differs.
        """
        posterior = super().posterior(truth, **settings)
        if self.likelihood == "poisson":
            return posterior
        if len(posterior) > 1:
            raise InputError(
                f"microscopy: {len(posterior)} images have noise of their own; solve them one by "
                "one, or with likelihood=poisson"
            )
        electrons = posterior.y[0].cpu().double() + self._background
        variance = electrons.clamp_min(1) + self.read_noise**2
        return posterior.replaced(noise=inverse.GaussianNoise(variance.sqrt()))

    def make_prior(self) -> inverse.Prior:
        """A Gaussian field of pictures or stacks that is correlated over the resolution."""
        length = Optics(self.wavelength, self.na, self.immersion, self.immersion, 0.0).lateral / 2
        voxel = (self.voxel.step, self.voxel.pixel, self.voxel.pixel)
        sides = voxel if self.is_stack else voxel[1:]
        law = FieldPrior(
            torch.tensor(-0.8),
            matern(0.3, length, 0.5, sides),
            (1, *(None for _ in sides)),
            shift=0.5,
            scale=0.5,
        )
        law.name = SMOOTH  # type: ignore[assignment]
        return law

    def resolve_prior(
        self,
        prior: inverse.Prior | str | Path | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> inverse.Prior:
        """As `Problem.resolve_prior`; a prior of pictures judges the slices of a stack."""
        found = super().resolve_prior(prior, device, dtype)
        if not self.is_stack or len(found.shape) != 3:
            return found
        if getattr(found, "name", "") == SMOOTH:
            return self.make_prior().to(device, dtype)
        return VolumePrior(found, PLANES[self.slices])

    def prior_notes(self, prior: inverse.Prior) -> list[str]:
        """That the default prior knows smoothness alone."""
        if getattr(prior, "name", "") != SMOOTH:
            return []
        return [
            "the prior is a Gaussian field that knows smoothness alone; --prior takes one that was "
            "trained on such images (inverse train)"
        ]

    def truths(self) -> list[Tensor]:
        """Synthetic filaments, (1, 96, 96), or (1, depth, 96, 96)."""
        size = (SIDE, SIDE) if self.depth is None else (self.depth, SIDE, SIDE)
        return [filaments(size)[None].float()]

    # --- files ----------------------------------------------------------------------------------

    def open(
        self, file: Path, prior: inverse.Prior, measured: bool
    ) -> tuple[inverse.Problem, Tensor, list[str]]:
        """Read a specimen (values from 0 to 1) or camera counts; see the class.

        Raises: InputError if the file cannot be used.
        """
        stack = read_stack(Path(file))
        axes = stack.numbers.ndim
        if self.depth is not None:
            raise OptionError(
                f"microscopy: depth={self.depth} belongs to a simulated stack; {file} has "
                f"{'planes of its own' if axes == 3 else 'no planes'}; leave depth out"
            )
        pixel = self.pixel or (stack.voxel.pixel if stack.voxel else None)
        step = self.step or (stack.voxel.step if stack.voxel and axes == 3 else None)
        known = pixel is not None and (axes == 2 or step is not None)
        if not known and self.psf == "optics" and measured:
            raise InputError(f"{file}: {UNKNOWN_VOXEL}")
        own = {f.name: getattr(self, f.name) for f in fields(Microscopy)}
        own |= {"pixel": pixel, "step": step}
        notes = [f"voxels of {Voxel(pixel, step or pixel)}"] if pixel else []
        if not measured:
            return self._specimen(file, stack.numbers, own, notes)
        lowest = float(stack.numbers.min())
        if lowest < 0:
            raise InputError(
                f"{file}: counts are not negative, found {lowest:.4g}; give the camera's numbers, "
                "with offset=... as its counts without light"
            )
        electrons = (stack.numbers - self.offset) / self.gain
        if self.background is None:
            own["background"] = float(f"{max(np.percentile(electrons, 1), 0):.3g}")
            notes.append(f"background {own['background']:g} photo-electrons, estimated; state it")
        if self.scale is None:
            own["scale"] = three_digits(unit(electrons, own["background"]))
            if own["scale"] <= 0:
                raise InputError(f"{file}: the counts do not exceed offset and background")
            notes.append(f"intensity 1 is {own['scale']:g} photo-electrons; scale=... states it")
        posed = MeasuredMicroscopy(**own | {"axes_": axes})
        y = posed.from_electrons(torch.from_numpy(electrons)[None])
        return posed, y.float(), notes

    def _specimen(
        self, file: Path, numbers: np.ndarray, own: dict[str, Any], notes: list[str]
    ) -> tuple[inverse.Problem, Tensor, list[str]]:
        if numbers.min() < -1e-6 or numbers.max() > 1 + 1e-6:
            raise InputError(
                f"{file}: a specimen has intensities from 0 to 1, found {numbers.min():.4g} to "
                f"{numbers.max():.4g}; divide by the largest"
            )
        posed = MeasuredMicroscopy(**own | {"axes_": numbers.ndim})
        return posed, torch.from_numpy(numbers)[None].float(), notes

    def as_pictures(self, y: Tensor, operator: Any) -> Tensor:
        """Intensities; of a stack the brightest voxel along the axis."""
        dark = 0 if self.likelihood == "gaussian" else self._background
        return _brightest((y - dark) / self._scale, 4)

    def export(self, result: inverse.Result, folder: Path) -> None:
        """Write the mean (photo-electrons) as ImageJ TIFF with its voxels, and pictures.

        Of a stack, pictures show the brightest voxel along the axis.
        """
        from inverse.io.images import write_png
        from inverse.panel import panel

        mean = result.mean[0, 0]
        write_stack(folder / "reconstruction.tif", self._scale * mean.numpy(), self._file_voxel)
        if result.samples.shape[1] > 1:
            std = self._scale * result.std[0, 0].numpy()
            write_stack(folder / "spread.tif", std, self._file_voxel)
        operator = self.operator(tuple(result.samples.shape[2:]))
        residual = result.y - operator.A(result.mean.double()).to(result.y.dtype)
        write_png(folder / "reconstruction.png", _brightest(result.mean[0], 3).clamp(0, 1))
        shown = replace(
            result,
            samples=_brightest(result.samples, 5),
            y=self.as_pictures(result.y, operator),
            truth=None if result.truth is None else _brightest(result.truth, 4),
        )
        write_png(
            folder / "panel.png", panel(shown, residual=_brightest(residual / self._scale, 4))
        )

    @property
    def _file_voxel(self) -> Voxel | None:
        return None if self.pixel is None else Voxel(self.pixel, self.step or self.pixel)


def _brightest(x: Tensor, axes: int) -> Tensor:
    """The brightest voxel along the axis of stacks; pictures, of so many axes, unchanged."""
    return x.amax(-3) if x.ndim > axes else x


@dataclass(frozen=True)
class MeasuredMicroscopy(Microscopy):
    """The problem of an image from a file.

    Args:
        axes_: 2 for a picture, 3 for a stack.
    """

    axes_: int = 2

    @property
    def is_stack(self) -> bool:
        """Whether the file holds a stack."""
        return self.axes_ == 3
