"""ISMRMRD files, read with h5py: acquisitions of one slice, Cartesian or not, and noise scans.

Source: Inati et al., ISMRM Raw data format: A proposed standard for MRI raw datasets, Magnetic
Resonance in Medicine 2017, https://doi.org/10.1002/mrm.26089.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from inverse.errors import InputError, first_line
from inverse.io.arrays import is_inside
from inverse.io.sizes import check_memory, reading
from inverse_problems.mri.espirit import cropped

HEADER = 1 << 20
"""Largest size of a header that is read (bytes)."""

NOISE, CALIBRATION, REVERSE = 19, 20, 22
NO_IMAGE = {
    23: "navigator",
    24: "phase correction",
    26: "feedback",
    27: "dummy",
    28: "feedback",
    29: "coil correction",
    30: "phase stabilisation",
}
"""Numbers of the flags of acquisitions, counted from 1."""

COUNTERS = ("contrast", "phase", "repetition", "set")
"""Counters of which a slice has one value."""


@dataclass(frozen=True)
class Header:
    """What is used of an XML header; sides and fields of view are (x, y, z).

    Args:
        trajectory: cartesian, radial, spiral and others.
        encoded, recon: matrix sizes; None if the header has none.
        encoded_fov, recon_fov: fields of view (mm).
        centre, centre_partition: line and partition of the zero frequency.
        embedded: whether calibration lines belong to the image.
        bandwidth: of the receiver's noise, relative to the sampling rate.
    """

    trajectory: str = "cartesian"
    encoded: tuple[int, int, int] | None = None
    recon: tuple[int, int, int] | None = None
    encoded_fov: tuple[float, float, float] | None = None
    recon_fov: tuple[float, float, float] | None = None
    centre: int | None = None
    centre_partition: int | None = None
    embedded: bool = False
    bandwidth: float = 1.0

    @property
    def partitions(self) -> int:
        """Lines of the third axis; 1 for slices."""
        return 1 if self.encoded is None else self.encoded[2]


@dataclass(frozen=True, eq=False)
class Acquired:
    """One slice of an ISMRMRD file.

    Args:
        data: Cartesian: (coils, H, W), rows along the readout; otherwise (coils, shots, samples).
        sampled: boolean (H, W); None off a grid.
        trajectory, density: (shots, samples, 2) and (shots, samples); None on a grid, or unknown.
        sides: height and width of the slice off a grid; None if the header has none.
        noise: (coils, samples) of the noise scans, scaled to the data's; None without them.
        recon: height and width of the scanner's reconstruction.
    """

    data: np.ndarray
    sampled: np.ndarray | None
    trajectory: np.ndarray | None
    density: np.ndarray | None
    sides: tuple[int, int] | None
    noise: np.ndarray | None
    recon: tuple[int, int] | None


def parsed(text: str) -> Header:
    """The header of an XML text, without its name spaces.

    Raises: ValueError if it is not well formed, has a document type (whose entities may expand
        without bound) or numbers out of range.
    """
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("its header declares a document type, which is not read")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"its header is no XML ({first_line(error)})") from error

    def number(path: str) -> float | None:
        found = root.findtext("/".join("{*}" + part for part in path.split("/")))
        return None if found is None else float(found)

    def triple(path: str) -> Any:
        values = [number(f"encoding/{path}/{axis}") for axis in "xyz"]
        values[2] = 1.0 if values[2] is None else values[2]
        if None in values:
            return None
        if not all(0 < v < 1e5 for v in values if v is not None):
            raise ValueError(f"its header states {path} of {values}")
        return tuple(values)

    def whole(path: str) -> Any:
        values = triple(path)
        return None if values is None else tuple(int(v) for v in values)

    def words(path: str) -> str:
        return (root.findtext("/".join("{*}" + part for part in path.split("/"))) or "").strip()

    centre, partition = (
        number(f"encoding/encodingLimits/kspace_encoding_step_{i}/center") for i in (1, 2)
    )
    bandwidth = number("acquisitionSystemInformation/relativeReceiverNoiseBandwidth")
    return Header(
        words("encoding/trajectory").lower() or "cartesian",
        whole("encodedSpace/matrixSize"),
        whole("reconSpace/matrixSize"),
        triple("encodedSpace/fieldOfView_mm"),
        triple("reconSpace/fieldOfView_mm"),
        None if centre is None else int(centre),
        None if partition is None else int(partition),
        words("encoding/parallelImaging/calibrationMode").lower() == "embedded",
        bandwidth if bandwidth and 0 < bandwidth <= 1 else 1.0,
    )


def is_ismrmrd(path: Path) -> bool:
    """Whether a file is HDF5 with acquisitions of ISMRMRD."""
    return group_of(path) is not None


def group_of(path: Path) -> str | None:
    """The name of the group that holds `xml` and `data` with heads; None for other files."""
    import h5py

    if not path.is_file() or not h5py.is_hdf5(path):
        return None
    with reading(path, "a readable HDF5 file"), h5py.File(path, "r") as file:
        for name in file:
            both = is_inside(file, f"{name}/xml") and is_inside(file, f"{name}/data")
            if both and "head" in (file[f"{name}/data"].dtype.names or ()):
                return str(name)
    return None


def slices_of(path: Path) -> list[int]:
    """The slices of an ISMRMRD file, as its acquisitions count them."""
    import h5py

    name = group_of(path)
    with reading(path, "a readable ISMRMRD file"), h5py.File(path, "r") as file:
        header = _header(path, file[f"{name}/xml"])
        heads = file[f"{name}/data"].fields("head")[()]
        image = _kind(heads, Header(embedded=True)) == ""
        if header.partitions > 1 and image.any():
            return list(range(header.partitions))
        return sorted({int(v) for v in heads["idx"]["slice"][image]})


def read_ismrmrd(
    path: Path, slice_: int | None, select: Mapping[str, int], notes: list[str]
) -> Acquired:
    """One slice of an ISMRMRD file; averages are averaged.

    The slices of a 3-D encoding are those of the transform along its partitions.

    Args:
        slice_: counted from 0; None is the middle one.
        select: counter (average, contrast, phase, repetition, set) -> its value.

    Raises: InputError if the file cannot be used, or holds several images and `select` does not
        choose one.
    """
    import h5py

    with reading(path, "a readable ISMRMRD file"), h5py.File(path, "r") as file:
        group = group_of(path)
        header = _header(path, file[f"{group}/xml"])
        table = file[f"{group}/data"]
        if table.is_virtual or table.external:
            raise InputError(f"{path}: its acquisitions lie in another file; store them here")
        heads = table.fields("head")[()]
        if not len(heads):
            raise InputError(f"{path}: holds no acquisition")
        kinds = _kind(heads, header)
        if header.partitions > 1:
            partition, slab = _partition(path, header, slice_, notes), None
        else:
            partition, slab = 0, slice_
        chosen = _chosen(path, heads, kinds, slab, select, notes)
        noisy = np.flatnonzero(kinds == "noise")
        values = heads["number_of_samples"].astype(np.int64) * heads["active_channels"]
        check_memory(path, (int(2 * (values[chosen].sum() + values[noisy].sum())),))
        rows, noise_rows = ([table[int(i)] for i in places] for places in (chosen, noisy))
    if header.partitions > 1 and header.trajectory != "cartesian":
        raise InputError(
            f"{path}: a {header.trajectory} trajectory of {header.partitions} partitions is not "
            "read; transform along the partitions and store slices"
        )
    coils = {int(row["head"]["active_channels"]) for row in rows}
    if len(coils) > 1:
        raise InputError(f"{path}: acquisitions of {len(coils)} numbers of coils, {sorted(coils)}")
    noise = _noise(path, rows, noise_rows, header, notes)
    recon = None if header.recon is None else header.recon[:2]
    if header.trajectory != "cartesian":
        return _shots(path, rows, header, noise, recon)
    data, sampled = _lines(path, rows, header, partition)
    data, sampled = _without_oversampling(data, sampled, header, notes)
    return Acquired(data, sampled, None, None, None, noise, recon)


def _header(path: Path, dataset: Any) -> Header:
    if dataset.size != 1 or dataset.id.get_storage_size() > HEADER:
        raise InputError(f"{path}: its XML header is missing or too long")
    raw = dataset[0] if dataset.shape else dataset[()]
    text = raw.decode(errors="replace") if isinstance(raw, bytes) else str(raw)
    if len(text) > HEADER:
        raise InputError(f"{path}: its XML header is too long")
    try:
        return parsed(text)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def _kind(heads: np.ndarray, header: Header) -> np.ndarray:
    """What each acquisition is: "" for the image, noise, calibration, navigator and others."""

    def flagged(number: int) -> np.ndarray:
        return (heads["flags"] >> np.uint64(number - 1)) & np.uint64(1) > 0

    kinds = np.full(len(heads), "", dtype=object)
    for number, words in NO_IMAGE.items():
        kinds[flagged(number)] = words
    if not header.embedded:
        kinds[flagged(CALIBRATION)] = "calibration"
    kinds[flagged(NOISE)] = "noise"
    return kinds


def _chosen(
    path: Path,
    heads: np.ndarray,
    kinds: np.ndarray,
    slice_: int | None,
    select: Mapping[str, int],
    notes: list[str],
) -> np.ndarray:
    """The acquisitions of one image of one slice."""
    unknown = set(select) - {*COUNTERS, "average"}
    if unknown:
        raise InputError(
            f"mri: select knows {', '.join((*COUNTERS, 'average'))}, not {sorted(unknown)[0]}"
        )
    kept = kinds == ""
    for kind in sorted(set(kinds) - {"", "noise"}):
        notes.append(f"{int((kinds == kind).sum())} acquisitions ({kind}) are not used")
    if not kept.any():
        raise InputError(f"{path}: holds no acquisition of an image")
    index = heads["idx"]
    slices = sorted({int(v) for v in index["slice"][kept]})
    wanted = slices[len(slices) // 2] if slice_ is None else slice_
    if wanted not in slices:
        raise InputError(
            f"{path}: slice {wanted} does not exist; there are {len(slices)}, from {slices[0]}"
        )
    if len(slices) > 1:
        notes.append(f"slice {wanted} of {len(slices)}, counted from 0")
    kept &= index["slice"] == wanted
    for counter in (*COUNTERS, "average"):
        found = sorted({int(v) for v in index[counter][kept]})
        if counter in select:
            if select[counter] not in found:
                raise InputError(
                    f"{path}: {counter} {select[counter]} does not exist; there are {found}"
                )
            kept &= index[counter] == select[counter]
        elif len(found) > 1 and counter != "average":
            raise InputError(
                f"{path}: holds {len(found)} images that differ in {counter}; choose one, e.g. "
                f"select={counter}:{found[0]}"
            )
        elif len(found) > 1:
            notes.append(f"mean of {len(found)} averages; select=average:0 takes one")
    return np.flatnonzero(kept)


def _samples(path: Path, row: Any) -> np.ndarray:
    """The samples of an acquisition, (coils, samples), in the direction of the readout."""
    head = row["head"]
    coils, count = int(head["active_channels"]), int(head["number_of_samples"])
    numbers = np.asarray(row["data"], dtype=np.float32)
    if numbers.size != 2 * coils * count or not numbers.size:
        raise InputError(
            f"{path}: an acquisition of {coils} coils and {count} samples holds {numbers.size} "
            "numbers"
        )
    if not np.isfinite(numbers).all():
        raise InputError(f"{path}: k-space holds NaN or infinity")
    return numbers.view(np.complex64).reshape(coils, count)


def _partition(path: Path, header: Header, slice_: int | None, notes: list[str]) -> int:
    """The slice of a 3-D encoding, counted from 0."""
    count = header.partitions
    chosen = count // 2 if slice_ is None else slice_
    if chosen >= count:
        raise InputError(f"{path}: slice {chosen} does not exist; there are {count}, from 0")
    notes.append(f"slice {chosen} of {count}, counted from 0, transformed along the partitions")
    return chosen


def _lines(
    path: Path, rows: list[Any], header: Header, partition: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cartesian k-space on the encoded matrix, (coils, x, y), and what of it is sampled."""
    if header.encoded is None:
        raise InputError(f"{path}: its header does not state the encoded matrix")
    width, height, depth = header.encoded
    middle_partition = depth // 2 if header.centre_partition is None else header.centre_partition
    centre = height // 2 if header.centre is None else header.centre
    coils = int(rows[0]["head"]["active_channels"])
    check_memory(path, (2 * coils, width, height))
    total = np.zeros((coils, width, height), dtype=np.complex64)
    times = np.zeros((width, height), dtype=int)
    for row in rows:
        head, line = row["head"], _samples(path, row)
        first, last = int(head["discard_pre"]), line.shape[1] - int(head["discard_post"])
        middle = int(head["center_sample"])
        if (int(head["flags"]) >> (REVERSE - 1)) & 1:
            line = line[:, ::-1]
            first, last = line.shape[1] - last, line.shape[1] - first
            middle = line.shape[1] - 1 - middle
        start = width // 2 - middle + first
        place = int(head["idx"]["kspace_encode_step_1"]) - centre + height // 2
        if not (0 <= place < height and start >= 0 and start + last - first <= width > 0):
            raise InputError(
                f"{path}: a line lies outside the encoded matrix {width}x{height} of its header"
            )
        z = int(head["idx"]["kspace_encode_step_2"]) - middle_partition
        turn = np.exp(2j * np.pi * z * (partition - depth // 2) / depth) / math.sqrt(depth)
        total[:, start : start + last - first, place] += turn * line[:, first:last]
        times[start : start + last - first, place] += 1
    seen = np.unique(times[times > 0])
    if len(seen) > 1:
        raise InputError(
            f"{path}: lines were measured {seen[0]} to {seen[-1]} times, so that their noise "
            "differs; choose one with select=average:0"
        )
    if depth > 1 and int(seen[0]) % depth:
        raise InputError(
            f"{path}: lines were measured at {seen[0]} of {depth} partitions; a 3-D encoding is "
            "read if all partitions of a line are measured"
        )
    return total / max(int(seen[0]) // depth, 1), times > 0


def _without_oversampling(
    data: np.ndarray, sampled: np.ndarray, header: Header, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """K-space of the field of view of the reconstruction along the readout."""
    assert header.encoded is not None
    width = header.encoded[0]
    if header.encoded_fov and header.recon_fov:
        kept = round(width * header.recon_fov[0] / header.encoded_fov[0])
    else:
        kept = width if header.recon is None else header.recon[0]
    if kept >= width or kept < 4:
        return data, sampled
    lines = np.any(sampled, 0)
    if not sampled[:, lines].all():
        notes.append("the readout is incomplete, so that its oversampling stays")
        return data, sampled
    images = _transform(data, inverse=True)
    data = _transform(cropped(images, (kept, data.shape[2])))
    notes.append(f"readout oversampling removed: {kept} of {width} pixels")
    return np.where(lines, data, 0), np.broadcast_to(lines, (kept, len(lines))).copy()


def _transform(x: np.ndarray, inverse: bool = False) -> np.ndarray:
    """The centred orthonormal Fourier transform along the readout, (coils, x, y)."""
    function = np.fft.ifft if inverse else np.fft.fft
    moved = function(np.fft.ifftshift(x, axes=1), axis=1, norm="ortho")
    return np.fft.fftshift(moved, axes=1).astype(np.complex64)


def _shots(
    path: Path,
    rows: list[Any],
    header: Header,
    noise: np.ndarray | None,
    recon: tuple[int, int] | None,
) -> Acquired:
    """The acquisitions of a trajectory off the grid."""
    if header.trajectory == "epi":
        raise InputError(
            f"{path}: an EPI trajectory needs phase correction and regridding first, which are "
            "not done here; store its k-space on the grid"
        )
    counts = {int(row["head"]["number_of_samples"]) for row in rows}
    axes = {int(row["head"]["trajectory_dimensions"]) for row in rows}
    if len(counts) > 1:
        raise InputError(f"{path}: shots of {len(counts)} lengths, {min(counts)}-{max(counts)}")
    count, axis = counts.pop(), axes.pop()
    if axes or axis not in (2, 3):
        raise InputError(
            f"{path}: a {header.trajectory} trajectory of {axis} axes in its acquisitions; "
            "expected 2, or 3 with the density as the third"
        )
    points = [np.asarray(row["traj"], dtype=np.float64) for row in rows]
    if any(p.size != count * axis for p in points):
        raise InputError(f"{path}: a trajectory has another length than its samples")
    k = np.stack(points).reshape(len(rows), count, axis)
    if not np.isfinite(k).all():
        raise InputError(f"{path}: its trajectory holds NaN or infinity")
    last = {int(row["head"]["discard_post"]) for row in rows}
    first = {int(row["head"]["discard_pre"]) for row in rows}
    used = slice(max(first), count - max(last))
    data = np.stack([_samples(path, row) for row in rows], 1)[..., used]
    space = header.recon or header.encoded
    sides = None if space is None else space[:2]
    density = k[:, used, 2] if axis == 3 else None
    if density is not None and not ((density >= 0).all() and density.any()):
        density = None
    return Acquired(data, None, k[:, used, :2], density, sides, noise, recon)


def _noise(
    path: Path, rows: list[Any], noise_rows: list[Any], header: Header, notes: list[str]
) -> np.ndarray | None:
    """Samples of the noise scans with the variance that the data have, (coils, samples).

    The variance grows with the bandwidth of the receiver: with the ratio of the dwell times.

    Source: Kellman, McVeigh, Image reconstruction in SNR units, Magnetic Resonance in Medicine
    2005, appendix.
    """
    coils = int(rows[0]["head"]["active_channels"])
    usable = [r for r in noise_rows if int(r["head"]["active_channels"]) == coils]
    if not usable:
        return None
    dwell = float(rows[0]["head"]["sample_time_us"])
    scans = []
    for row in usable:
        own = float(row["head"]["sample_time_us"])
        ratio = own / dwell if own > 0 and dwell > 0 else 1.0
        scans.append(_samples(path, row) * math.sqrt(ratio / header.bandwidth))
    noise = np.concatenate(scans, 1)
    if noise.shape[1] < 4 * coils or not noise.any():
        return None
    notes.append(f"noise of {noise.shape[1]} samples from {len(usable)} noise scans")
    return noise
