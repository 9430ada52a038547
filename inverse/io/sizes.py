"""Sizes that files declare, checked against the memory that is free before anything is read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from inverse.errors import InputError, first_line, is_out_of_memory
from inverse.memory import free_memory, what_fits

COPIES = 4
"""float32 copies of an image that reading and a first evaluation hold at once."""


def check_memory(path: Path, shape: Iterable[int]) -> None:
    """Check that an array of this shape fits into the free memory, in float32 and copied.

    Raises: InputError that names the shape, what it needs and what is free.
    """
    shape = tuple(int(n) for n in shape)
    needed, free = math.prod(shape) * 4 * COPIES, free_memory(torch.device("cpu"))
    if free is not None and needed > free:
        size = "x".join(map(str, shape))
        side = f"about {math.sqrt(free / needed):.1%} of its sides would fit"
        raise InputError(
            f"{path}: {size} values need {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are "
            f"free; {side}"
        )


def does_not_fit(path: Path, error: BaseException) -> InputError:
    """The error for a file whose reading ran out of memory."""
    return InputError(f"{path}: not enough memory to read it; {what_fits(error)}")


@contextmanager
def reading(path: Path, kind: str, expected: str = "") -> Iterator[None]:
    """Turn whatever a reader raises into an InputError of one line; each raises its own types.

    Args:
        path: the file, which begins the message.
        kind: what it is not, such as "a readable array".
        expected: what would be read, at the end of the message.

    Raises: InputError, unchanged if the block raises one itself.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise does_not_fit(path, error) from error
        raise InputError(f"{path}: not {kind} ({first_line(error)}){expected}") from error
