"""Latent-variable distillation: the states of a circuit start at clusters of features.

Liu, Zhang, Van den Broeck, Scaling Up Probabilistic Circuits by Latent Variable Distillation, ICLR
2023, https://arxiv.org/abs/2210.04398. Departure: features of an autoencoder replace those of a
masked language model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inverse.seeding import seeded
from inverse_plugins.circuits.circuit import Circuit
from inverse_plugins.circuits.hidden_chow_liu import normalised_rows, pair_counts


def distil(
    circuit: Circuit, x: Tensor, features: Tensor, pseudocount: float = 0.1, seed: int = 0
) -> Circuit:
    """Initialise a circuit whose regions form a tree, in place, at clusters of features.

    The state of a region is the cluster of the features below it.

    Args:
        circuit: categorical leaves, one partition for each region.
        x: data (N, n).
        features: features of every variable (N, n, d); a region is described by their means over
            each of its factors.
        pseudocount: observations spread evenly over every table.
        seed: random seed for the clusters.
    """
    graph, leaves = circuit.graph, len(circuit.graph.variables)
    states = _region_states(circuit, features, seed)
    parent = {c: s for s, (factors,) in enumerate(graph.sums) for c in factors}
    table = torch.zeros_like(circuit.table)
    for leaf, variable in enumerate(graph.variables):
        table[circuit.ties[leaf]] += pair_counts(
            states[parent[leaf]], x[:, variable], circuit.states, circuit.categories
        )
    circuit.table.copy_(normalised_rows(table + pseudocount / circuit.categories))
    for s in range(len(graph.sums)):
        region = leaves + s
        root = region not in parent
        above = torch.zeros_like(states[0]) if root else states[parent[region]]
        counts = pair_counts(above, states[s], 1 if root else circuit.states, circuit.states)
        layer, index = circuit.layered.position[region]
        circuit.weight(layer)[index] = normalised_rows(counts + pseudocount / circuit.states)
    return circuit


def k_means(
    x: Tensor,
    count: int,
    generator: torch.Generator,
    iterations: int = 10,
    largest: int = 20_000,
) -> Tensor:
    """Centres (count, d) of clusters of at most `largest` random rows of x (N, d).

    Clusters start at random rows; a cluster that loses all its rows starts at another one.
    """
    x = x[torch.randperm(len(x), generator=generator)[:largest]]
    centres = x[torch.randint(len(x), (count,), generator=generator)]
    for _ in range(iterations):
        nearest = torch.cdist(x, centres).argmin(1)
        size = torch.bincount(nearest, minlength=count)
        means = torch.zeros_like(centres).index_add_(0, nearest, x) / size.clamp_min(1)[:, None]
        others = x[torch.randint(len(x), (count,), generator=generator)]
        centres = torch.where(size[:, None] > 0, means, others)
    return centres


def _region_states(circuit: Circuit, features: Tensor, seed: int) -> Tensor:
    """State of every sum region in every sample: (regions, N). Tied regions share clusters."""
    generator, leaves = seeded(seed, "distil"), len(circuit.graph.variables)
    scopes = [[v] for v in circuit.graph.variables]
    descriptions: list[Tensor] = []
    tied: dict[tuple[int, ...], list[int]] = {}  # regions above the same tables
    for s, (factors,) in enumerate(circuit.graph.sums):
        means = [features[:, scopes[c]].float().mean(1) for c in factors]
        descriptions.append(torch.cat(means, 1))
        scopes.append([v for c in factors for v in scopes[c]])
        tables = tuple(int(circuit.ties[c]) if c < leaves else -1 - s for c in factors)
        tied.setdefault(tables, []).append(s)
    states = torch.empty(len(circuit.graph.sums), len(features), dtype=torch.long)
    for members in tied.values():
        together = torch.cat([descriptions[s] for s in members])
        centres = k_means(together, circuit.states, generator)
        for s in members:
            states[s] = torch.cdist(descriptions[s], centres).argmin(1)
    return states
