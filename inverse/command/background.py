"""Reading ahead of the caller and writing behind it, each in its own thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any


def read_ahead(read: Callable[[Any], Any], items: Sequence[Any], depth: int = 1) -> Iterator[Any]:
    """Yield `read(item)` for each item while a thread reads up to `depth` items ahead.

    Raises: the error of `read` for an item, when the caller reaches that item.
    """
    with ThreadPoolExecutor(1) as pool:
        pending = [pool.submit(read, item) for item in items[: depth + 1]]
        for position in range(len(items)):
            current = pending.pop(0)
            yield current.result()
            if position + depth + 1 < len(items):
                pending.append(pool.submit(read, items[position + depth + 1]))


@contextmanager
def write_behind(write: Callable[..., None]) -> Iterator[Callable[..., None]]:
    """Context manager that yields `put`: `put(*arguments)` runs `write(*arguments)` in a thread.

    The calls run in order; `put` waits until the call before has finished. If the block raises, the
    pending call still runs.

    Raises: the error of a call, in the next `put` or at the end of the block; later calls are
    dropped.
    """
    with ThreadPoolExecutor(1) as pool:
        last: Future[None] | None = None

        def put(*arguments: Any) -> None:
            nonlocal last
            if last is not None:
                last.result()
            last = pool.submit(write, *arguments)

        yield put
        if last is not None:
            last.result()
