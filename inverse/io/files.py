"""Atomic writes of files, and JSON that every reader accepts."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inverse.errors import InputError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it if the block succeeds and removed otherwise.

    Its name is its own, so that processes may write the same file at once; the last one wins. The
    folder is created if it does not exist. Raises: OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:100]}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; its folder is created if it does not exist.

    Raises: InputError if the file cannot be written.
    """
    try:
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error


def strict_json(value: Any) -> str:
    """A line of strict JSON: NaN and infinity become null, other types become text."""
    return json.dumps(json.loads(json.dumps(value, default=str), parse_constant=lambda name: None))


def check_writable(folder: Path) -> None:
    """Check before any work is done that a folder can be written.

    A probe file is created and removed, in the nearest parent if the folder does not exist.

    Raises: InputError if the folder cannot be written.
    """
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    probe = nearest / f".write-test-{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"output folder {folder}: cannot be written ({error.strerror}); "
            "choose another with --out"
        ) from error
