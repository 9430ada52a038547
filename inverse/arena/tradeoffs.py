"""Quality against cost: targets reached, Pareto fronts, curves over steps.

An unfinished cell has not reached its target.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from inverse.arena.groups import STEPS, Group
from inverse.arena.record import Record
from inverse.arena.values import metric, value


def solved(groups: Sequence[Group], name: str, within: float, cost: str) -> dict[str, list[Record]]:
    """The cheapest cells with which each family reaches the target, by rising cost.

    They are the steps of the family's ECDF over `cost`, with the denominator `observations`.

    The target of an observation is the best value that any contestant reached under any budget, or
    the ideal value of a metric that has one, with the tolerance `within` (see `Metric`). Of the
    budgets and steps of a family, the cheapest cell that reaches the target counts: a curve shows
    the share that is solved if the steps may be chosen.

    Source of the idea: Hansen et al., COCO: a platform for comparing continuous optimizers,
    Optimization Methods and Software 2021.
    """
    rule = metric(name)
    if rule.better is None:
        return {}
    best: dict[Any, float] = {}
    cells: dict[str, dict[Any, list[tuple[float, Record]]]] = defaultdict(lambda: defaultdict(list))
    for group in groups:
        cells[group.family]
        for record in group.records:
            if (score := value(record, name)) is not None:
                observation = group.setting, record.truth, record.seed
                loss = rule.loss(score)
                lowest = min(loss, best.get(observation, math.inf))
                best[observation] = lowest if rule.ideal is None else 0.0
                cells[group.family][observation].append((loss, record))

    def price(record: Record) -> tuple[float | None, str]:
        return value(record, cost), record.cell

    cheapest = {}
    for family, blocks in cells.items():
        solving = []
        for observation, answers in blocks.items():
            target = best[observation]
            limit = target + within * (abs(target) if rule.relative else 1) + 1e-12
            reached = [r for loss, r in answers if loss <= limit and value(r, cost) is not None]
            if reached:
                solving.append(min(reached, key=price))
        cheapest[family] = sorted(solving, key=price)
    return cheapest


def pareto(points: Sequence[tuple[float, float] | None]) -> list[int]:
    """Indices of the (cost, loss) points that no other point dominates, by rising cost.

    None stands for a missing point. Equal points are all kept.
    """
    order = sorted((point, i) for i, point in enumerate(points) if point is not None)
    front: list[int] = []
    lowest = math.inf
    for (cost, loss), i in order:
        if loss < lowest or (front and points[front[-1]] == (cost, loss)):
            front.append(i)
            lowest = loss
    return front


def front(groups: Sequence[Group], name: str, cost: str) -> list[int]:
    """Indices of the groups on the Pareto front of mean quality and mean cost, by rising cost."""
    rule = metric(name)
    if rule.better is None:
        return []
    means = [(group.estimate(cost), group.estimate(name)) for group in groups]
    return pareto([(c.mean, rule.loss(q.mean)) if c and q else None for c, q in means])


def curves(groups: Sequence[Group], axis: str) -> list[list[int]]:
    """Indices of the groups of each curve, by rising `axis`.

    A curve is a family in a setting with at least two different positions along the axis.

    Args:
        axis: "steps" (the option), or the name of a cost (its mean).
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
    """Position of a group along an axis of `curves`; None if it has none."""
    if axis != STEPS:
        estimate = group.estimate(axis)
        return estimate.mean if estimate else None
    steps = {
        record.method.get("options", {}).get(STEPS)
        for record in group.records
        if record.status == "ok"
    }
    (only,) = steps if len(steps) == 1 else (None,)
    return float(only) if isinstance(only, int | float) else None
