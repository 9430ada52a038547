"""Array files to numbers: .npy, .npz, .h5 and .mat, by content, checked before they are read."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from inverse.errors import InputError, first_line, is_out_of_memory
from inverse.io.files import atomic_write
from inverse.io.matlab import (
    V5,
    V73,
    as_matlab_shows,
    from_matlab,
    numeric_variables,
    variable,
)
from inverse.io.sizes import check_memory, does_not_fit, reading

PREFERRED = ("y", "kspace")
"""Datasets that hold the measurement if a file has several: ours, and fastMRI's."""


def is_array(head: bytes) -> bool:
    """Whether a file that begins with these bytes is an .npy, .npz, HDF5 or MATLAB file."""
    return head.startswith((b"\x93NUMPY", b"\x89HDF", b"PK\x03\x04", V5, V73))


def datasets(path: Path) -> list[str]:
    """Names of the datasets at the top of an HDF5 file; none for other files."""
    import h5py

    if not h5py.is_hdf5(path):
        return []
    with h5py.File(path, "r") as file:
        return [name for name, item in file.items() if isinstance(item, h5py.Dataset)]


def read_numbers(path: Path, head: bytes) -> np.ndarray:
    """The numbers of a file, of any shape, real or complex.

    A file of several arrays must hold one named `y` or `kspace`, or a single numeric one.

    Args:
        head: the first bytes of the file, which tell its kind.

    Raises: InputError if the file cannot be read, holds no such array, keeps its numbers in another
        file, or does not fit into memory.
    """
    try:
        if head.startswith(b"\x93NUMPY"):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            check_memory(path, array.shape)
            array = np.array(array)
        elif head.startswith(b"PK"):
            array = _from_npz(path)
        elif head.startswith(V5):
            array = variable(path, _chosen(path, numeric_variables(path)))
        else:
            array = _from_hdf5(path)
    except InputError:
        raise
    except Exception as error:  # each reader raises its own types
        if is_out_of_memory(error):
            raise does_not_fit(path, error) from error
        reason = first_line(error)
        if "Python objects" in reason or "allow_pickle" in reason:
            reason = "it holds Python objects, which are never loaded"
        raise InputError(f"{path}: not a readable array ({reason})") from error
    return _joined(array)


def _from_npz(path: Path, name: str | None = None) -> np.ndarray:
    # np.load leaves a file open that it cannot read
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        name = name or _chosen(path, list(archive.files))
        with zipfile.ZipFile(path) as members, members.open(f"{name}.npy") as member:
            major, _ = np.lib.format.read_magic(member)
            read = {1: np.lib.format.read_array_header_1_0}.get(
                major, np.lib.format.read_array_header_2_0
            )
            shape = read(member)[0]
        check_memory(path, shape)
        return archive[name]


def _from_hdf5(path: Path) -> np.ndarray:
    import h5py

    with h5py.File(path, "r") as file:
        found = own_datasets(path, file)
        numeric = [n for n, d in found.items() if d.shape and _numeric(d.dtype) and not _text(d)]
        return stored(path, found[_chosen(path, numeric, list(found))])


def own_datasets(path: Path, file: Any) -> dict[str, Any]:
    """The datasets of an HDF5 file by name, without groups and links that lead nowhere.

    Raises: InputError for a link to another file.
    """
    import h5py

    found = {}
    for name in file:
        if isinstance(file.get(name, getlink=True), h5py.ExternalLink):
            raise InputError(f"{path}: '{name}' is a link to another file; store the numbers")
        try:
            item = file[name]
        except (KeyError, OSError, RuntimeError):  # a soft link to nothing or to itself
            continue
        if isinstance(item, h5py.Dataset):
            found[name] = item
    return found


def stored(path: Path, dataset: Any, part: Any = ()) -> np.ndarray:
    """The numbers of an HDF5 dataset, or of a part of it.

    Args:
        part: index of the part.

    Raises: InputError if they lie in another file, were never written, or do not fit into memory.
    """
    if dataset.shape is None:
        raise InputError(f"{path}: '{dataset.name}' is empty (a null dataspace)")
    if dataset.external or dataset.is_virtual:
        raise InputError(
            f"{path}: the numbers of '{dataset.name}' lie in another file; store them here"
        )
    if dataset.size and not dataset.id.get_storage_size():
        raise InputError(f"{path}: '{dataset.name}' declares {dataset.shape}, but holds nothing")
    if part == () or from_matlab(dataset):
        check_memory(path, dataset.shape)
    return as_matlab_shows(dataset)[part] if from_matlab(dataset) else dataset[part]


