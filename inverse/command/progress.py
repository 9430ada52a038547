"""Progress of a solve: a bar on a terminal, elsewhere a line every half minute; and a forecast."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from inverse.command.inputs import Input
from inverse.engine import Observer
from inverse.errors import InverseError
from inverse.method import Method
from inverse.posterior import Posterior
from inverse.priors.evaluation.evaluator import evaluator
from inverse.priors.evaluation.memory import bytes_needed
from inverse.priors.evaluation.tiling import tiles_watched
from inverse.priors.prior import NetworkPrior

EVERY = 30.0
"""Seconds between two lines of progress off a terminal, and above which a solve is announced."""
PROBE = 128
"""Side of the image on which calls of the prior are timed (pixels)."""
CALLS = 3
"""Calls that are timed; the fastest counts, since others wait for kernels or other processes."""
QUICK = 200 * 64**2
"""Pixels, over all steps, below which a solve is not worth a forecast."""


@contextmanager
def progress(batch: list[Input], count: int) -> Iterator[Observer]:
    """Context manager that yields an observer of a solve, which shows how far it is."""
    from rich.console import Console

    console = Console(stderr=True)
    shown = _bar(batch, count, console) if console.is_terminal else _lines(batch, count)
    with shown as show:
        state: dict[str, Any] = {"step": 0, "total": None, "words": "step 0"}

        def observer(step: int, total: int | None, x: Tensor, misfit: Any, nfe: float) -> None:
            of = "" if total is None else f"/{total}"
            state.update(step=step, total=total, words=f"step {step}{of}")
            show(
                step,
                total,
                lambda: f"step {step}{of}  chi2 {misfit():.3g}  {nfe:.0f} prior evaluations",
            )

        def tile(done: int, tiles: int) -> None:
            step, total, words = state["step"], state["total"], state["words"]
            show(step, total, lambda: f"{words}, then tile {done}/{tiles}")

        with tiles_watched(tile):
            yield observer


Show = Callable[[int, int | None, Callable[[], str]], None]


@contextmanager
def _bar(batch: list[Input], count: int, console: Any) -> Iterator[Show]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    steps = TextColumn("{task.fields[status]}")
    columns = (TextColumn("{task.description}"), BarColumn(), steps, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task, last = bar.add_task(label(batch, count), total=None, status=""), 0.0

        def show(step: int, total: int | None, status: Callable[[], str]) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last < 0.3 and step != total:
                return
            last = now
            bar.update(task, completed=step, total=total, status=status())

        yield show


@contextmanager
def _lines(batch: list[Input], count: int) -> Iterator[Show]:
    started = last = time.monotonic()

    def show(step: int, total: int | None, status: Callable[[], str]) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < EVERY:
            return
        last = now
        left = (
            f", {duration((now - started) * (total - step) / step)} left" if total and step else ""
        )
        print(f"inverse: {label(batch, count)}: {status()}{left}", file=sys.stderr, flush=True)

    yield show


def label(batch: list[Input], count: int) -> str:
    """The first file of a batch, the number of the others, and the position among all inputs."""
    name = batch[0].file.name if batch[0].file else "solving"
    others = f" and {len(batch) - 1} more" if len(batch) > 1 else ""
    position = f" {batch[-1].index + 1}/{count}" if count > 1 else ""
    return f"{name}{others}{position}"


LATER = 2.0
"""Seconds after which a solve is announced: what fails at once is one line, its error."""


@contextmanager
def said_later(line: str | None) -> Iterator[None]:
    """Print a line to stderr if the block lasts longer than `LATER` seconds."""
    if line is None:
        yield
        return
    timer = threading.Timer(LATER, print, (line,), {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def forecast(posterior: Posterior, method: Method, samples: int) -> str | None:
    """How long a solve takes at least and what memory its prior needs, in words.

    Calls of the prior are timed on a small image; a method makes one or more in each step.

    Returns: None for a solve of less than `EVERY` seconds, and where nothing can be known.
    """
    prior, shape = posterior.prior, posterior.shape
    method, _ = method.chosen(posterior, samples)
    total, rows = method.total, len(posterior) * samples * (getattr(method, "particles", None) or 1)
    if posterior.execution.compile:
        return None  # another size would be compiled
    if total is None or not isinstance(prior, NetworkPrior) or len(shape) != 3:
        return None
    pixels = shape[-1] * shape[-2]
    if total * rows * pixels < QUICK:
        return None
    free = prior.shape[-2:] == (None, None)
    probe = torch.zeros(1, shape[0], *((PROBE, PROBE) if free else shape[1:])).to(
        posterior.device, posterior.dtype
    )
    try:
        evaluate = evaluator(prior, posterior.execution)
        call = min(_seconds_of_a_call(evaluate, probe) for _ in range(CALLS))
        fixed, per_pixel = bytes_needed(prior, probe.float(), torch.ones(1), False)
    except (InverseError, RuntimeError):
        return None  # the solve reports it
    seconds = call * total * rows * pixels / probe[0, 0].numel()
    if seconds < EVERY:
        return None
    size = "x".join(map(str, shape[-2:]))
    images = "" if rows == 1 else f" for {rows} images of {size}"
    return (
        f"about {duration(seconds)} or more{images or f' for {size} pixels'}, {total} steps; "
        f"{(fixed + per_pixel * pixels) / 2**30:.2g} GiB for an image at once, in tiles if that is "
        "not free"
    )


def _seconds_of_a_call(evaluate: Any, x: Tensor) -> float:
    start = time.perf_counter()
    float(evaluate.denoise(x, 1.0).sum())  # waits for the device
    return time.perf_counter() - start


def duration(seconds: float) -> str:
    """A number of seconds in the largest unit that has a digit before the point."""
    for name, unit in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * unit:
            return (
                f"{seconds / unit:.2g} {name}"
                if seconds < 99 * unit
                else f"{seconds / unit:.0f} {name}"
            )
    return f"{seconds:.0f} seconds"
