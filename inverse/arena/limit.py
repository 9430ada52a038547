"""`inverse bench limit`: how near to what its evaluations alone take a method runs, at the batch and precision where they take least."""

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
"""`cpu` is the processor time of this process: on a machine that others use too, wall time says how busy they are."""


@dataclass(frozen=True)
class Setting:
    """Where evaluations are timed: rows at once, and a precision of `inverse.io.devices.DTYPES`."""

    batch: int
    dtype: str


@dataclass(frozen=True)
class Efficiency:
    """One method: evaluations per sample, seconds of the solve (all rows), floor, and their ratio, medians over repeats; or why not."""

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
    """What is measured, and how.

    Args:
        problem: on its first truth, cut to a square of `size` pixels where that is given.
        compile: whether the prior is compiled.
        clock: wall or cpu.
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
            raise OptionError("bench limit: --clock cpu is for --device cpu")

    def posterior(self, setting: Setting) -> Posterior:
        """A posterior of `batch` rows, each with a measurement of its own."""
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
        """Seconds of an evaluation of all rows, at each setting."""
        return {
            setting: measure_floor(self.posterior(setting), CLOCKS[self.clock])
            for setting in settings
        }

    def efficiencies(self, methods: list[Method], setting: Setting) -> Iterator[Efficiency]:
        """Each method at this setting."""
        posterior = self.posterior(setting)
        for method in methods:
            try:
                yield self._efficiency(posterior, method)
            except InverseError as error:
                yield Efficiency(method.name, reason=str(error))

    def _efficiency(self, posterior: Posterior, method: Method) -> Efficiency:
        """The evaluations are replayed before and after each solve, since the machine may change between repeats."""
        seconds, cost = self._timed(posterior, method)
        if not cost["nfe"] + cost["vjp"]:
            return Efficiency(method.name, seconds=seconds, reason="asks nothing of the prior")
        rows, clock, found = posterior.rows(1), CLOCKS[self.clock], []
        replay(rows, cost, clock)
        for _ in range(self.repeats):
            before, (seconds, cost), after = (
                replay(rows, cost, clock),
                self._timed(posterior, method),
                replay(rows, cost, clock),
            )
            found.append(((before + after) / 2 / seconds, seconds, (before + after) / 2))
        efficiency, seconds, floor = (
            statistics.median(column) for column in zip(*found, strict=True)
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
        """Seconds of a solve and its counted evaluations; by the processor's clock the building of the result is in them."""
        start = time.process_time()
        result = solve(posterior, method)
        spent = time.process_time() - start
        cost = {name: getattr(result.cost, name) for name in ("nfe", "vjp", "A", "A_adjoint")}
        return (spent if self.clock == "cpu" else result.seconds), cost


def best(floors: dict[Setting, Floor]) -> Setting:
    """Where a forward and a VJP of one row take least."""
    return min(
        floors, key=lambda setting: (floors[setting].forward + floors[setting].vjp) / setting.batch
    )


def choose(names: list[str] | None, steps: int) -> list[Method]:
    """The methods called so, or all, with as many steps where they have any."""
    table = registry().table("inverse_methods")
    found = {name: registry().find("inverse_methods", name) for name in names or table}
    return [
        get_method(
            name,
            **({"steps": steps} if any(option.name == "steps" for option in options(cls)) else {}),
        )
        for name, cls in found.items()
    ]


def tables(floors: dict[Setting, Floor], found: list[Efficiency]) -> tuple[Table, Table]:
    """What evaluations take, and how near to that methods run."""
    evaluations = columns("batch", "precision", "forward (ms a row)", "VJP", "A", "A^T")
    for at, floor in floors.items():
        milliseconds = (
            f"{1e3 * seconds / at.batch:.2f}"
            for seconds in (floor.forward, floor.vjp, floor.A, floor.A_adjoint)
        )
        evaluations.add_row(str(at.batch), at.dtype, *milliseconds)
    methods = columns(
        "method", "prior evaluations", "VJPs", "A and A^T", "seconds", "floor", "efficiency"
    )
    for row in found:
        if row.efficiency is None:
            methods.add_row(row.method, *["-"] * 5, row.reason)
            continue
        counts = (f"{n:.0f}" for n in (row.nfe, row.vjp, row.A + row.A_adjoint))
        methods.add_row(
            row.method, *counts, f"{row.seconds:.3f}", f"{row.floor:.3f}", f"{row.efficiency:.3f}"
        )
    return evaluations, methods


def record(
    bench: Bench, floors: dict[Setting, Floor], chosen: Setting, found: list[Efficiency]
) -> dict[str, Any]:
    """Everything measured, for JSON."""
    about = {
        "problem": bench.problem.name,
        "size": bench.size,
        "device": bench.device,
        "compile": bench.compile,
        "clock": bench.clock,
    }
    about |= {
        "repeats": bench.repeats,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    timed = [asdict(setting) | asdict(floor) for setting, floor in floors.items()]
    return {
        "about": about,
        "evaluations": timed,
        "setting": asdict(chosen),
        "methods": [asdict(row) for row in found],
    }
