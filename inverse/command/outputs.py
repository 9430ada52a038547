"""Where `inverse solve` writes: safe, unique names, no input among them, one run in each."""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from inverse.errors import InputError
from inverse.problem import Problem

LONGEST = 200
"""Bytes of the name of an output folder; file systems admit 255, and a number may follow."""


def output_folders(files: list[Path | None], out: Path) -> list[Path]:
    """The output folder of each file: `out` for a single file, otherwise `out/STEM`.

    A stem that no folder may have, such as "..", is changed. Files that share a name, in any case,
    get a number appended to it, their position or the next one that makes a name of its own.
    """
    if len(files) == 1:
        return [out]
    stems = [_safe(file.stem) for file in files if file]
    known = [stem.casefold() for stem in stems]
    taken, names = set(known), []
    for index, stem in enumerate(stems):
        name = stem
        if known.count(stem.casefold()) > 1:
            candidates = (f"{stem}-{i}" for i in itertools.count(index))
            name = next(n for n in candidates if n.casefold() not in taken)
            taken.add(name.casefold())
        names.append(name)
    return [out / name for name in names]


def named_files(options: dict[str, str]) -> list[Path]:
    """The files that options of a problem name, such as a mask or a kernel, or kind:FILE."""
    stated = [value for value in options.values() if value and len(value) < 4096]
    return [Path(text) for value in stated for text in (value, value.partition(":")[2]) if text]


def check_not_inputs(
    inputs: Iterable[Path | None], folders: Iterable[Path], problem: Problem
) -> None:
    """Check before any work that no output would replace an input.

    Raises: InputError that names the input.
    """
    written = {
        (folder / name).resolve() for folder in folders for name in ("result.h5", *problem.exports)
    }
    for file in inputs:
        try:
            replaced = file is not None and file.is_file() and file.resolve() in written
        except (OSError, ValueError):
            continue  # no path at all
        if replaced:
            raise InputError(
                f"{file}: is an input, and the results would replace it; "
                "choose another folder with --out"
            )


@contextmanager
def locked(folders: list[Path]) -> Iterator[None]:
    """Hold the output folders for this run; locks end with the process, however it ends.

    They are held among the processes of one machine; where the system has no locks, nothing is.

    Raises: InputError if another run holds one.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    held = []
    try:
        for folder in folders[:LONGEST]:
            key = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:24]
            file = (Path(tempfile.gettempdir()) / f"inverse-{key}.lock").open("a")
            held.append(file)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"output folder {folder}: another run of inverse writes to it; "
                    "wait for it, or choose another with --out"
                ) from error
        yield
    finally:
        for file in held:
            file.close()


def _safe(stem: str) -> str:
    """A stem as a name of a folder: without dots at its ends, control characters, and not long."""
    name = "".join(c if c.isprintable() else "_" for c in stem).strip(". ") or "input"
    return name.encode()[:LONGEST].decode(errors="ignore")
