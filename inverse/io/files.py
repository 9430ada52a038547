"""Files that are written whole or not at all, and JSON that every reader takes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inverse.errors import InputError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed onto it when the block ends well and removed when it does not; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; its folder is made.

    Raises: InputError if it cannot be written.
    """
    try:
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error


def strict_json(value: Any) -> str:
    """One line of JSON, in which NaN and infinity are null and what JSON does not have is text."""
    return json.dumps(json.loads(json.dumps(value, default=str), parse_constant=lambda name: None))


def check_writable(folder: Path) -> None:
    """Try to write in the folder, or in the nearest one that exists, before any work is done; nothing is left behind.

    Raises: InputError if that cannot be.
    """
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    probe = nearest / f".write-test-{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"output folder {folder}: cannot be written ({error.strerror}); choose another with --out"
        ) from error
