"""A training from its start to its end: where it writes, what it prints, how it is interrupted, and what its card says of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from inverse.errors import OptionError
from inverse.io.files import check_writable
from inverse.training.loop import Progress, TrainConfig, Training


def check_weights_path(command: str, out: Path) -> None:
    """Raises OptionError unless the weights can be written to `out`, before hours are spent on them."""
    if out.suffix != ".safetensors":
        raise OptionError(f"{command}: --out must end in .safetensors, got '{out.name}'")
    check_writable(out.parent)


def training_facts(
    config: TrainConfig, loss: float, seconds: float, where: torch.device
) -> dict[str, object]:
    """For the card: how it was trained, and on what machine."""
    return {
        "command": " ".join(["inverse", *sys.argv[1:]]),
        "seed": config.seed,
        "steps": config.steps,
        "batch": config.batch,
        "precision": config.precision,
        "loss": None if loss != loss else round(loss, 5),
        "hours_of_last_run": round(seconds / 3600, 2),
        "machine": torch.cuda.get_device_name(where)
        if where.type == "cuda"
        else f"{torch.get_num_threads()} CPU threads",
        "torch": torch.__version__,
    }


def train_to_end(
    training: Training, after: Callable[[Progress], None] = lambda _: None
) -> float | None:
    """Run to the end, reporting: the last loss, NaN if no step was left to do, or None if the user interrupted, and the state is then saved.

    Args:
        after: called after each report.
    """
    loss = float("nan")
    try:
        with progress_reports(training.config.steps) as report:
            for progress in training.run():
                loss = progress.loss
                report(progress)
                after(progress)
    except KeyboardInterrupt:
        training.save()
        print(
            f"inverse: interrupted at step {training.step}; run the same command to resume",
            file=sys.stderr,
        )
        return None
    return loss


@contextmanager
def progress_reports(total: int) -> Iterator[Callable[[Progress], None]]:
    """Loss, throughput and time left: a live bar on a terminal, a line a minute elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        with Bar(
            TextColumn("step {task.train_to_end}/{task.total}"),
            BarColumn(),
            TextColumn("{task.fields[news]}"),
            console=console,
        ) as bar:
            task = bar.add_task("train", total=total, news="")
            yield lambda p: bar.update(task, train_to_end=p.step, news=_news(p))
        return
    last = 0.0

    def line(p: Progress) -> None:
        nonlocal last
        if time.monotonic() - last > 60 or p.step == total:
            last = time.monotonic()
            print(f"step {p.step}/{total}  {_news(p)}", file=sys.stderr, flush=True)

    yield line


def _news(p: Progress) -> str:
    left = int(p.seconds_left)
    return f"loss {p.loss:.4f}  {p.crops_per_second:.0f} crops/s  {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"