def read_named(
    path: Path,
    names: Iterable[str],
    part: Callable[[str, tuple[int, ...]], Any] = lambda name, shape: (),
) -> dict[str, np.ndarray]:
    """Those arrays of an .npz, HDF5 or MATLAB file that have one of these names.

    None of another file.

    Args:
        names: of datasets, with their groups in HDF5, such as exchange/data.
        part: index of what to keep of an array of this name and shape. Of HDF5 the rest is not
            read.

    Raises: InputError if the file or an array cannot be read, or does not fit into memory.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with reading(path, "a readable array"):
        with path.open("rb") as file:
            head = file.read(16)
        if head.startswith(b"PK"):
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                present = [name for name in names if name in archive.files]
            arrays = {name: _joined(_from_npz(path, name)) for name in present}
            return {name: array[part(name, array.shape)] for name, array in arrays.items()}
        if head.startswith(V5):
            present = [name for name in numeric_variables(path) if name in names]
            arrays = {name: variable(path, name) for name in present}
            return {name: array[part(name, array.shape)] for name, array in arrays.items()}
        if not head.startswith((b"\x89HDF", V73)):
            return {}
        import h5py

        with h5py.File(path, "r") as file:
            return {
                name: _joined(stored(path, file[name], part(name, _shape(file[name]))))
                for name in names
                if is_inside(file, name) and _numeric(file[name].dtype)
            }


def _shape(dataset: Any) -> tuple[int, ...]:
    shape = dataset.shape or ()
    return shape[::-1] if from_matlab(dataset) else shape


def shape_of(path: Path, name: str) -> tuple[int, ...] | None:
    """The shape of an array of a .npz or HDF5 file; None if it has none of this name.

    Raises: InputError if the file cannot be read.
    """
    found: list[tuple[int, ...]] = []

    def nothing(_: str, shape: tuple[int, ...]) -> Any:
        found.append(shape)
        return tuple(slice(0) for _ in shape)

    read_named(path, (name,), nothing)
    return found[0] if found else None


def array_names(path: Path) -> list[str]:
    """Names of the arrays at the top of a .npz or HDF5 file; none of another file.

    Raises: InputError if it cannot be read.
    """
    if not path.is_file():
        return []
    with reading(path, "a readable array"), path.open("rb") as file:
        if not file.read(4).startswith(b"PK"):
            return datasets(path)
        with zipfile.ZipFile(path) as members:
            return [name.removesuffix(".npy") for name in members.namelist()]


def write_hdf5(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write arrays as datasets of an HDF5 file, atomically, in float32; the path.

    Raises: OSError.
    """
    import h5py

    with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
        for name, array in arrays.items():
            file[name] = np.asarray(array, dtype=np.float32)
    return path


def units_of(path: Path, name: str) -> str:
    """The attribute `units` of an HDF5 dataset; "" if it has none, or for another file."""
    import h5py

    if not path.is_file() or not h5py.is_hdf5(path):
        return ""
    with h5py.File(path, "r") as file:
        value = file[name].attrs.get("units", "") if is_inside(file, name) else ""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def is_inside(file: Any, name: str) -> bool:
    """Whether a dataset exists in the file itself, without links to other files on its path."""
    import h5py

    group = file
    for part in name.split("/"):
        if not isinstance(group, h5py.Group):
            return False
        if not isinstance(group.get(part, getlink=True), h5py.HardLink | h5py.SoftLink):
            return False
        group = group.get(part)
    return isinstance(group, h5py.Dataset) and group.file == file


def _chosen(path: Path, names: list[str], listed: list[str] | None = None) -> str:
    """The name of the array to read."""
    for name in PREFERRED:
        if name in names:
            return name
    if len(names) == 1:
        return names[0]
    raise InputError(
        f"{path}: expected a dataset 'y' or a single dataset, "
        f"found {', '.join(sorted(listed or names)) or 'none'}"
    )


def _numeric(dtype: np.dtype) -> bool:
    return dtype.kind in "biufc" or _parts(dtype) is not None


def _text(dataset: Any) -> bool:
    """Whether MATLAB stored text as a dataset of numbers."""
    return dataset.attrs.get("MATLAB_class") == b"char"


def _parts(dtype: np.dtype) -> tuple[str, str] | None:
    """Names of the real and imaginary fields of a compound that stands for complex numbers."""
    names = dtype.names or ()
    pairs = (("r", "i"), ("real", "imag"), ("re", "im"))
    return next((p for p in pairs if {n.lower() for n in names} == set(p)), None)


def _joined(array: np.ndarray) -> np.ndarray:
    """Complex numbers of a compound of real and imaginary parts; other arrays unchanged."""
    if (parts := _parts(array.dtype)) is None:
        return array
    fields = {name.lower(): array[name] for name in array.dtype.names or ()}
    return fields[parts[0]] + 1j * fields[parts[1]]
