"""Reading before it is asked for and writing after it was, each in a thread of its own, while the caller computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any


def read_ahead(read: Callable[[Any], Any], items: Sequence[Any], depth: int = 1) -> Iterator[Any]:
    """read(item) of each item, `depth` of them ahead of the caller; an error comes when its item's turn has."""
    with ThreadPoolExecutor(1) as pool:
        coming = [pool.submit(read, item) for item in items[: depth + 1]]
        for position in range(len(items)):
            ready = coming.pop(0)
            yield ready.result()
            if position + depth + 1 < len(items):
                coming.append(pool.submit(read, items[position + depth + 1]))


@contextmanager
def write_behind(write: Callable[..., None]) -> Iterator[Callable[..., None]]:
    """put(*what) has write(*what) called in a thread, in order, and waits only where the call before is not done yet.

    An error of one call comes out of the next put, or at the end; nothing is written after it. Where the block raises, what was put is written first.
    """
    with ThreadPoolExecutor(1) as pool:
        last: Future[None] | None = None

        def put(*what: Any) -> None:
            nonlocal last
            if last is not None:
                last.result()
            last = pool.submit(write, *what)

        yield put
        if last is not None:
            last.result()
