"""From the files of k-space to what the problem solves: mask, maps, phase and noise of a slice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from inverse.errors import InputError
from inverse_problems.mri.espirit import calibration_centre, cropped, padded, transform
from inverse_problems.mri.ismrmrd_files import Acquired, is_ismrmrd, read_ismrmrd, slices_of
from inverse_problems.mri.kspace_files import (
    KSpace,
    centred,
    file_mask,
    grid_radius,
    header_sides,
    outer,
    read_kspace,
    read_maps,
    slice_count,
    whitening,
)
from inverse_problems.mri.maps import estimated_maps, least_squares, sense, smooth_phase
from inverse_problems.mri.nufft import NUFFT, density_compensation
from inverse_problems.mri.trajectories import Shots, has_trajectory, in_cycles, read_trajectory

HAS_PHASE = 0.02
"""Share of energy in the imaginary part of the central frequencies above which a slice of one coil
has a phase."""


@dataclass(frozen=True)
class Reader:
    """What the options of `mri` say about a measurement; see `MRI`.

    Args:
        mask: of the user, boolean (H, W); None takes all that is measured.
        trajectory: a file of the trajectory; None takes that of the file of k-space.
    """

    maps: Path | None = None
    whiten: bool | None = None
    slice_: int | None = None
    select: Mapping[str, int] | None = None
    mask: np.ndarray | None = None
    trajectory: Path | None = None
    trajectory_unit: str | None = None
    size: tuple[int, int] | None = None

    def read(self, file: Path, notes: list[str]) -> tuple[KSpace | Shots, np.ndarray]:
        """A slice of k-space, and the magnitude (H, W) of its first reconstruction.

        Raises: InputError if the file cannot be used.
        """
        if is_ismrmrd(file):
            found = read_ismrmrd(file, self.slice_, self.select or {}, notes)
            return (
                self._on_grid(file, found, notes)
                if found.sampled is not None
                else (self._off_grid(file, found, notes))
            )
        if self.select:
            raise InputError(f"{file}: is no ISMRMRD file, whose counters select=... chooses")
        data = read_kspace(file, self.slice_, self.maps is not None, notes, self._is_off_grid(file))
        if self._is_off_grid(file):
            data, k, density = read_trajectory(file, data, self.trajectory)
            return self._off_grid(file, Acquired(data, None, k, density, None, None, None), notes)
        data = centred(data, notes)
        sampled = data.any(0)
        stated = file_mask(file, sampled.shape)
        sampled = sampled if stated is None else sampled & stated
        recon = header_sides(file)
        return self._on_grid(file, Acquired(data, sampled, None, None, None, None, recon), notes)

    def slices(self, file: Path) -> list[int]:
        """The slices of a file, counted from 0.

        Raises: InputError if it cannot be used.
        """
        if is_ismrmrd(file):
            found = slices_of(file)
        else:
            count = slice_count(file, self.maps is not None, self._is_off_grid(file))
            found = list(range(1 if count is None else count))
        if not found:
            raise InputError(f"{file}: holds no slice")
        return found

    def _is_off_grid(self, file: Path) -> bool:
        return self.trajectory is not None or has_trajectory(file)

    def _on_grid(self, file: Path, found: Acquired, notes: list[str]) -> tuple[KSpace, np.ndarray]:
        data, sampled = found.data, found.sampled
        assert sampled is not None
        if self.mask is not None:
            if self.mask.shape != sampled.shape:
                raise InputError(
                    f"mri: the mask has {self.mask.shape[0]}x{self.mask.shape[1]} pixels, k-space "
                    f"{sampled.shape[0]}x{sampled.shape[1]}; resize the mask"
                )
            sampled = sampled & self.mask
        if not sampled.any():
            raise InputError(f"{file}: nothing is measured within the mask")
        data = np.where(sampled, data, 0).astype(np.complex64)
        notes.append(f"{_coils(data)}, {sampled.mean():.1%} sampled")
        maps = None if self.maps is None else read_maps(self.maps, data.shape)
        quiet = outer(data[:, sampled], grid_radius(sampled))
        data, maps, sigma = self._white(data, maps, found.noise, quiet, notes)
        maps, magnitude = _sensitivities(data, sampled, maps, notes)
        return KSpace(data, sampled, maps, found.recon, sigma), magnitude

    def _off_grid(self, file: Path, found: Acquired, notes: list[str]) -> tuple[Shots, np.ndarray]:
        assert found.trajectory is not None
        sides = self.size or found.sides
        k, sides = in_cycles(file, found.trajectory, sides, self.trajectory_unit, notes)
        data, flat = found.data.astype(np.complex64), k.reshape(-1, 2)
        shape = (len(data), *sides)
        notes.append(f"{_coils(data)}, {k.shape[0]} shots of {k.shape[1]} samples")
        maps = None if self.maps is None else read_maps(self.maps, shape)
        quiet = outer(data.reshape(len(data), -1), np.hypot(*(flat / sides).T))
        data, maps, sigma = self._white(data, maps, found.noise, quiet, notes)
        nufft = NUFFT(flat, sides)
        density = density_compensation(flat).reshape(k.shape[:2])
        if found.density is not None:  # of any unit
            density = found.density * (density.sum() / found.density.sum())
        if maps is None and len(data) > 1:
            cells, one = _cells(flat, sides), np.ones((1, *sides))
            images = np.stack([_sense(one, coil[None], nufft) for coil in data])
            maps, how = estimated_maps(transform(images) * cells, cells)
            notes.append(how)
        elif maps is None:
            maps = np.ones(shape, dtype=np.complex64)
        first = _sense(maps, data, nufft)
        notes.append("phase of the slice from a smoothed least-squares solution")
        maps = (maps * smooth_phase(first)).astype(np.complex64)
        return Shots(data, k, density, sides, maps, sigma), np.abs(first)

    def _white(
        self,
        data: np.ndarray,
        maps: np.ndarray | None,
        noise: np.ndarray | None,
        quiet: np.ndarray,
        notes: list[str],
    ) -> tuple[np.ndarray, np.ndarray | None, float | None]:
        """Data and maps of whitened coils, and the noise level if a noise scan tells it."""
        wanted = noise is not None if self.whiten is None else self.whiten
        samples = quiet if noise is None else noise
        if not (wanted and len(data) > 1):
            return data, maps, None if noise is None else _deviation(noise)
        matrix = whitening(samples)
        data = np.tensordot(matrix, data, 1).astype(np.complex64)
        source = "of the highest frequencies" if noise is None else "of the noise scans"
        notes.append(f"coils made white by the covariance {source}")
        return data, _mixed(matrix, maps), None if noise is None else _deviation(matrix @ noise)


def _sense(maps: np.ndarray, data: np.ndarray, nufft: NUFFT) -> np.ndarray:
    """As `maps.sense`, of data (coils, shots, samples) off a grid."""

    def back(values: torch.Tensor) -> np.ndarray:
        return (maps.conj() * nufft.adjoint(values).numpy()).sum(0).astype(np.complex64)

    def normal(x: np.ndarray) -> np.ndarray:
        return back(nufft.forward(torch.from_numpy((maps * x).astype(np.complex64))))

    return least_squares(normal, back(torch.from_numpy(data.reshape(len(data), -1))))


def _coils(data: np.ndarray) -> str:
    return f"{len(data)} coil{'s' * (len(data) > 1)}"


def _deviation(noise: np.ndarray) -> float:
    """Standard deviation of the real and imaginary parts."""
    return float(np.sqrt((np.abs(noise) ** 2).mean() / 2))


def _cells(frequencies: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    """Where a unit cell of k-space holds a frequency: boolean (H, W)."""
    places = np.round(frequencies).astype(int) + np.array(sides) // 2
    inside = ((places >= 0) & (places < sides)).all(1)
    cells = np.zeros(sides, dtype=bool)
    cells[tuple(places[inside].T)] = True
    return cells


def _sensitivities(
    data: np.ndarray, sampled: np.ndarray, maps: np.ndarray | None, notes: list[str]
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


def _mixed(matrix: np.ndarray, maps: np.ndarray | None) -> np.ndarray | None:
    """Maps of coils that a matrix mixed, of unit norm again."""
    if maps is None:
        return None
    mixed = np.tensordot(matrix, maps, 1)
    norm = np.sqrt((np.abs(mixed) ** 2).sum(0))
    return (mixed / np.where(norm > 0, norm, 1)).astype(np.complex64)
