"""DICOM series: a folder of slices. What is written is anonymous, with identifiers of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from inverse.errors import InputError, first_line
from inverse.io.files import atomic_write
from inverse.io.sizes import check_memory, reading
from inverse.io.volumes.volume import LIMITS, Volume, package

KEPT = (
    "SOPClassUID",
    "Modality",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "SliceLocation",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "InstanceNumber",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "WindowCenter",
    "WindowWidth",
    "PatientPosition",
)
"""The only attributes that are copied: geometry, pixels and display, nothing of a person."""

UNEVEN = 0.02
"""Relative difference of two distances of slices that counts as a gap."""


def recognises(path: Path) -> bool:
    """Whether a folder holds DICOM files, or a file is one."""
    return any(_series(path)) if path.is_dir() else path.is_file() and _is_dicom(path)


def read(path: Path) -> Series:
    """Read a series in the order of its positions.

    Raises: InputError if files cannot be read, belong to several series, have no position or
        several orientations or sizes, or a slice is missing.
    """
    pydicom = package(path, "pydicom")
    if path.is_file():
        raise InputError(f"{path}: one slice of a DICOM series; give the folder of the series")
    files = list(_series(path))
    with reading(path, "a readable DICOM series"):
        heads = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    for what, words in (
        ("SeriesInstanceUID", "series"),
        ("ImageOrientationPatient", "orientations"),
        ("Rows", "heights"),
        ("Columns", "widths"),
        ("PixelSpacing", "pixel spacings"),
    ):
        found = {str(head.get(what)) for head in heads}
        if len(found) > 1:
            raise InputError(
                f"{path}: {len(heads)} slices of {len(found)} {words}; keep those of one in a "
                "folder of their own"
            )
        if found == {"None"}:
            raise InputError(f"{path}: its files do not state {what}; they are no image series")
    position, spacing = _positions(path, heads)
    order = np.argsort(position)
    check_memory(path, (len(heads), heads[0].Rows, heads[0].Columns))
    slices, ordered = [], [files[i] for i in order]
    for file in ordered:
        slices.append(_pixels(file, pydicom))
    rows, columns = (float(v) for v in heads[0].PixelSpacing)
    return Series(path, ordered, np.stack(slices), (spacing, rows, columns))


class Series(Volume):
    """A DICOM series; values are those of its modality, such as Hounsfield units."""

    def __init__(
        self,
        path: Path,
        files: list[Path],
        slices: np.ndarray,
        spacing: tuple[float, float, float],
    ):
        self._files = files
        super().__init__(path, slices, spacing)

    @property
    def suffix(self) -> str:
        return ""

    def write(self, path: Path, slices: np.ndarray, description: str) -> None:
        pydicom = package(path, "pydicom")
        digest = hashlib.sha256(slices.tobytes()).hexdigest()
        uids = {
            name: pydicom.uid.generate_uid(entropy_srcs=[digest, name])
            for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
        }
        path.mkdir(parents=True, exist_ok=True)
        for index, (file, values) in enumerate(zip(self._files, slices, strict=True)):
            source = pydicom.dcmread(file, stop_before_pixels=True)
            made = _anonymous(source, values, pydicom)
            for name, uid in uids.items():
                setattr(made, name, uid)
            made.SOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[digest, str(index)])
            made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
            made.SeriesDescription = f"{description}, {LIMITS}"[:64]
            with atomic_write(path / f"{index + 1:04d}.dcm") as temporary:
                made.save_as(temporary, enforce_file_format=True)


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _series(folder: Path) -> Iterator[Path]:
    """The DICOM files of a folder, without hidden ones."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    yield from (p for p in entries if p.is_file() and p.name[0] != "." and _is_dicom(p))


def _positions(path: Path, heads: list[Any]) -> tuple[np.ndarray, float]:
    """Position of each slice along the normal (mm), and their distance."""
    if any(head.get("ImagePositionPatient") is None for head in heads):
        raise InputError(f"{path}: its files do not state ImagePositionPatient, their place")
    along, down = np.array(heads[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    normal = np.cross(along, down)
    places = np.array([head.ImagePositionPatient for head in heads], dtype=float) @ normal
    steps = np.diff(np.sort(places))
    if not len(steps):
        return places, float(heads[0].get("SliceThickness") or 1)
    step = float(np.median(steps))
    if step <= 0 or (steps <= 0).any():
        raise InputError(f"{path}: two slices have the same position; keep one series of them")
    worst = int(np.abs(steps - step).argmax())
    if abs(steps[worst] - step) > UNEVEN * step:
        raise InputError(
            f"{path}: slices lie {step:g} mm apart, but {steps[worst]:g} mm between the "
            f"{worst + 1}th and the {worst + 2}th; a slice is missing or belongs elsewhere"
        )
    return places, step


def _pixels(file: Path, pydicom: Any) -> np.ndarray:
    try:
        data = pydicom.dcmread(file)
        if int(data.get("SamplesPerPixel", 1)) != 1 or int(data.get("NumberOfFrames", 1)) != 1:
            raise InputError(f"{file}: expected one grey frame; colours and frames are not read")
        numbers = data.pixel_array.astype(np.float32)
    except InputError:
        raise
    except Exception as error:  # the reader raises its own types
        raise InputError(f"{file}: its pixels cannot be read ({first_line(error)})") from error
    return numbers * float(data.get("RescaleSlope", 1)) + float(data.get("RescaleIntercept", 0))


def _anonymous(source: Any, values: np.ndarray, pydicom: Any) -> Any:
    """A data set of these values with the geometry of another, and nothing of a person."""
    made = pydicom.Dataset()
    for keyword in KEPT:
        if keyword in source:
            setattr(made, keyword, source[keyword].value)
    rows, columns = source.Rows / values.shape[0], source.Columns / values.shape[1]
    if (rows, columns) != (1, 1):  # the corners of the slice stay, so that centres move
        spacing = np.array(source.PixelSpacing, dtype=float)
        along, down = np.array(source.ImageOrientationPatient, dtype=float).reshape(2, 3)
        place = np.array(source.ImagePositionPatient, dtype=float)
        place = place + 0.5 * (rows - 1) * spacing[0] * down
        place = place + 0.5 * (columns - 1) * spacing[1] * along
        made.ImagePositionPatient = [f"{v:.10g}" for v in place]
        made.PixelSpacing = [f"{v:.10g}" for v in spacing * (rows, columns)]
    made.Rows, made.Columns = values.shape
    slope, intercept = (
        float(source.get("RescaleSlope", 1)),
        float(source.get("RescaleIntercept", 0)),
    )
    signed, bits = int(source.PixelRepresentation), int(source.BitsStored)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    kind = np.dtype(f"{'i' if signed else 'u'}{int(source.BitsAllocated) // 8}")
    stored = np.round((values - intercept) / slope).clip(low, high).astype(kind)
    made.PixelData = stored.tobytes()
    made.ImageType = ["DERIVED", "SECONDARY"]
    made.PatientName, made.PatientID = "", ""
    made.PatientIdentityRemoved = "YES"
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = source.SOPClassUID
    return made
