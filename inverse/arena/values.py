"""How the value of a metric or a cost is read from a record."""

from __future__ import annotations

import math
from collections.abc import Iterable

from inverse.arena.record import Record
from inverse.metrics.metric import Metric
from inverse.metrics.registered import registered_metrics
from inverse.result import Result


def recorded_only(result: Result) -> None:
    """The function of a quantity that reports read from records and no longer compute."""


SMALLEST_PEAK = 1 << 16
"""Bytes of a peak that can be true. Earlier records of CPUs hold the growth of the process, which
is nothing where a solve reuses freed memory."""

COSTS: dict[str, Metric] = {
    "seconds": Metric(recorded_only, "seconds", "lower"),
    "calls": Metric(recorded_only, "evaluations + VJPs", "lower", digits=0),
    "nfe": Metric(recorded_only, "evaluations", "lower", digits=0),
    "vjp": Metric(recorded_only, "VJPs", "lower", digits=0),
    "A": Metric(recorded_only, "A", "lower", digits=0),
    "A_adjoint": Metric(recorded_only, "Aᵀ", "lower", digits=0),
    "peak_memory": Metric(recorded_only, "peak memory", "lower", unit="B", digits=0),
}
"""What a cell spent. Calls are prior evaluations and VJPs together, which a budget limits."""


def metric(name: str) -> Metric:
    """The metric or cost called `name`; without a direction if no plug-in registers it."""
    found = registered_metrics().get(name) or COSTS.get(name)
    return found or Metric(recorded_only, name)


def value(record: Record, name: str) -> float | None:
    """A metric or a cost of a cell; None if the cell did not finish, or without a value."""
    if record.status != "ok":
        return None
    number: float | None
    if name == "calls":
        number = record.cost.get("nfe", math.nan) + record.cost.get("vjp", math.nan)
    elif name == "seconds":
        number = record.seconds
    elif name == "peak_memory":
        number = record.peak_memory if (record.peak_memory or 0) >= SMALLEST_PEAK else None
    else:
        number = (record.cost if name in COSTS else record.metrics).get(name)
    return None if number is None or not math.isfinite(number) else float(number)


def metrics_of(records: Iterable[Record]) -> list[str]:
    """Names of the metrics in these records: registered ones in their order, then the others."""
    names = {name for record in records for name in record.metrics}
    known = [name for name in registered_metrics() if name in names]
    return known + sorted(names - set(known))
