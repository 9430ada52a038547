"""How a score or a cost is read: its label, its direction, what counts as solved, and its value in a record."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from inverse.arena.record import Record


@dataclass(frozen=True)
class Metric:
    """How a score is read.

    Args:
        label, unit, digits: how it is printed.
        better: "higher", "lower", or the number it should be close to; None where we do not know, and do not rank.
        within: distances to the best (to the number, where there is one) that count as solved, from strict to lenient.
        relative: whether these are fractions of the best rather than in the metric's unit.
    """

    label: str
    better: str | float | None = None
    within: tuple[float, ...] = ()
    relative: bool = False
    unit: str = ""
    digits: int = 3

    def loss(self, value: float) -> float:
        """Smaller is better."""
        if isinstance(self.better, float):
            return abs(value - self.better)
        return -value if self.better == "higher" else value


METRICS: dict[str, Metric] = {
    "psnr": Metric("PSNR", "higher", (0.5, 1.0, 3.0), unit="dB", digits=2),
    "ssim": Metric("SSIM", "higher", (0.01, 0.03, 0.1)),
    "ms-ssim": Metric("MS-SSIM", "higher", (0.01, 0.03, 0.1)),
    "haarpsi": Metric("HaarPSI", "higher", (0.01, 0.03, 0.1)),
    "lpips": Metric("LPIPS", "lower", (0.01, 0.03, 0.1)),
    "dists": Metric("DISTS", "lower", (0.01, 0.03, 0.1)),
    "rmse": Metric("RMSE", "lower", (0.05, 0.1, 0.5), relative=True, digits=4),
    "area-rmse": Metric("area-weighted RMSE", "lower", (0.05, 0.1, 0.5), relative=True, digits=4),
    "crps": Metric("CRPS", "lower", (0.05, 0.1, 0.5), relative=True, digits=4),
    "energy-score": Metric("energy score", "lower", (0.05, 0.1, 0.5), relative=True, digits=4),
    "misfit": Metric("residual χ²", 1.0, (0.05, 0.1, 0.3)),
    "coverage": Metric("80 % coverage", 0.8, (0.05, 0.1, 0.2)),
    "spread-skill": Metric("spread/skill", 1.0, (0.05, 0.1, 0.3)),
}
"""Every score we ship and its direction; a plug-in's own is shown unranked until it is entered here."""

COSTS: dict[str, Metric] = {
    "seconds": Metric("seconds", "lower"),
    "calls": Metric("evaluations + VJPs", "lower", digits=0),
    "nfe": Metric("evaluations", "lower", digits=0),
    "vjp": Metric("VJPs", "lower", digits=0),
    "A": Metric("A", "lower", digits=0),
    "A_adjoint": Metric("Aᵀ", "lower", digits=0),
    "peak_memory": Metric("peak memory", "lower", unit="B", digits=0),
}
"""What a cell spent; calls are what a budget of evaluations limits: prior evaluations and VJPs together."""


def metric(name: str) -> Metric:
    """How to read a metric or a cost; a name that no table knows is read without a direction."""
    return METRICS.get(name) or COSTS.get(name) or Metric(name)


def value(record: Record, name: str) -> float | None:
    """A metric or a cost of one cell; None where it did not finish, or does not apply."""
    if record.status != "ok":
        return None
    found: float | None
    if name == "calls":
        found = record.cost.get("nfe", math.nan) + record.cost.get("vjp", math.nan)
    elif name in ("seconds", "peak_memory"):
        found = getattr(record, name)
    else:
        found = (record.cost if name in COSTS else record.metrics).get(name)
    return None if found is None or not math.isfinite(found) else float(found)


def metrics_of(records: Iterable[Record]) -> list[str]:
    """The metrics that occur, those of the table first and in its order."""
    found = {name for record in records for name in record.metrics}
    return [name for name in METRICS if name in found] + sorted(found - METRICS.keys())
