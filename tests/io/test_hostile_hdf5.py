"""HDF5 files that lead elsewhere, in circles or nowhere are refused in one line."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

import inverse
from inverse.errors import InputError
from inverse.io.arrays import read_numbers
from inverse.io.image_sets import load_images


def loop(file, folder):
    file["y"] = h5py.SoftLink("/x")
    file["x"] = h5py.SoftLink("/y")


def loop_on_itself(file, folder):
    file["y"] = h5py.SoftLink("/y")


def link_to_nothing(file, folder):
    file["y"] = h5py.SoftLink("/nowhere/at/all")


def group_in_a_circle(file, folder):
    file["y"] = file["/"]


def null_dataspace(file, folder):
    file["y"] = h5py.Empty("f4")


def external_link(file, folder):
    file["y"] = h5py.ExternalLink(folder / "secret.h5", "y")


def external_storage(file, folder):
    secret = [(str(folder / "secret.h5"), 0, 256)]
    file.create_dataset("y", (8, 8), "f4", external=secret)


def virtual(file, folder):
    layout = h5py.VirtualLayout((3, 8, 8), "f4")
    layout[:] = h5py.VirtualSource(folder / "secret.h5", "y", (3, 8, 8))
    file.create_virtual_dataset("y", layout)


def terabytes(file, folder):
    file.create_dataset("y", (3, 10**6, 10**6), "f4", chunks=(1, 1000, 1000))


def references(file, folder):
    file["y"] = np.array([file.ref, file.ref], dtype=h5py.ref_dtype)


def objects(file, folder):
    file.create_dataset("y", (2,), h5py.vlen_dtype(np.float32))


def long_name(file, folder):
    file["y" * 60_000] = np.zeros((3, 8, 8), "S4")


HOSTILE = [
    loop,
    loop_on_itself,
    link_to_nothing,
    group_in_a_circle,
    null_dataspace,
    external_link,
    external_storage,
    virtual,
    terabytes,
    references,
    objects,
    long_name,
]


@pytest.fixture(params=HOSTILE, ids=lambda make: make.__name__)
def hostile(request, tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["y"] = np.full((3, 8, 8), 0.777, np.float32)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        request.param(file, tmp_path)
    return tmp_path / "a.h5"


def refused(read) -> None:
    with pytest.raises(InputError) as caught:
        read()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 70_000


def test_as_a_measurement(hostile):
    refused(lambda: read_numbers(hostile, hostile.read_bytes()[:32]))


def test_as_training_images(hostile):
    refused(lambda: load_images(hostile, 8, 3))


def test_as_a_result(hostile):
    with h5py.File(hostile, "a") as file:
        file.attrs["format"] = "inverse-result 1"
        file.attrs["cost"], file.attrs["seconds"] = "{}", 1.0
        file.attrs["interrupted"], file.attrs["provenance"] = False, "{}"
    refused(lambda: inverse.Result.load(hostile))


@pytest.mark.parametrize("junk", [b"", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"\0" * 999, b"[]"])
@pytest.mark.parametrize("name", ["a.npz", "a.h5", "a.png"])
def test_junk_as_training_images(tmp_path, junk, name):
    (tmp_path / name).write_bytes(junk)
    refused(lambda: load_images(tmp_path if name == "a.png" else tmp_path / name, 8, 3))


def test_pickled_arrays_as_training_images_are_not_loaded(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}], dtype=object))
    refused(lambda: load_images(tmp_path / "a.npz", 8, 3))
