"""The regions of a circuit in layers, so that each layer is one product of tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from inverse.errors import InputError
from inverse_plugins.circuits.graph import RegionGraph


@dataclass(frozen=True)
class Layer:
    """Sum regions at one distance from the root: how many, partitions at most, and per source level (-1 for the leaves) which of its regions
    enter which products; `padding` is -inf at products that do not exist."""

    regions: tuple[int, ...]
    partitions: int
    edges: dict[int, tuple[Tensor, Tensor]]
    padding: Tensor


def layers(graph: RegionGraph) -> list[Layer]:
    """Sum regions by their longest distance from the root, so that a tree's children are all one level down."""
    leaves, total = len(graph.variables), len(graph.variables) + len(graph.sums)
    depth = [0] * total
    for number in reversed(range(leaves, total)):
        for child in (c for partition in graph.sums[number - leaves] for c in partition):
            depth[child] = max(depth[child], depth[number] + 1)
    reached = {total - 1} | {c for region in graph.sums for partition in region for c in partition}
    if len(reached) != total:
        raise InputError(f"circuit: region {min(set(range(total)) - reached)} is in no partition")
    regions = [
        [r for r in range(leaves, total) if depth[r] == d] for d in range(1 + max(depth[leaves:]))
    ]
    place = {r: (-1, r) for r in range(leaves)} | {
        r: (d, k) for d, inside in enumerate(regions) for k, r in enumerate(inside)
    }
    plan = []
    for inside in regions:
        partitions = max(len(graph.sums[r - leaves]) for r in inside)
        padding, edges = (
            torch.full((len(inside) * partitions,), -torch.inf),
            dict[int, list[tuple[int, int]]](),
        )
        for k, r in enumerate(inside):
            for p, partition in enumerate(graph.sums[r - leaves]):
                padding[k * partitions + p] = 0
                for child in partition:
                    edges.setdefault(place[child][0], []).append(
                        (place[child][1], k * partitions + p)
                    )
        indices = {
            source: (torch.tensor([c for c, _ in pairs]), torch.tensor([p for _, p in pairs]))
            for source, pairs in edges.items()
        }
        plan.append(Layer(tuple(inside), partitions, indices, padding))
    return plan
