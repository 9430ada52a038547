"""Every metric that the package or a plug-in registers."""

from __future__ import annotations

from typing import Any

from inverse.metrics.metric import Metric
from inverse.metrics.shipped import METRICS
from inverse.registry.discovery import registry


def registered_metrics() -> dict[str, Metric]:
    """Metrics by name: those of the package in their order, then those of plug-ins by name."""
    table = registry().table("inverse_metrics")
    names = [name for name in METRICS if name in table] + sorted(table.keys() - METRICS.keys())
    return {name: _as_metric(name, table[name].thing) for name in names}


def find_metric(name: str) -> Metric:
    """The metric called `name`.

    Raises: UnknownNameError with the closest name and the list.
    """
    return _as_metric(name, registry().find("inverse_metrics", name))


def _as_metric(name: str, registered: Any) -> Metric:
    """A bare function becomes a metric without direction, labelled by its name."""
    return registered if isinstance(registered, Metric) else Metric(registered, name)
