"""Time calls, in seconds of the processor unless a clock is given."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")
Clock = Callable[[], float]


def timed(call: Callable[[], Answer], clock: Clock = time.process_time) -> tuple[Answer, float]:
    """The answer of a call, and its seconds."""
    start = clock()
    answer = call()
    return answer, clock() - start


def least_seconds(
    call: Callable[[], object], repeats: int, clock: Clock = time.process_time
) -> float:
    """Seconds of the fastest of several calls."""
    return min(timed(call, clock)[1] for _ in range(repeats))
