"""Quality against cost: targets reached, Pareto fronts, curves over steps. An unfinished cell has not reached its target."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from inverse.arena.groups import STEPS, Group
from inverse.arena.record import Record
from inverse.arena.values import metric, value


def solved(groups: Sequence[Group], name: str, within: float, cost: str) -> dict[str, list[Record]]:
    """The cells with which each family first reaches the target, cheapest first: the steps of its ECDF over `cost`.

    The target of an observation is the best value that anyone reached under any budget, give or take `within` (see `Metric`); for a
    metric with a number to be close to it is that number. Of several budgets and steps of a family the cheapest cell that
    reaches the target counts, so that a curve tells what share is solved if one may choose the steps. The denominator is
    `observations`, for everyone.

    Source of the idea: Hansen et al., COCO: a platform for comparing continuous optimizers, Optimization Methods and Software 2021.
    """
    reader = metric(name)
    if reader.better is None:
        return {}
    best: dict[Any, float] = {}
    cells: dict[str, dict[Any, list[tuple[float, Record]]]] = defaultdict(lambda: defaultdict(list))
    for group in groups:
        cells[group.family]
        for record in group.records:
            if (score := value(record, name)) is not None:
                seen = group.setting, record.truth, record.seed
                loss = reader.loss(score)
                lowest = min(loss, best.get(seen, math.inf))
                best[seen] = lowest if reader.ideal is None else 0.0
                cells[group.family][seen].append((loss, record))
    found = {}
    for family, blocks in cells.items():
        first = []
        for seen, tried in blocks.items():
            limit = best[seen] + within * (abs(best[seen]) if reader.relative else 1) + 1e-12
            reached = [
                record
                for loss, record in tried
                if loss <= limit and value(record, cost) is not None
            ]
            if reached:
                first.append(min(reached, key=lambda record: (value(record, cost), record.cell)))
        found[family] = sorted(first, key=lambda record: (value(record, cost), record.cell))
    return found


def pareto(points: Sequence[tuple[float, float] | None]) -> list[int]:
    """Indices of the (cost, loss) points that no other dominates, by rising cost; None is no point. Of equal points all stay."""
    order = sorted((point, i) for i, point in enumerate(points) if point is not None)
    front: list[int] = []
    lowest = math.inf
    for (cost, loss), i in order:
        if loss < lowest or (front and points[front[-1]] == (cost, loss)):
            front.append(i)
            lowest = loss
    return front


def front(groups: Sequence[Group], name: str, cost: str) -> list[int]:
    """Indices of the groups on the Pareto front of mean quality against mean cost."""
    reader = metric(name)
    if reader.better is None:
        return []
    means = [(group.estimate(cost), group.estimate(name)) for group in groups]
    return pareto([(c.mean, reader.loss(q.mean)) if c and q else None for c, q in means])


def curves(groups: Sequence[Group], axis: str) -> list[list[int]]:
    """Indices of the groups that make a curve, by rising `axis`: one family in one setting, at least two different values.

    axis: "steps", the option, or a cost, whose mean it is.
    """
    families: dict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)
    for i, group in enumerate(groups):
        if (at := position(group, axis)) is not None:
            families[group.setting, group.family].append((at, i))
    return [
        [i for _, i in sorted(points)]
        for points in families.values()
        if len({at for at, _ in points}) > 1
    ]


def position(group: Group, axis: str) -> float | None:
    """Where a group stands along an axis of `curves`; None where it does not."""
    if axis != STEPS:
        found = group.estimate(axis)
        return found.mean if found else None
    steps = {
        record.method.get("options", {}).get(STEPS)
        for record in group.records
        if record.status == "ok"
    }
    (only,) = steps if len(steps) == 1 else (None,)
    return float(only) if isinstance(only, int | float) else None
