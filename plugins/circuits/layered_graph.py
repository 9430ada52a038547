"""The regions of a circuit in layers, and the passes of messages through them.

A layer holds the sum regions at one distance from the root. Its products are two tensors of
indices, so that a pass handles a whole layer by a few tensor operations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from inverse.errors import InputError
from inverse.seeding import Generators
from inverse_plugins.circuits.graph import RegionGraph


@dataclass(frozen=True)
class Layer:
    """Sum regions at one distance from the root.

    Args:
        regions: their numbers in the graph.
        partitions: largest number P of partitions of a region; product k P + p is partition p of
            the k-th region.
        edges: by layer of the factors (-1 for the leaves), the factors' indices in that layer and
            the products that they enter.
        padding: 0 for products that exist, -inf for others (regions P,).
    """

    regions: tuple[int, ...]
    partitions: int
    edges: dict[int, tuple[Tensor, Tensor]]
    padding: Tensor

    def mask(self, states: int) -> Tensor:
        """Which weights belong to products that exist: (regions, 1, P H), boolean."""
        exists = self.padding.isfinite().reshape(len(self.regions), 1, -1, 1)
        return exists.expand(-1, 1, -1, states).flatten(2)


class LayeredGraph:
    """A region graph in layers, the root's first.

    A region lies at its longest distance from the root, so that a tree's children are all one layer
    down. Messages are logarithms: (leaves, B, H) for the leaves, (regions, B, H) for a layer; a
    root has one state.

    Raises: InputError if a region is in no partition.
    """

    def __init__(self, graph: RegionGraph):
        self.size, self.variables = graph.size, torch.tensor(graph.variables)
        first = len(graph.variables)  # the number of the first sum region
        depth = _depths(graph)
        self.layers: list[Layer] = []
        self.position = {leaf: (-1, leaf) for leaf in range(first)}
        """Layer and index in it, by region."""
        by_layer = [
            [region for region in range(first, len(depth)) if depth[region] == d]
            for d in range(1 + max(depth[first:]))
        ]
        for d, regions in enumerate(by_layer):
            self.position |= {region: (d, k) for k, region in enumerate(regions)}
        for regions in by_layer:
            partitions = [graph.sums[region - first] for region in regions]
            self.layers.append(_layer(tuple(regions), partitions, self.position))

    def upward(self, leaf: Tensor, weights: list[Tensor]) -> list[Tensor]:
        """Messages of every layer from the root's down, then that of the root alone (B,)."""
        messages: list[Tensor] = [leaf] * len(self.layers)
        for i in reversed(range(len(self.layers))):
            inputs = self.products(i, leaf, messages)
            top = inputs.detach().amax(-1, keepdim=True).clamp_min(torch.finfo(inputs.dtype).min)
            messages[i] = log((inputs - top).exp() @ weights[i].mT) + top
        return [*messages, messages[0][0, :, 0]]

    def products(self, index: int, leaf: Tensor, messages: list[Tensor]) -> Tensor:
        """Logarithms of the products under each region of a layer: (regions, B, P H)."""
        layer, (_, batch, states) = self.layers[index], leaf.shape
        products = layer.padding.to(leaf)[:, None, None].expand(-1, batch, states)
        for source, (factor, product) in layer.edges.items():
            factors = (leaf if source < 0 else messages[source])[factor.to(leaf.device)]
            products = products.index_add(0, product.to(leaf.device), factors)
        regions = len(layer.regions)
        return products.unflatten(0, (regions, layer.partitions)).transpose(1, 2).flatten(2)

    def draw_states(
        self, leaf: Tensor, messages: list[Tensor], weights: list[Tensor], generator: Generators
    ) -> Tensor:
        """Joint draws of the leaves' states, from the root down: (leaves, B).

        States are counted from 1; 0 marks a leaf that takes no part in the draw.
        """
        device, (leaves, batch, states) = leaf.device, leaf.shape
        counts = {i: len(layer.regions) for i, layer in enumerate(self.layers)} | {-1: leaves}
        state = {
            i: torch.zeros(count, batch, dtype=torch.long, device=device)
            for i, count in counts.items()
        }
        state[0] += 1
        for i, layer in enumerate(self.layers):
            regions = torch.arange(len(layer.regions), device=device)[:, None]
            prior = weights[i][regions, (state[i] - 1).clamp_min(0)].log()
            chosen = draw_categorical(prior + self.products(i, leaf, messages), generator)
            for source, (factor, product) in layer.edges.items():
                factor, product = factor.to(device), product.to(device)
                region, partition = product // layer.partitions, product % layer.partitions
                taken = (state[i][region] > 0) & (chosen[region] // states == partition[:, None])
                drawn = torch.where(taken, chosen[region] % states + 1, 0)
                state[source] = state[source].index_add(0, factor, drawn)
        return state[-1]

    def by_variable(self, values: Tensor) -> Tensor:
        """Sum over the leaves of each variable: (leaves, B, K) -> (B, n, K)."""
        total = values.new_zeros(self.size, *values.shape[1:])
        return total.index_add(0, self.variables.to(values.device), values).transpose(0, 1)


def log(s: Tensor) -> Tensor:
    """log s, with -inf and a slope of zero at zero."""
    zero = s == 0
    return torch.where(zero, torch.ones_like(s), s).log().masked_fill(zero, -torch.inf)


def draw_categorical(logits: Tensor, generator: Generators) -> Tensor:
    """Draws by inversion along the last dimension: (R, B, K) -> (R, B).

    Args:
        generator: one stream for each row of the batch, or for equally many successive rows.
    """
    cumulative = torch.softmax(logits, -1).nan_to_num().cumsum(-1)
    rows = logits[..., 0].T.unflatten(0, (len(generator), -1)).contiguous()
    u = generator.rand_like(rows).flatten(0, 1).T * cumulative[..., -1]
    drawn = torch.searchsorted(cumulative, u[..., None].contiguous(), right=True)[..., 0]
    return drawn.clamp_max(logits.shape[-1] - 1)


def _depths(graph: RegionGraph) -> list[int]:
    """Longest distance of every region from the root."""
    leaves, total = len(graph.variables), len(graph.variables) + len(graph.sums)
    depth, reached = [0] * total, {total - 1}
    for region in reversed(range(leaves, total)):
        for factor in (f for partition in graph.sums[region - leaves] for f in partition):
            depth[factor] = max(depth[factor], depth[region] + 1)
            reached.add(factor)
    if len(reached) != total:
        raise InputError(f"circuit: region {min(set(range(total)) - reached)} is in no partition")
    return depth


def _layer(
    regions: tuple[int, ...],
    partitions: list[tuple[tuple[int, ...], ...]],
    position: dict[int, tuple[int, int]],
) -> Layer:
    """The layer of these regions, given the partitions of each."""
    largest = max(map(len, partitions))
    padding = torch.full((len(regions) * largest,), -torch.inf)
    pairs: dict[int, list[tuple[int, int]]] = {}
    for k, region in enumerate(partitions):
        for product, partition in enumerate(region, start=k * largest):
            padding[product] = 0
            for factor in partition:
                source, index = position[factor]
                pairs.setdefault(source, []).append((index, product))
    edges = {
        source: (torch.tensor([f for f, _ in found]), torch.tensor([p for _, p in found]))
        for source, found in pairs.items()
    }
    return Layer(regions, largest, edges, padding)
