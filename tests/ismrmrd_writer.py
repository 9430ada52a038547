"""ISMRMRD files as ismrmrd-python writes them, with h5py alone."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

COUNTERS = ("kspace_encode_step_1", "kspace_encode_step_2", "average", "slice", "contrast")
COUNTERS += ("phase", "repetition", "set", "segment")
IDX = np.dtype([(name, "<u2") for name in COUNTERS] + [("user", "<u2", (8,))])
HEAD = np.dtype(
    [
        ("version", "<u2"),
        ("flags", "<u8"),
        ("measurement_uid", "<u4"),
        ("scan_counter", "<u4"),
        ("acquisition_time_stamp", "<u4"),
        ("physiology_time_stamp", "<u4", (3,)),
        ("number_of_samples", "<u2"),
        ("available_channels", "<u2"),
        ("active_channels", "<u2"),
        ("channel_mask", "<u8", (16,)),
        ("discard_pre", "<u2"),
        ("discard_post", "<u2"),
        ("center_sample", "<u2"),
        ("encoding_space_ref", "<u2"),
        ("trajectory_dimensions", "<u2"),
        ("sample_time_us", "<f4"),
        ("position", "<f4", (3,)),
        ("read_dir", "<f4", (3,)),
        ("phase_dir", "<f4", (3,)),
        ("slice_dir", "<f4", (3,)),
        ("patient_table_position", "<f4", (3,)),
        ("idx", IDX),
        ("user_int", "<i4", (8,)),
        ("user_float", "<f4", (8,)),
    ]
)
ROW = np.dtype([("head", HEAD), ("traj", h5py.vlen_dtype("f4")), ("data", h5py.vlen_dtype("f4"))])


def acquisition(data: np.ndarray, trajectory: np.ndarray | None = None, **head: int) -> np.ndarray:
    """One row: data (coils, samples); `head` may name counters, fields, and a `flag` from 1."""
    row = np.zeros(1, dtype=ROW)[0]
    data = np.ascontiguousarray(data, dtype=np.complex64)
    coils, samples = data.shape
    defaults = {"number_of_samples": samples, "active_channels": coils, "version": 1}
    defaults |= {"center_sample": samples // 2, "sample_time_us": 10}
    if flag := head.pop("flag", 0):
        defaults["flags"] = 1 << (flag - 1)
    fields = defaults | head
    if trajectory is not None:
        fields["trajectory_dimensions"] = trajectory.shape[-1]
    for name, value in fields.items():
        target = row["head"]["idx"] if name in COUNTERS else row["head"]
        target[name] = value
    row["data"] = data.ravel().view(np.float32)
    row["traj"] = np.zeros(0, "f4") if trajectory is None else trajectory.astype("f4").ravel()
    return row


def header(
    encoded: tuple[int, int, int],
    recon: tuple[int, int, int],
    trajectory: str = "cartesian",
    oversampling: int = 2,
    extra: str = "",
    before: str = "",
) -> str:
    """The XML header of matrices (x, y, z), with square fields of view of 200 mm."""

    def space(name: str, sides: tuple[int, int, int], x: int) -> str:
        matrix = "".join(f"<{a}>{n}</{a}>" for a, n in zip("xyz", sides, strict=True))
        fov = f"<x>{200 * x}</x><y>200</y><z>5</z>"
        return (
            f"<{name}><matrixSize>{matrix}</matrixSize>"
            f"<fieldOfView_mm>{fov}</fieldOfView_mm></{name}>"
        )

    limits = f"<kspace_encoding_step_1><minimum>0</minimum><maximum>{encoded[1] - 1}</maximum>"
    limits += f"<center>{encoded[1] // 2}</center></kspace_encoding_step_1>"
    return (
        f'<?xml version="1.0"?>{before}<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'
        "<acquisitionSystemInformation><relativeReceiverNoiseBandwidth>0.8"
        "</relativeReceiverNoiseBandwidth></acquisitionSystemInformation><encoding>"
        f"{space('encodedSpace', encoded, oversampling)}{space('reconSpace', recon, 1)}"
        f"<encodingLimits>{limits}</encodingLimits><trajectory>{trajectory}</trajectory>{extra}"
        "</encoding></ismrmrdHeader>"
    )


def write(path: Path, xml: str, rows: list[np.ndarray], group: str = "dataset") -> None:
    """Write a file of these acquisitions."""
    with h5py.File(path, "w") as file:
        made = file.create_group(group)
        made.create_dataset("xml", data=[xml.encode()], dtype=h5py.string_dtype())
        table = made.create_dataset("data", (len(rows),), dtype=ROW, maxshape=(None,))
        for index, row in enumerate(rows):
            table[index] = row
