"""The problem `mri`: a slice measured on some lines of its Fourier transform."""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

import inverse
from inverse.errors import InputError, OptionError
from inverse.io import brightness
from inverse.io.arrays import write_hdf5
from inverse.io.image_sets import read_slices
from inverse.io.images import write_png
from inverse_problems.mri.kspace_files import (
    KSpace,
    grid_radius,
    header_sides,
    noise_level,
    outer,
    read_maps,
)
from inverse_problems.mri.maps import simulated_maps
from inverse_problems.mri.measurements import Reader
from inverse_problems.mri.nufft import NUFFT, density_compensation
from inverse_problems.mri.operators import off_grid, one_coil, several_coils
from inverse_problems.mri.trajectories import Shots, radial, spiral

LINES = ("random", "equispaced", "fastmri-random", "fastmri-equispaced")
"""Masks that are drawn."""

ARMS = 16
"""Arms of a spiral at acceleration 1."""


@dataclass(frozen=True)
class MRI(inverse.ImageProblem):
    """Sampling of the Fourier transform of a real (magnitude) slice: y_c = M F S_c x + noise.

    F is the centred orthonormal 2-D Fourier transform, M the mask and S_c the sensitivity of coil
    c, with the phase of the slice; for one coil of a real slice it is 1. y has the real and the
    imaginary part of each coil as channels (2 coils, H, W), zero where the mask is. A measured line
    is a column (a phase encoding); its real and imaginary parts each carry noise of standard
    deviation sigma_y. F preserves lengths, so sigma_y is in intensities too: if all lines are
    measured, the inverse transform has noise of that standard deviation.

    Off a grid, on radial and spiral trajectories, M F is the transform at their frequencies and y
    is (2 coils, shots, samples).

    `--measurement` takes complex .npy, .npz and HDF5, fastMRI's files and ISMRMRD. Their mask,
    scale, noise and where the zero frequency lies are found from the data.

    Args:
        mask: random or equispaced lines beside a fully measured centre, fastmri-random or
            fastmri-equispaced by the rules of fastMRI, or the path of a mask picture (white =
            measured) of the slice's size. A measurement is taken as measured
            wherever it is not zero, within the mask of its file and of this picture.
        trajectory: cartesian; radial (golden angles) or spiral, simulated; or a file of the
            trajectory (shots, samples, 2) of a measurement. That of the file of k-space is used
            without being stated.
        trajectory_unit: fov (cycles per field of view), pixel (cycles per pixel) or radian (radians
            per pixel); auto is found from the range.
        size: height and width of a slice that is measured off a grid (pixels); auto is that of the
            header, or twice the highest frequency.
        acceleration: ratio of all columns, spokes or arms to the measured ones.
        centre: fraction of the columns in the fully measured centre; by default
            0.32 / acceleration, i.e. 8 % at acceleration 4 and 4 % at 8.
        mask_seed: random seed of the random lines and of the offset of equispaced lines.
        sigma_y: standard deviation of the noise of each real and imaginary part (intensities).
        coils: number of simulated coils.
        maps: file of sensitivity maps (coils, H, W), complex, of unit norm over the coils; auto
            estimates them from the centre of k-space by ESPIRiT.
        whiten: whether to make the noise of a measurement's coils uncorrelated and equal; auto does
            so if the file has noise scans.
        slice_: slice of a measured volume, counted from 0, or all; auto is the middle one.
        select: image of an ISMRMRD file, such as repetition:2,contrast:0.
        slices: ground truths in place of the shipped one: a folder, .npz or .h5 file of images.
        scale: intensity 1 in units of the file; auto is found from the measurement.

    Raises: OptionError if centre is out of range.
    """

    name = "mri"
    summary = "accelerated MRI, one coil or several: lines, spokes, spirals, k-space files"
    reference = (
        "Zbontar et al., fastMRI, 2018, https://arxiv.org/abs/1811.08839: accelerations 4 and 8 "
        "with centres of 8 and 4 %. The paper draws each random line independently, so that their "
        "number varies; `acceleration` fixes their number."
    )
    prior = "mri-96"
    measured_role = "numbers"

    mask: str = "random"
    trajectory: str = "cartesian"
    trajectory_unit: Literal["fov", "pixel", "radian"] | None = None
    size: tuple[int, int] | None = None
    acceleration: Annotated[float, inverse.Range(1, 1000)] = 4.0
    centre: inverse.Fraction | None = None
    mask_seed: inverse.Seed = 0
    sigma_y: inverse.NonNegative = 0.01
    coils: Annotated[int, inverse.Range(1, 256)] = 1
    maps: Path | None = None
    whiten: bool | None = None
    slice_: Annotated[int, inverse.Range(0, 10**7)] | Literal["all"] | None = None
    select: dict[str, int] | None = None
    slices: Path | None = None
    scale: inverse.Positive | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self._centre * self.acceleration <= 1:
            raise OptionError(
                f"mri: centre must be from 0 to 1 / acceleration, got {self._centre:g} "
                f"at acceleration {self.acceleration:g}"
            )
        if self.size is not None and not all(4 <= n <= 10**5 for n in self.size):
            raise OptionError(f"mri: size must be from 4 to 1e5 pixels, got {self.size}")

    @property
    def _is_cartesian(self) -> bool:
        return self.trajectory == "cartesian"

    @property
    def _centre(self) -> float:
        return 0.32 / self.acceleration if self.centre is None else self.centre

    def sampled(self, height: int, width: int) -> Tensor:
        """The measured frequencies: boolean (height, width), zero frequency at (H // 2, W // 2).

        Raises: InputError if the mask is unknown, has another size or measures nothing.
        """
        if self.mask in LINES:
            return self._lines(width).expand(height, width)
        mask = _read_mask(self.mask)
        if mask.shape != (height, width):
            raise InputError(
                f"mri: mask {self.mask} has {mask.shape[0]}x{mask.shape[1]} pixels, "
                f"the slice {height}x{width}; resize the mask"
            )
        return mask

    def _lines(self, width: int) -> Tensor:
        """The measured columns, boolean (width,): the centre, and others up to the acceleration."""
        centre = round(width * self._centre)
        lines = max(1, round(width / self.acceleration), centre)
        measured = torch.zeros(width, dtype=torch.bool)
        first = width // 2 - centre // 2
        measured[first : first + centre] = True
        rest, count = torch.nonzero(~measured).flatten(), lines - centre
        generator = inverse.seeded(self.mask_seed, "mri lines")
        if self.mask.startswith("fastmri"):
            return measured | fastmri_lines(self.mask, width, self.acceleration, centre, generator)
        if self.mask == "random":
            chosen = rest[torch.randperm(len(rest), generator=generator)[:count]]
        else:
            offset = torch.rand(1, generator=generator, dtype=torch.float64)
            chosen = rest[((torch.arange(count) + offset) * len(rest) / max(count, 1)).long()]
        measured[chosen] = True
        return measured

    def operator(self, shape: tuple[int, ...]) -> Any:
        """The masked Fourier transform of a slice (1, H, W) -> (2 coils, H, W).

        Off a grid -> (2 coils, shots, samples).

        Raises: OptionError if the image has several channels.
        """
        if len(shape) != 3 or shape[0] != 1:
            raise OptionError(
                f"mri: a slice is grey, (1, height, width), got {tuple(shape)}; "
                "use a grey prior, e.g. --prior mri-96"
            )
        height, width = shape[-2:]
        maps = self._maps(height, width)
        if not self._is_cartesian:
            nufft, density = self._frequencies((height, width))
            ones = torch.ones(1, height, width, dtype=torch.complex64)
            return off_grid(nufft, ones if maps is None else maps, density)
        sampled = self.sampled(height, width)
        return one_coil(sampled) if maps is None else several_coils(sampled, maps)

    def _frequencies(self, sides: tuple[int, int]) -> tuple[NUFFT, Tensor]:
        """The transform at the frequencies of the simulated trajectory, and their density."""
        full = {"radial": np.pi / 2 * max(sides), "spiral": ARMS}
        if self.trajectory not in full:
            raise OptionError(
                f"mri: trajectory {self.trajectory} is not known for a simulation; known: "
                "cartesian, radial, spiral. A file belongs to a measurement, --measurement FILE"
            )
        return _simulated(
            self.trajectory, max(1, round(full[self.trajectory] / self.acceleration)), sides
        )

    def _maps(self, height: int, width: int) -> Tensor | None:
        """Complex (coils, H, W), or None for one coil of a real slice."""
        if self.maps is not None:
            maps = read_maps(self.maps, (self.coils, height, width))
        elif self.coils > 1:
            maps = simulated_maps(self.coils, height, width)
        else:
            return None
        return torch.from_numpy(maps)

    def noise(self, shape: tuple[int, ...]):
        """White Gaussian noise of the measured frequencies."""
        if not self._is_cartesian:
            return inverse.GaussianNoise(self.sigma_y)
        return inverse.GaussianNoise(self.sigma_y, observed=self.sampled(*shape[-2:]))

    def signal_shape(self, y_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the slice, (1, H, W).

        Raises: OptionError off a grid without `size`.
        """
        if self._is_cartesian:
            return (1, *y_shape[1:])
        if self.size is None:
            raise OptionError(
                f"mri: k-space on a {self.trajectory} trajectory does not tell the size of the "
                "slice; state size=HEIGHT,WIDTH"
            )
        return (1, *self.size)

    def prior_notes(self, prior: inverse.Prior) -> list[str]:
        """What `mri-96` was trained on."""
        if getattr(prior, "name", "") != self.prior:
            return []
        return [
            "mri-96 is a prior of contrast-enhanced T1 slices of 96 pixels; other contrasts and "
            "sizes are outside of what it saw; not for diagnosis"
        ]

    def pictures(self, prior: inverse.Prior | None = None) -> list[Path]:
        """One slice of an average brain, for every prior; `mri-96` was trained on single brains."""
        images = Path(str(importlib.resources.files("inverse_data"))) / "images"
        return [images / "mri-96" / "slice.png"]

    def truths(self) -> list[Tensor]:
        """The shipped slice, (1, 96, 96), or those of `slices`, intensities."""
        if self.slices is not None:
            return read_slices(self.slices)
        return [inverse.read_image(path, channels=1).pixels for path in self.pictures()]

    def truths_for(self, prior: inverse.Prior) -> list[Tensor]:
        """The truths, for every prior."""
        return self.truths()

    def as_pictures(self, y: Tensor, operator: Any) -> Tensor:
        """The zero-filled, or off a grid the gridded, slice: (B, 2 coils, ...) -> (B, 1, H, W)."""
        return operator.A_adjoint(y) if self._is_cartesian else operator.gridding(y)

    # --- files ----------------------------------------------------------------------------------

    def open(self, file: Path, prior: inverse.Prior, measured: bool):
        """Read a slice, or k-space; see `read_kspace` for its shapes.

        Raises: InputError if the file is of another kind.
        """
        if not measured:
            return super().open(file, prior, measured)
        if self.slice_ == "all":
            raise InputError(f"{file}: slice=all takes one measured file alone")
        notes: list[str] = []
        found, magnitude = self._reader().read(Path(file), notes)
        scale = self._scale(magnitude, notes)
        sigma = None if found.sigma is None else found.sigma / scale
        found = replace(found, data=found.data / scale, sigma=sigma)
        own: dict[str, Any] = vars(self) | {"scale": scale, "coils": len(found.data)}
        posed: MRI
        if isinstance(found, KSpace):
            posed = MeasuredMRI(**own | {"trajectory": "cartesian"}, kspace_=found)
        else:
            kept = self.trajectory if self._reader().trajectory else "file"
            posed = MeasuredShots(**own | {"trajectory": kept}, shots_=found)
        y = torch.view_as_real(torch.from_numpy(found.data)).movedim(-1, 1).flatten(0, 1)
        return posed, y.contiguous(), notes

    def parts(self, file: Path) -> list[inverse.Problem]:
        """The problems of every slice, with slice=all."""
        if self.slice_ != "all":
            return []
        return [replace(self, slice_=index) for index in self._reader().slices(Path(file))]

    def put_together(self, file: Path, results: Iterable[inverse.Result], folder: Path) -> Path:
        """Write `reconstruction` (slices, H, W) as HDF5, as fastMRI does, and `spread`.

        In units of the file, cropped to the size that its header states.
        """
        means, spreads, several = [], [], False
        sides = header_sides(Path(file))
        for result in results:
            scale = float(result.provenance["problem"]["options"]["scale"])
            means.append(scale * _centre(result.mean[0, 0], sides).numpy())
            spreads.append(scale * _centre(result.std[0, 0], sides).numpy())
            several = result.samples.shape[1] > 1
        arrays = {"reconstruction": np.stack(means)}
        if several:
            arrays["spread"] = np.stack(spreads)
        return write_hdf5(folder / "reconstruction.h5", arrays)

    def _reader(self) -> Reader:
        """What the options say about a measurement."""
        stated = None
        if self.trajectory not in ("cartesian", "radial", "spiral"):
            stated = Path(self.trajectory)
        mask = None
        if self.mask not in LINES:
            mask = _read_mask(self.mask).numpy()
        return Reader(
            self.maps,
            self.whiten,
            None if self.slice_ == "all" else self.slice_,
            self.select,
            mask,
            stated,
            self.trajectory_unit,
            self.size,
        )

    def _scale(self, magnitude: np.ndarray, notes: list[str]) -> float:
        if self.scale is not None:
            return self.scale
        if brightness.are_intensities(magnitude):
            return 1.0
        scale = brightness.three_digits(brightness.unit(magnitude))
        if not scale > 0:
            raise InputError("mri: the zero-filled slice is not positive; state scale=...")
        notes.append(
            f"intensity 1 is {scale:g} in orthonormal units of the file; scale=... states it"
        )
        return scale


def fastmri_lines(
    mask: str, width: int, acceleration: float, centre: int, generator: torch.Generator
) -> Tensor:
    """The measured columns beside the centre by the rules of fastMRI, boolean (width,).

    fastmri-random measures each column with a probability, so that their number varies;
    fastmri-equispaced takes a column every `step` from a random offset, counting the centre.

    Args:
        centre: columns in the fully measured centre.

    Source: `RandomMaskFunc` and `EquispacedMaskFractionFunc` of
    https://github.com/facebookresearch/fastMRI, fastmri/data/subsample.py.
    """
    if centre >= min(width, width / acceleration):
        return torch.zeros(width, dtype=torch.bool)
    if mask == "fastmri-random":
        share = (width / acceleration - centre) / (width - centre)
        return torch.rand(width, generator=generator, dtype=torch.float64) < share
    step = acceleration * (centre - width) / (centre * acceleration - width)
    offset = int(torch.randint(max(1, round(step)), (1,), generator=generator))
    measured = torch.zeros(width, dtype=torch.bool)
    measured[torch.arange(offset, width - 1, step, dtype=torch.float64).round().long()] = True
    return measured


def _centre(picture: Tensor, recon: tuple[int, int] | None) -> Tensor:
    """The middle (..., h, w) of a picture (..., H, W); all of it if it is smaller."""
    sides = picture.shape[-2:]
    if recon is None or recon[0] > sides[0] or recon[1] > sides[1]:
        return picture
    top, left = sides[0] // 2 - recon[0] // 2, sides[1] // 2 - recon[1] // 2
    return picture[..., top : top + recon[0], left : left + recon[1]]


def _read_mask(name: str) -> Tensor:
    """The measured frequencies of a picture, boolean (H, W).

    Raises: InputError if it is no file, or measures nothing.
    """
    if not Path(name).exists():
        raise InputError(
            f"mri: mask '{name}' is neither a file nor a known mask; known: {', '.join(LINES)}"
        )
    mask, _ = inverse.read_mask(name)
    if not bool(mask.any()):
        raise InputError(f"mri: mask {name} leaves nothing measured; use another mask")
    return mask


@functools.lru_cache(maxsize=4)
def _simulated(name: str, shots: int, sides: tuple[int, int]) -> tuple[NUFFT, Tensor]:
    """The transform at the frequencies of a simulated trajectory, and their density."""
    k = radial(shots, sides) if name == "radial" else spiral(shots, sides, ARMS)
    density = density_compensation(k.reshape(-1, 2)).reshape(k.shape[:2])
    return NUFFT(k.reshape(-1, 2), sides), torch.from_numpy(density)


@dataclass(frozen=True)
class MeasuredMRI(MRI):
    """The problem of measured k-space.

    Args:
        kspace_: data, mask and maps.
    """

    kspace_: KSpace | None = None

    @property
    def kspace(self) -> KSpace:
        """The measured k-space."""
        assert self.kspace_ is not None
        return self.kspace_

    def sampled(self, height: int, width: int) -> Tensor:
        """The measured frequencies: boolean (height, width).

        Raises: InputError for another size than the measurement's.
        """
        sampled = self.kspace.sampled
        if sampled.shape != (height, width):
            raise InputError(
                f"mri: k-space has {sampled.shape[0]}x{sampled.shape[1]} frequencies, "
                f"the slice {height}x{width} pixels"
            )
        return torch.from_numpy(sampled.copy())

    def _maps(self, height: int, width: int) -> Tensor | None:
        maps = self.kspace.maps
        return None if maps is None else torch.from_numpy(maps)

    def estimated_sigma_y(self, y: Tensor) -> float | None:
        """That of noise scans, or at the highest frequencies, where signal counts as noise."""
        if self.kspace.sigma is not None:
            return self.kspace.sigma
        data, sampled = self.kspace.data, self.kspace.sampled
        return noise_level(outer(data[:, sampled], grid_radius(sampled)))

    def export(self, result: inverse.Result, folder: Path) -> None:
        """As `Problem.export`; reconstruction.png has the size that the scanner's header states."""
        super().export(result, folder)
        picture = _centre(result.mean[0], self.kspace.recon)
        if picture.shape != result.mean[0].shape:
            write_png(folder / "reconstruction.png", picture)


@dataclass(frozen=True)
class MeasuredShots(MRI):
    """The problem of k-space measured off a grid.

    Args:
        shots_: data, trajectory, density and maps.
    """

    shots_: Shots | None = None

    @property
    def shots(self) -> Shots:
        """The measured k-space."""
        assert self.shots_ is not None
        return self.shots_

    def _frequencies(self, sides: tuple[int, int]) -> tuple[NUFFT, Tensor]:
        if sides != self.shots.sides:
            raise InputError(f"mri: the slice has {self.shots.sides} pixels, got {sides}")
        return self.shots.nufft, torch.from_numpy(self.shots.density)

    def _maps(self, height: int, width: int) -> Tensor:
        return torch.from_numpy(self.shots.maps)

    def signal_shape(self, y_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the slice, (1, H, W)."""
        return (1, *self.shots.sides)

    def estimated_sigma_y(self, y: Tensor) -> float | None:
        """That of noise scans, or at the highest frequencies, where signal counts as noise."""
        if self.shots.sigma is not None:
            return self.shots.sigma
        radius = np.hypot(*(self.shots.frequencies.reshape(-1, 2) / self.shots.sides).T)
        return noise_level(outer(self.shots.data.reshape(len(self.shots.data), -1), radius))
