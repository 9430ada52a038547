"""`inverse bench limit`: the time of a method against that of its evaluations alone.

Methods are timed at the batch size and precision at which evaluations are fastest.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from inverse.arena.bank import square
from inverse.arena.floor import Floor, measure_floor, replay
from inverse.engine import solve
from inverse.errors import InverseError, OptionError
from inverse.execution import Execution
from inverse.io.command_line import columns
from inverse.io.devices import DTYPES, check_device
from inverse.method import Method
from inverse.posterior import Posterior
from inverse.problem import Problem
from inverse.registry.discovery import get_method, registry
from inverse.registry.options import options

if TYPE_CHECKING:
    from rich.table import Table

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
"""`cpu` is the processor time of this process, for a machine that other processes use too."""


@dataclass(frozen=True)
class Setting:
    """A batch size (rows) and a precision (key of `inverse.io.devices.DTYPES`)."""

    batch: int
    dtype: str


@dataclass(frozen=True)
class Efficiency:
    """Measured time of a method.

    Args:
        nfe, vjp, A, A_adjoint: evaluations per sample.
        seconds: time of the solve, all rows.
        floor: time of its evaluations alone.
        efficiency: floor over seconds; times and ratio are medians over repeats.
        reason: why there is no efficiency.
    """

    method: str
    nfe: float = 0.0
    vjp: float = 0.0
    A: float = 0.0
    A_adjoint: float = 0.0
    seconds: float = 0.0
    floor: float = 0.0
    efficiency: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Bench:
    """A measurement of methods on a problem.

    Args:
        problem: its first truth is used.
        prior: name or file; None for the problem's own.
        size: side of the square cut from the truth (pixels); None for the whole truth.
        compile: whether the prior is compiled.
        repeats: number of solves of each method.
        clock: wall or cpu.

    Raises: OptionError for an unknown clock, or for the cpu clock on another device.
    """

    problem: Problem
    prior: str | None = None
    size: int | None = None
    device: str = "cpu"
    compile: bool = False
    repeats: int = 3
    clock: str = "wall"

    def __post_init__(self) -> None:
        if self.clock not in CLOCKS:
            raise OptionError(
                f"bench limit: --clock must be one of {', '.join(CLOCKS)}, got '{self.clock}'"
            )
        if self.clock == "cpu" and self.device != "cpu":
            raise OptionError("bench limit: --clock cpu needs --device cpu")

    def posterior(self, setting: Setting) -> Posterior:
        """A posterior of `batch` rows with independent measurements of one truth."""
        if setting.dtype not in DTYPES:
            raise OptionError(f"dtype must be one of {', '.join(DTYPES)}, got '{setting.dtype}'")
        (dtype, autocast), device = DTYPES[setting.dtype], check_device(self.device)
        truth = self.problem.truths()[0]
        if self.size is not None:
            cut = square(truth, self.size, 0)
            assert cut is not None
            truth = cut
        truth = self.problem.prepare(truth)
        prior = self.problem.resolve_prior(self.prior, device, dtype)
        execution = Execution(autocast=autocast, compile="auto" if self.compile else None)
        return self.problem.posterior(
            truth.expand(setting.batch, *truth.shape),
            prior=prior,
            device=device,
            dtype=dtype,
            execution=execution,
        )

    def floors(self, settings: list[Setting]) -> dict[Setting, Floor]:
        """Times of evaluations of all rows, for each setting."""
        return {
            setting: measure_floor(self.posterior(setting), CLOCKS[self.clock])
            for setting in settings
        }

    def efficiencies(self, methods: list[Method], setting: Setting) -> Iterator[Efficiency]:
        """Measure each method at a setting."""
        posterior = self.posterior(setting)
        for method in methods:
            try:
                yield self._efficiency(posterior, method)
            except InverseError as error:
                yield Efficiency(method.name, reason=str(error))

    def _efficiency(self, posterior: Posterior, method: Method) -> Efficiency:
        """Replay the evaluations before and after each solve: the load of the machine varies."""
        seconds, cost = self._timed(posterior, method)
        if not cost["nfe"] + cost["vjp"]:
            return Efficiency(method.name, seconds=seconds, reason="does not evaluate the prior")
        rows, clock, repeats = posterior.rows(1), CLOCKS[self.clock], []
        replay(rows, cost, clock)
        for _ in range(self.repeats):
            before = replay(rows, cost, clock)
            seconds, cost = self._timed(posterior, method)
            after = replay(rows, cost, clock)
            repeats.append(((before + after) / 2 / seconds, seconds, (before + after) / 2))
        efficiency, seconds, floor = (
            statistics.median(column) for column in zip(*repeats, strict=True)
        )
        return Efficiency(
            method.name,
            cost["nfe"],
            cost["vjp"],
            cost["A"],
            cost["A_adjoint"],
            seconds,
            floor,
            efficiency,
        )

    def _timed(self, posterior: Posterior, method: Method) -> tuple[float, dict[str, float]]:
        """Seconds of a solve, and its counted evaluations.

        The processor time includes the construction of the result.
        """
        start = time.process_time()
        result = solve(posterior, method)
        spent = time.process_time() - start
        cost = {name: getattr(result.cost, name) for name in ("nfe", "vjp", "A", "A_adjoint")}
        return (spent if self.clock == "cpu" else result.seconds), cost


def best(floors: dict[Setting, Floor]) -> Setting:
    """The setting at which a forward evaluation and a VJP of one row are fastest."""

    def seconds_per_row(setting: Setting) -> float:
        return (floors[setting].forward + floors[setting].vjp) / setting.batch

    return min(floors, key=seconds_per_row)


def choose(names: list[str] | None, steps: int) -> list[Method]:
    """The methods of these names, or all, with these steps if they have steps."""
    chosen = []
    for name in names or registry().table("inverse_methods"):
        method_class = registry().find("inverse_methods", name)
        has_steps = any(option.name == "steps" for option in options(method_class))
        chosen.append(get_method(name, **({"steps": steps} if has_steps else {})))
    return chosen


def tables(floors: dict[Setting, Floor], rows: list[Efficiency]) -> tuple[Table, Table]:
    """A table of the times of evaluations, and a table of the efficiency of methods."""
    evaluations = columns("batch", "precision", "forward (ms a row)", "VJP", "A", "A^T")
    for setting, floor in floors.items():
        milliseconds = (
            f"{1e3 * seconds / setting.batch:.2f}"
            for seconds in (floor.forward, floor.vjp, floor.A, floor.A_adjoint)
        )
        evaluations.add_row(str(setting.batch), setting.dtype, *milliseconds)
    methods = columns(
        "method", "prior evaluations", "VJPs", "A and A^T", "seconds", "floor", "efficiency"
    )
    for row in rows:
        if row.efficiency is None:
            methods.add_row(row.method, *["-"] * 5, row.reason)
            continue
        counts = (f"{n:.0f}" for n in (row.nfe, row.vjp, row.A + row.A_adjoint))
        methods.add_row(
            row.method, *counts, f"{row.seconds:.3f}", f"{row.floor:.3f}", f"{row.efficiency:.3f}"
        )
    return evaluations, methods


def record(
    bench: Bench, floors: dict[Setting, Floor], chosen: Setting, rows: list[Efficiency]
) -> dict[str, Any]:
    """All measurements as JSON."""
    about = {
        "problem": bench.problem.name,
        "size": bench.size,
        "device": bench.device,
        "compile": bench.compile,
        "clock": bench.clock,
        "repeats": bench.repeats,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    timed = [asdict(setting) | asdict(floor) for setting, floor in floors.items()]
    return {
        "about": about,
        "evaluations": timed,
        "setting": asdict(chosen),
        "methods": [asdict(row) for row in rows],
    }
