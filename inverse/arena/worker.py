"""Computes cells: warms up, measures the floor, times the method, and scores the result."""

from __future__ import annotations

import json
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from inverse.arena.bank import Observation
from inverse.arena.budget import Fit, fit, overrun
from inverse.arena.cell import Cell
from inverse.arena.floor import Floor, measure_floor
from inverse.arena.record import Record
from inverse.arena.source import core_version
from inverse.engine import solve, versions
from inverse.errors import InverseError, UnsupportedError
from inverse.execution import Execution
from inverse.io.devices import DTYPES, check_device
from inverse.method import Method
from inverse.metrics.registered import registered_metrics
from inverse.posterior import Posterior
from inverse.priors.evaluation.memory import peak_bytes
from inverse.priors.prior import Prior
from inverse.registry.discovery import get_method, registry
from inverse.registry.options import values
from inverse.result import Result


@dataclass(frozen=True)
class Outcome:
    """A record, and the bytes of its HDF5 artifact if it has one."""

    record: Record
    artifact: bytes | None = None


class Worker:
    """Computes cells in one process; priors stay loaded and warm between cells.

    Args:
        plugins: plug-in files to load, in a new process.
        threads: number of torch's threads; None for its default. The same numbers need the same
            threads.
    """

    def __init__(self, plugins: tuple[str, ...] = (), threads: int | None = None):
        if threads is not None:
            torch.set_num_threads(threads)
        for path in plugins:
            registry().load_file(Path(path))
        self._priors: dict[tuple[Any, ...], Prior] = {}
        self._floors: dict[tuple[Any, ...], Floor | None] = {}
        self._warm: dict[tuple[Any, ...], int | None] = {}

    def compute(self, cell: Cell, observation: Observation) -> Outcome:
        """Solve a cell; an error becomes the reason of a failed or skipped record."""
        started = datetime.now(UTC).isoformat(timespec="seconds")
        facts: dict[str, Any] = {
            "versions": {**versions(), "core": core_version()},
            "started": started,
        }
        if cell.skip:
            return Outcome(cell.record(status="skipped", reason=cell.skip, **facts))
        try:
            posterior, method = self.posterior(cell, observation), cell.build_method()
            if reason := method.unsupported(posterior):
                return Outcome(cell.record(status="skipped", reason=reason, **facts))
            needed = self.warm_up(cell, posterior, method)
            floor = self.floor(cell, posterior)
            with peak_memory(posterior.device, needed) as peak:
                result = solve(posterior, method, cell.samples, cell.seed, first_image=cell.truth)
            cost = cost_of(result)
            facts |= {
                "cost": cost,
                "seconds": result.seconds,
                "peak_memory": peak(),
                "floor_seconds": floor and floor.seconds(cost),
            }
            if reason := overrun(cell.budget, cost, result.seconds):
                return Outcome(cell.record(status="failed", reason=reason, **facts))
            result = replace(result, truth=observation.truth.to(result.samples.dtype))
            facts["metrics"] = score(result, cell.metrics)
            facts["versions"] |= metric_versions(cell.metrics)
        except UnsupportedError as error:
            return Outcome(cell.record(status="skipped", reason=one_line(error), **facts))
        except Exception as error:
            return Outcome(cell.record(status="failed", reason=one_line(error), **facts))
        return Outcome(cell.record(**facts), serialised(result))

    def posterior(self, cell: Cell, observation: Observation) -> Posterior:
        """The posterior of a cell, without the truth."""
        problem, device = cell.build_problem(), check_device(cell.device)
        dtype, autocast = DTYPES[cell.dtype]
        key = (cell.prior["sha256"], cell.prior["source"], cell.device, cell.dtype)
        if key not in self._priors:
            self._priors[key] = problem.resolve_prior(cell.prior["source"], device, dtype)
        return problem.posterior(
            y=observation.y.to(dtype),
            prior=self._priors[key],
            device=device,
            dtype=dtype,
            execution=Execution(autocast=autocast),
        )

    def warm_up(self, cell: Cell, posterior: Posterior, method: Method) -> int | None:
        """Run two untimed steps, once for each method and shape.

        They trigger imports, allocations and the choice of kernels.

        Returns: the largest number of bytes that arrays of the two steps hold at once, which the
            allocator of a CPU does not report; None on other devices, or if the steps failed.
        """
        key = (
            cell.method["name"],
            cell.problem["name"],
            posterior.shape,
            cell.samples,
            cell.device,
            cell.dtype,
        )
        if key in self._warm:
            return self._warm[key]
        self._warm[key] = None
        short = values(method) | ({"steps": 2} if "steps" in values(method) else {})
        with suppress(Exception):  # two steps may be too few; the solve itself reports other errors
            few = get_method(method.name, **short)
            solve(posterior, few, cell.samples, cell.seed)
            if posterior.device.type == "cpu":
                self._warm[key] = peak_bytes(lambda: solve(posterior, few, cell.samples, cell.seed))
        return self._warm[key]

    def steps_within(
        self, cell: Cell, observation: Observation, budget: dict[str, float], pinned: bool
    ) -> Fit:
        """The steps that a budget allows this cell's method; see `budget.fit`."""
        return fit(
            self.posterior(cell, observation), cell.build_method(), budget, cell.samples, pinned
        )

    def floor(self, cell: Cell, posterior: Posterior) -> Floor | None:
        """Times of the posterior's evaluations, measured once for each kind of batch."""
        key = (
            json.dumps(cell.problem, sort_keys=True),
            cell.prior["sha256"],
            cell.samples,
            posterior.shape,
            cell.device,
            cell.dtype,
        )
        if key not in self._floors:
            self._floors[key] = measure_floor(posterior.rows(cell.samples))
        return self._floors[key]


def cost_of(result: Result) -> dict[str, float]:
    """Evaluations per sample."""
    return {name: getattr(result.cost, name) for name in ("nfe", "vjp", "A", "A_adjoint")}


def score(result: Result, metrics: tuple[str, ...]) -> dict[str, float | None]:
    """The values of metrics of a result with its truth."""
    table = registered_metrics()
    return {name: table[name](result) for name in metrics}


def metric_versions(metrics: tuple[str, ...]) -> dict[str, str]:
    """Versions of what the metrics were computed with, where a metric has one."""
    table = registered_metrics()
    return {name: version for name in metrics if (version := table[name].version)}


def serialised(result: Result) -> bytes:
    """The HDF5 artifact of a result, without seconds, so that equal numbers give equal bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.h5"
        replace(result, seconds=float("nan")).save(path)
        return path.read_bytes()


def one_line(error: BaseException) -> str:
    """The reason of a record: the message of an error, and its location unless it is the user's."""
    message = next(iter(str(error).strip().splitlines()), "no message")
    if isinstance(error, InverseError):
        return message
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {message}{place}"


@contextmanager
def peak_memory(device: torch.device, needed: int | None) -> Iterator[Callable[[], int | None]]:
    """A function that returns the peak memory of the block above the memory at its start (bytes).

    Args:
        needed: what it returns on a CPU, whose allocator reports no peak. The resident memory of
            the process is none: it does not grow where a solve reuses freed memory.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - before
        return
    yield lambda: needed
