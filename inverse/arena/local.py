"""The local executor: cells one after another in this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from inverse.arena.bank import Observation
from inverse.arena.cell import Cell
from inverse.arena.worker import Outcome, Worker


class Executor(Protocol):
    """Computes cells somewhere; whoever it is, the records are the same."""

    name: str
    running: int
    """Cells being computed now."""

    def call(self, method: str, *arguments: Any) -> Any:
        """Run one method of a `Worker` and wait for it."""

    def run(self, work: Iterable[tuple[Cell, Observation]]) -> Iterator[Outcome]:
        """Compute cells, each observation read when its turn comes; outcomes as they are ready."""

    def close(self) -> None:
        """Give back what was started."""


class Local:
    """One worker, this process, with the plug-ins that it has loaded already."""

    name = "local"

    def __init__(self) -> None:
        self.worker, self.running = Worker(), 0

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self.worker, method)(*arguments)

    def run(self, work: Iterable[tuple[Cell, Observation]]) -> Iterator[Outcome]:
        for cell, observation in work:
            self.running = 1
            outcome = self.worker.compute(cell, observation)
            self.running = 0
            yield outcome

    def close(self) -> None:
        pass
