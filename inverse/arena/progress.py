"""Progress of a long run: a bar on a terminal, nothing in continuous integration or a pipe."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from inverse.arena.record import Record

if TYPE_CHECKING:
    from inverse.arena.cell import Cell


class Progress:
    """Counts the cells that are done, running, failed and skipped, and shows the time left."""

    def __init__(self) -> None:
        self.total = self.done = self.failed = self.skipped = 0
        self._bar: Any = None
        self._task: Any = None
        self._executor: Any = None

    def __enter__(self) -> Progress:
        from rich.console import Console

        console = Console(stderr=True)
        if console.is_terminal and not os.environ.get("CI"):
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[news]}"),
                TimeRemainingColumn(),
                console=console,
            )
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def planning(self, cells: Iterable[Cell]) -> Iterator[Cell]:
        """Pass cells through while they are planned; fitting steps to budgets takes time."""
        task = self._bar and self._bar.add_task("planning", total=None, news="")
        for cell in cells:
            if self._bar is not None:
                self._bar.update(
                    task, advance=1, news=f"{cell.problem['name']}, {cell.method['name']}"
                )
            yield cell
        if self._bar is not None:
            self._bar.remove_task(task)

    def start(self, total: int, kept: list[Record], executor: Any) -> None:
        """Start the bar; `kept` cells are finished already and do not count for the time left."""
        self.total, self._executor = total, executor
        self.failed, self.skipped = (
            sum(record.status == status for record in kept) for status in ("failed", "skipped")
        )
        if self._bar is not None:
            self._task = self._bar.add_task(
                "cells", total=total - len(kept), news=f"{len(kept)} kept" if kept else ""
            )

    def finished(self, record: Record) -> None:
        """Count a finished cell."""
        self.done += 1
        self.failed += record.status == "failed"
        self.skipped += record.status == "skipped"
        if self._bar is not None:
            counts = (
                f"{self._executor.running} running, {self.failed} failed, {self.skipped} skipped"
            )
            news = f"{counts}; {record.problem['name']}, {record.method['name']}"
            self._bar.update(self._task, advance=1, news=news)
