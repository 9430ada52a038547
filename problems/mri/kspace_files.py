"""Files of k-space: complex .npy, .npz and HDF5, fastMRI's files, and their conventions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inverse.errors import InputError
from inverse.io.arrays import is_array, read_named, read_numbers, shape_of
from inverse.io.sizes import reading
from inverse_problems.mri.espirit import transform
from inverse_problems.mri.ismrmrd_files import HEADER, group_of, parsed


@dataclass(frozen=True, eq=False, repr=False)
class KSpace:
    """One slice of measured k-space.

    Args:
        data: (coils, H, W) complex, zero frequency at (H // 2, W // 2), zero where not sampled.
        sampled: boolean (H, W).
        maps: (coils, H, W) times the phase of the slice; None for one coil and a real slice.
        recon: height and width of the scanner's reconstruction; None if the file has none.
        sigma: noise of the real and imaginary parts, from a noise scan; None without one.
    """

    data: np.ndarray
    sampled: np.ndarray
    maps: np.ndarray | None = None
    recon: tuple[int, int] | None = None
    sigma: float | None = None

    def __repr__(self) -> str:
        coils, height, width = self.data.shape
        return f"{coils} coils, {height}x{width}, {self.sampled.mean():.4g} sampled"


def read_kspace(
    path: Path, slice_: int | None, coils_first: bool, notes: list[str], shots: bool = False
) -> np.ndarray:
    """One slice of k-space, (coils, H, W) complex, or with `shots` (coils, shots, samples).

    Complex (H, W); (coils, H, W) in arrays; (slices, H, W) or (slices, coils, H, W) in fastMRI's
    `kspace`; (slices, coils, H, W) in arrays. Real (2 coils, H, W) are real and imaginary parts.

    Args:
        slice_: counted from 0; None is the middle one.
        coils_first: whether the first of three axes of `kspace` are coils.
        shots: whether k-space lies off a grid, as (..., shots, samples).

    Raises: InputError if the file is of another kind.
    """
    count = slice_count(path, coils_first, shots)
    chosen = (count or 1) // 2 if slice_ is None else slice_
    if count is not None and chosen >= count:
        raise InputError(f"{path}: slice {chosen} does not exist; there are {count}, from 0")
    if count is not None and count > 1:
        notes.append(f"slice {chosen} of {count}, counted from 0")
    named = read_named(path, ("kspace",), lambda *_: () if count is None else (chosen,))
    array = named["kspace"] if named else read_complex_numbers(path)
    sides = array.shape if count is None or not named else (count, *array.shape)
    if not named and count is not None:
        array = array[chosen]
    if not np.iscomplexobj(array):
        array = _joined(path, array)
    else:
        notes.append("complex")
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or (min(array.shape[1:]) < 4 and not shots):
        raise InputError(
            f"{path}: complex numbers of shape {sides}; expected (height, width), "
            "(coils, height, width) or (slices, coils, height, width)"
        )
    if not np.isfinite(array).all():
        raise InputError(f"{path}: k-space holds NaN or infinity")
    if not array.any():
        raise InputError(f"{path}: k-space is zero everywhere")
    return array.astype(np.complex64)


def slice_count(path: Path, coils_first: bool, shots: bool = False) -> int | None:
    """Number of slices of a file of k-space that has an axis of slices; None without one."""
    shape = shape_of(path, "kspace")
    if shape is None:
        shape = read_complex_numbers(path, shape_alone=True).shape
        return shape[0] if len(shape) == 4 else None
    is_fastmri = path.suffix.lower() in (".h5", ".hdf5")
    with_slices = len(shape) == 4 or (len(shape) == 3 and is_fastmri and not (coils_first or shots))
    return shape[0] if with_slices else None


def read_complex_numbers(path: Path, shape_alone: bool = False) -> np.ndarray:
    """The numbers of an array file.

    Args:
        shape_alone: whether the numbers of a .npy file may stay on disk.

    Raises: InputError if the file is missing or no array.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open("rb") as file:
        head = file.read(64)
    if not is_array(head):
        raise InputError(f"{path}: expected an array (.npy, .npz or HDF5), found a picture")
    if shape_alone and head.startswith(b"\x93NUMPY"):
        with reading(path, "a readable array"):
            return np.load(path, mmap_mode="r", allow_pickle=False)
    return read_numbers(path, head)


def _joined(path: Path, array: np.ndarray) -> np.ndarray:
    """Complex numbers (coils, H, W) of real ones (2 coils, H, W)."""
    if array.dtype.kind not in "buif":
        raise InputError(f"{path}: expected complex numbers, found {array.dtype}")
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if array.ndim != 3 or array.shape[0] % 2:
        raise InputError(
            f"{path}: k-space is complex, found real numbers of shape {array.shape}; store complex "
            "numbers, or real and imaginary parts as (2 coils, height, width)"
        )
    return array[0::2] + 1j * array[1::2]


def file_mask(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """The sampled frequencies that a file states in `mask`, boolean (H, W); None if it does not.

    Raises: InputError if the mask has another size.
    """
    named = read_named(path, ("mask",))
    if not named:
        return None
    mask = np.squeeze(named["mask"]).astype(bool)
    if mask.ndim == 1 and len(mask) == shape[1]:
        return np.broadcast_to(mask, shape)
    if mask.shape != shape:
        raise InputError(f"{path}: its mask has shape {mask.shape}, k-space {shape}")
    return mask


def header_sides(path: Path) -> tuple[int, int] | None:
    """Height and width of the scanner's reconstruction in an ISMRMRD header; None without one."""
    import h5py

    if not h5py.is_hdf5(path):
        return None
    group = group_of(path)
    with h5py.File(path, "r") as file:
        item = file.get("ismrmrd_header" if group is None else f"{group}/xml")
        if not isinstance(item, h5py.Dataset) or item.shape not in ((), (1,)):
            return None
        if item.id.get_storage_size() > HEADER:
            return None
        raw = item[()] if item.shape == () else item[0]
    text = raw.decode(errors="replace") if isinstance(raw, bytes) else str(raw)
    try:
        recon = parsed(text[:HEADER]).recon
    except ValueError:
        return None
    return None if recon is None else recon[:2]


def read_maps(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Sensitivity maps (coils, H, W) of a file, scaled to unit norm over the coils.

    Raises: InputError if the file has other coils, another size or no maps of unit norm.
    """
    named = read_named(path, ("maps", "sensitivities", "sensitivity_map"))
    maps = next(iter(named.values())) if named else read_complex_numbers(path)
    maps = np.squeeze(maps)
    maps = maps[None] if maps.ndim == 2 else maps
    if not np.iscomplexobj(maps):
        raise InputError(f"{path}: maps are complex, found {maps.dtype}")
    if maps.shape != shape:
        raise InputError(
            f"{path}: maps of shape {maps.shape}, k-space (coils, height, width) is {shape}"
        )
    norm = np.sqrt((np.abs(maps) ** 2).sum(0))
    seen = norm[norm > 0.01 * norm.max()]
    if not len(seen) or not np.isfinite(norm).all():
        raise InputError(f"{path}: the maps are zero or not finite")
    if np.abs(seen - 1).max() > 0.05:
        raise InputError(
            f"{path}: the squares of the maps sum to {seen.min() ** 2:.3g} to "
            f"{seen.max() ** 2:.3g} over the coils; divide the maps by their norm, so that they "
            "sum to 1"
        )
    return maps.astype(np.complex64)


def centred(kspace: np.ndarray, notes: list[str]) -> np.ndarray:
    """K-space with its zero frequency and the slice in the middle, found by where energy lies."""
    places = (-2, -1)
    energy = (np.abs(kspace) ** 2).sum(0)
    if _share(energy) < _share(np.fft.fftshift(energy)):
        kspace = np.fft.fftshift(kspace, axes=places)
        notes.append("zero frequency found in the corner of k-space and moved to the middle")
    image = (np.abs(transform(kspace, inverse=True)) ** 2).sum(0)
    height, width = image.shape
    shifts = [(0, 0), (height // 2, 0), (0, width // 2), (height // 2, width // 2)]
    shares = [_share(np.roll(image, shift, places)) for shift in shifts]
    best = int(np.argmax(shares))
    if best and shares[best] > 1.2 * shares[0]:
        moved = np.roll(transform(kspace, inverse=True), shifts[best], places)
        sampled = kspace.any(0)
        kspace = np.where(sampled, transform(moved), 0).astype(np.complex64)
        notes.append(f"the slice was moved by {shifts[best][0]}, {shifts[best][1]} pixels, half a")
        notes[-1] += " field of view, to the middle"
    return kspace


def _share(energy: np.ndarray) -> float:
    """Energy in the middle quarter of the sides."""
    height, width = energy.shape
    middle = energy[
        height // 2 - height // 4 : height // 2 + height // 4,
        width // 2 - width // 4 : width // 2 + width // 4,
    ]
    return float(middle.sum())


def noise_level(samples: np.ndarray) -> float | None:
    """Standard deviation of the real and imaginary parts of samples that hold little signal.

    Args:
        samples: (coils, count), such as `outer`.

    Returns: None if fewer than 32 samples would decide.
    """
    if samples.shape[1] < 32:
        return None
    return float(np.median(np.abs(np.concatenate([samples.real, samples.imag])))) / 0.6745


def whitening(samples: np.ndarray) -> np.ndarray:
    """The matrix (coils, coils) that makes the coils' noise white, of unit determinant.

    Args:
        samples: of the noise, (coils, count).

    Source: Pruessmann et al., Advances in sensitivity encoding with arbitrary k-space trajectories,
    Magnetic Resonance in Medicine 2001, appendix A.
    """
    covariance = samples @ samples.conj().T / samples.shape[1]
    ridge = 1e-12 * max(float(np.trace(covariance).real), 1e-300) * np.eye(len(covariance))
    inverse_root = np.linalg.inv(np.linalg.cholesky(covariance + ridge))
    _, logarithm = np.linalg.slogdet(inverse_root)
    return inverse_root / np.exp(logarithm / len(covariance))


def outer(data: np.ndarray, radius: np.ndarray, share: float = 0.05) -> np.ndarray:
    """The samples of the highest frequencies: (coils, count).

    Args:
        data: (coils, samples).
        radius: of each sample's frequency, (samples,).
        share: of the samples, counted from the highest.
    """
    return data[:, radius >= np.quantile(radius, 1 - share)]


def grid_radius(sampled: np.ndarray) -> np.ndarray:
    """The radius of each sampled frequency in units of the highest on its axis, (count,)."""
    height, width = sampled.shape
    y, x = np.ogrid[:height, :width]
    return np.hypot((y - height // 2) / (height / 2), (x - width // 2) / (width / 2))[sampled]
