"""Run a training to its end: check the output, report progress, save on interruption."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from inverse.errors import OptionError
from inverse.io.files import check_writable
from inverse.training.loop import Progress, TrainConfig, Training


def check_weights_path(command: str, out: Path) -> None:
    """Check that the weights can be written to `out`, before the training starts.

    Args:
        command: name of the command, for the message.

    Raises: OptionError for another suffix than .safetensors, InputError if the folder cannot be
    written.
    """
    if out.suffix != ".safetensors":
        raise OptionError(f"{command}: --out must end in .safetensors, got '{out.name}'")
    check_writable(out.parent)


def training_facts(
    config: TrainConfig, loss: float, seconds: float, device: torch.device
) -> dict[str, object]:
    """The card's entries on how the prior was trained and on what machine.

    Args:
        loss: mean loss of the last steps; NaN if no step ran.
        seconds: duration of this run.
        device: device of the network.
    """
    return {
        "command": " ".join(["inverse", *sys.argv[1:]]),
        "seed": config.seed,
        "steps": config.steps,
        "batch": config.batch,
        "precision": config.precision,
        "loss": None if loss != loss else round(loss, 5),
        "hours_of_last_run": round(seconds / 3600, 2),
        "machine": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{torch.get_num_threads()} CPU threads",
        "torch": torch.__version__,
    }


def train_to_end(
    training: Training, after: Callable[[Progress], None] = lambda _: None
) -> float | None:
    """Run a training to its end and report its progress; save its state on an interruption.

    At SIGINT or SIGTERM the step that is running ends and is saved; a second SIGINT stops at once,
    with the last checkpoint.

    Args:
        after: called after each report.

    Returns: the last loss; NaN if no step was left; None if the user interrupted the training.
    """
    loss = float("nan")
    try:
        with stops_at_signals(training), progress_reports(training.config.steps) as report:
            for progress in training.run():
                loss = progress.loss
                report(progress)
                after(progress)
    except SecondInterrupt:
        raise
    except KeyboardInterrupt:
        training.save()
        print(
            f"inverse: interrupted at step {training.step}; run the same command to resume",
            file=sys.stderr,
        )
        return None
    return loss


class SecondInterrupt(KeyboardInterrupt):
    """Ctrl-C while a training ends its last step."""


class Stoppable(Protocol):
    """A training that ends after its current step once `stopping` is true."""

    stopping: bool


@contextmanager
def stops_at_signals(training: Stoppable) -> Iterator[None]:
    """Context manager under which SIGINT and SIGTERM end the training after a complete step.

    They set `training.stopping`; the training raises KeyboardInterrupt between two steps.

    Raises: SecondInterrupt at a second SIGINT, wherever the training is.
    """

    def stop(number: int, frame: Any) -> None:
        if training.stopping and number == signal.SIGINT:
            raise SecondInterrupt
        training.stopping = True

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread receives signals
        return
    before = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def progress_reports(total: int) -> Iterator[Callable[[Progress], None]]:
    """Context manager that yields a function which shows loss, throughput and remaining time.

    On a terminal it draws a bar; elsewhere it prints one line each minute.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        steps, status = (
            TextColumn(text)
            for text in ("step {task.completed}/{task.total}", "{task.fields[status]}")
        )
        with Bar(steps, BarColumn(), status, console=console) as bar:
            task = bar.add_task("train", total=total, status="")
            yield lambda p: bar.update(task, completed=p.step, status=_status(p))
        return
    last = 0.0

    def line(p: Progress) -> None:
        nonlocal last
        if time.monotonic() - last > 60 or p.step == total:
            last = time.monotonic()
            print(f"step {p.step}/{total}  {_status(p)}", file=sys.stderr, flush=True)

    yield line


def _status(p: Progress) -> str:
    seconds = int(p.seconds_left)
    time_left = f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return f"loss {p.loss:.4f}  {p.crops_per_second:.0f} crops/s  {time_left} left"
