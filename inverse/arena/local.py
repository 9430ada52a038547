"""The local executor: cells one after another in this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from inverse.arena.bank import Observation
from inverse.arena.cell import Cell
from inverse.arena.worker import Outcome, Worker


class Executor(Protocol):
    """Computes cells; the records do not depend on the executor."""

    name: str
    running: int
    """Number of cells that are being computed."""

    def call(self, method: str, *arguments: Any) -> Any:
        """Run a method of a `Worker` and return its answer."""

    def run(self, work: Iterable[tuple[Cell, Observation]]) -> Iterator[Outcome]:
        """Compute cells, reading observations as needed; yield outcomes as they finish."""

    def close(self) -> None:
        """Release all resources."""


class Local:
    """One worker in this process, which has loaded its plug-ins already."""

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
