"""The problem `mri`: a slice measured on some lines of its Fourier transform."""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

import inverse
from inverse.errors import InputError, OptionError
from inverse.io.images import write_png
from inverse_problems.mri.espirit import calibration_centre, cropped, padded, transform
from inverse_problems.mri.kspace_files import (
    KSpace,
    centred,
    file_mask,
    header_sides,
    noise_level,
    read_kspace,
    read_maps,
    whitening,
)
from inverse_problems.mri.maps import estimated_maps, sense, simulated_maps, smooth_phase
from inverse_problems.mri.operators import one_coil, several_coils

BRIGHT, BRIGHTEST = 99.9, 0.95
"""Percentile of a measured slice, and the intensity that it gets where scale is not stated."""

PICTURE = (0.3, 1.3)
"""Values of that percentile that a slice in [0, 1] has, whose scale is 1."""

HAS_PHASE = 0.02
"""Share of energy in the imaginary part of the central frequencies above which a slice of one coil
has a phase."""


@dataclass(frozen=True)
class MRI(inverse.ImageProblem):
    """Cartesian sampling of a real (magnitude) slice of any size: y_c = M F S_c x + noise.

    F is the centred orthonormal 2-D Fourier transform, M the mask and S_c the sensitivity of coil
    c, with the phase of the slice; for one coil of a real slice it is 1. y has the real and the
    imaginary part of each coil as channels (2 coils, H, W), zero where the mask is. A measured line
    is a column (a phase encoding); its real and imaginary parts each carry noise of standard
    deviation sigma_y. F preserves lengths, so sigma_y is in intensities too: if all lines are
    measured, the inverse transform has noise of that standard deviation.

    `--measurement` takes complex .npy, .npz and HDF5 and fastMRI's files. Their mask, scale, noise
    and where the zero frequency lies are found from the data.

    Args:
        mask: random or equispaced lines beside a fully measured centre, or the path of a mask
            picture (white = measured) of the slice's size. A measurement is taken as measured
            wherever it is not zero, within the mask of its file and of this picture.
        acceleration: ratio of all columns to measured columns.
        centre: fraction of the columns in the fully measured centre; by default
            0.32 / acceleration, i.e. 8 % at acceleration 4 and 4 % at 8.
        mask_seed: random seed of the random lines and of the offset of equispaced lines.
        sigma_y: standard deviation of the noise of each real and imaginary part (intensities).
        coils: number of simulated coils.
        maps: file of sensitivity maps (coils, H, W), complex, of unit norm over the coils; auto
            estimates them from the centre of k-space by ESPIRiT.
        whiten: whether to make the noise of a measurement's coils uncorrelated and equal.
        slice_: slice of a measured volume, counted from 0; auto is the middle one.
        scale: intensity 1 in units of the file; auto is found from the measurement.

    Raises: OptionError if centre is out of range.
    """

    name = "mri"
    summary = "accelerated MRI, one coil or several: random or equispaced lines, k-space files"
    reference = (
        "Zbontar et al., fastMRI, 2018, https://arxiv.org/abs/1811.08839: accelerations 4 and 8 "
        "with centres of 8 and 4 %. The paper draws each random line independently, so that their "
        "number varies; `acceleration` fixes their number."
    )
    prior = "mri-96"
    measured_role = "numbers"

    mask: str = "random"
    acceleration: Annotated[float, inverse.Range(1, 1000)] = 4.0
    centre: inverse.Fraction | None = None
    mask_seed: inverse.Seed = 0
    sigma_y: inverse.NonNegative = 0.01
    coils: Annotated[int, inverse.Range(1, 256)] = 1
    maps: Path | None = None
    whiten: bool = False
    slice_: Annotated[int, inverse.Range(0, 10**7)] | None = None
    scale: inverse.Positive | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self._centre * self.acceleration <= 1:
            raise OptionError(
                f"mri: centre must be from 0 to 1 / acceleration, got {self._centre:g} "
                f"at acceleration {self.acceleration:g}"
            )

    @property
    def _centre(self) -> float:
        return 0.32 / self.acceleration if self.centre is None else self.centre

    def sampled(self, height: int, width: int) -> Tensor:
        """The measured frequencies: boolean (height, width), zero frequency at (H // 2, W // 2).

        Raises: InputError if the mask is unknown, has another size or measures nothing.
        """
        if self.mask in ("random", "equispaced"):
            return self._lines(width).expand(height, width)
        if not Path(self.mask).exists():
            raise InputError(
                f"mri: mask '{self.mask}' is neither a file nor a known mask; "
                "known: random, equispaced"
            )
        mask, _ = inverse.read_mask(self.mask)
        if mask.shape != (height, width):
            raise InputError(
                f"mri: mask {self.mask} has {mask.shape[0]}x{mask.shape[1]} pixels, "
                f"the slice {height}x{width}; resize the mask"
            )
        if not bool(mask.any()):
            raise InputError(f"mri: mask {self.mask} leaves nothing measured; use another mask")
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
        if self.mask == "random":
            chosen = rest[torch.randperm(len(rest), generator=generator)[:count]]
        else:
            offset = torch.rand(1, generator=generator, dtype=torch.float64)
            chosen = rest[((torch.arange(count) + offset) * len(rest) / max(count, 1)).long()]
        measured[chosen] = True
        return measured

    def operator(self, shape: tuple[int, ...]) -> Any:
        """The masked Fourier transform of a slice (1, H, W) -> (2 coils, H, W).

        Raises: OptionError if the image has several channels.
        """
        if len(shape) != 3 or shape[0] != 1:
            raise OptionError(
                f"mri: a slice is grey, (1, height, width), got {tuple(shape)}; "
                "use a grey prior, e.g. --prior mri-96"
            )
        sampled, maps = self.sampled(*shape[-2:]), self._maps(*shape[-2:])
        return one_coil(sampled) if maps is None else several_coils(sampled, maps)

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
        return inverse.GaussianNoise(self.sigma_y, observed=self.sampled(*shape[-2:]))

    def signal_shape(self, y_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the slice, (1, H, W)."""
        return (1, *y_shape[1:])

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
        """The shipped slice, (1, 96, 96), intensities."""
        return [inverse.read_image(path, channels=1).pixels for path in self.pictures()]

    def as_pictures(self, y: Tensor, operator: Any) -> Tensor:
        """The zero-filled reconstruction A^T y: (B, 2 coils, H, W) -> (B, 1, H, W)."""
        return operator.A_adjoint(y)

    # --- files ----------------------------------------------------------------------------------

    def open(self, file: Path, prior: inverse.Prior, measured: bool):
        """Read a slice, or k-space; see `read_kspace` for its shapes.

        Raises: InputError if the file is of another kind.
        """
        if not measured:
            return super().open(file, prior, measured)
        notes: list[str] = []
        file = Path(file)
        data = read_kspace(file, self.slice_, self.maps is not None, notes)
        data = centred(data, notes)
        sampled = data.any(0)
        stated = file_mask(file, sampled.shape)
        if stated is not None:
            sampled = sampled & stated
        if self.mask not in ("random", "equispaced"):
            sampled = sampled & self.sampled(*sampled.shape).numpy()
        if not sampled.any():
            raise InputError(f"{file}: nothing is measured within the mask")
        data = np.where(sampled, data, 0).astype(np.complex64)
        notes.append(f"{len(data)} coil{'s' * (len(data) > 1)}, {sampled.mean():.1%} sampled")
        maps = None if self.maps is None else read_maps(self.maps, data.shape)
        if self.whiten and len(data) > 1:
            matrix = whitening(data, sampled).astype(np.complex64)
            data, maps = np.einsum("cd,dhw->chw", matrix, data), _mixed(matrix, maps)
            notes.append("coils made white by the covariance at the highest frequencies")
        maps, magnitude = self._sensitivities(data, sampled, maps, notes)
        scale = self._scale(magnitude, notes)
        kspace = KSpace(data / scale, sampled, maps, header_sides(file))
        posed = MeasuredMRI(**vars(self) | {"kspace_": kspace, "scale": scale, "coils": len(data)})
        y = torch.view_as_real(torch.from_numpy(kspace.data)).movedim(-1, 1).flatten(0, 1)
        return posed, y.contiguous(), notes

    def _sensitivities(
        self, data: np.ndarray, sampled: np.ndarray, maps: np.ndarray | None, notes: list[str]
    ) -> tuple[np.ndarray | None, np.ndarray]:
        """Maps times the phase of the slice, and a first reconstruction (H, W).

        No maps for one coil of a real slice.
        """
        if len(data) == 1 and maps is None:
            centre = calibration_centre(sampled)
            h, w = (n - 1 + n % 2 for n in centre)  # odd, so that every frequency has its mirror
            low = transform(padded(cropped(data[0], (h, w)), sampled.shape), inverse=True)
            share = float((low.imag**2).sum() / max((np.abs(low) ** 2).sum(), 1e-30))
            if min(h, w) < 1 or (share < HAS_PHASE and low.real.sum() > 0):
                return None, transform(data[0], inverse=True).real
            maps = np.ones_like(data)
        elif maps is None:
            maps, how = estimated_maps(data, sampled)
            notes.append(how)
        notes.append("phase of the slice from a smoothed least-squares solution")
        first = sense(maps, data, sampled)
        return maps * smooth_phase(first), np.abs(first)

    def _scale(self, magnitude: np.ndarray, notes: list[str]) -> float:
        if self.scale is not None:
            return self.scale
        bright = float(np.percentile(magnitude, BRIGHT))
        if PICTURE[0] <= bright <= PICTURE[1]:
            return 1.0
        if not bright > 0:
            raise InputError("mri: the zero-filled slice is not positive; state scale=...")
        scale = float(f"{bright / BRIGHTEST:.3g}")
        notes.append(
            f"intensity 1 is {scale:g} in orthonormal units of the file; scale=... states it"
        )
        return scale


def _mixed(matrix: np.ndarray, maps: np.ndarray | None) -> np.ndarray | None:
    """Maps of coils that a matrix mixed, of unit norm again."""
    if maps is None:
        return None
    mixed = np.einsum("cd,dhw->chw", matrix, maps)
    norm = np.sqrt((np.abs(mixed) ** 2).sum(0))
    return mixed / np.where(norm > 0, norm, 1)


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
        """The noise at the highest measured frequencies; signal there counts as noise."""
        return noise_level(self.kspace.data, self.kspace.sampled)

    def export(self, result: inverse.Result, folder: Path) -> None:
        """As `Problem.export`; reconstruction.png has the size that the scanner's header states."""
        super().export(result, folder)
        recon, sides = self.kspace.recon, result.samples.shape[-2:]
        if recon is None or recon == sides or recon[0] > sides[0] or recon[1] > sides[1]:
            return
        top, left = sides[0] // 2 - recon[0] // 2, sides[1] // 2 - recon[1] // 2
        picture = result.mean[0][:, top : top + recon[0], left : left + recon[1]]
        write_png(folder / "reconstruction.png", picture)
