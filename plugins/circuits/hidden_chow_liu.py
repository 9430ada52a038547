"""Circuits as training begins: hidden Chow-Liu trees (HCLT), and regions that stand for clusters of features.

Chow, Liu, Approximating Discrete Probability Distributions with Dependence Trees, IEEE Trans. Inf. Theory 1968;
Liu, Van den Broeck, Tractable Regularization of Probabilistic Circuits, NeurIPS 2021, https://arxiv.org/abs/2106.02264 (HCLT).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inverse.errors import InputError
from inverse.seeding import seeded
from inverse_plugins.circuits.circuit import Circuit
from inverse_plugins.circuits.graph import RegionGraph


def mutual_information(x: Tensor, categories: int, pseudocount: float = 0.0) -> Tensor:
    """Of every pair of variables in data x (N, n): (n, n), nats; `pseudocount` observations are spread evenly over each joint table."""
    joint = _pair_counts(x, categories) + pseudocount / categories**2
    joint = joint / joint.sum((1, 3), keepdim=True)
    one, other = joint.sum(3, keepdim=True), joint.sum(1, keepdim=True)
    return torch.special.xlogy(joint, joint / (one * other).clamp_min(1e-300)).sum((1, 3))


def chow_liu_tree(information: Tensor) -> list[int]:
    """The spanning tree of most mutual information (n, n), as each variable's parent, rooted at the tree's centre (-1)."""
    n = len(information)
    best, towards, inside = (
        information[0].clone(),
        torch.zeros(n, dtype=torch.long),
        torch.zeros(n, dtype=torch.bool),
    )
    inside[0] = True
    neighbours: list[list[int]] = [[] for _ in range(n)]
    for _ in range(n - 1):  # Prim
        new = int(best.masked_fill(inside, -torch.inf).argmax())
        neighbours[new].append(int(towards[new]))
        neighbours[int(towards[new])].append(new)
        inside[new] = True
        closer = information[new] > best
        best, towards = (
            torch.where(closer, information[new], best),
            torch.where(closer, new, towards),
        )
    end = _walk(neighbours, 0)[0][-1]
    order, parents = _walk(neighbours, end)
    path = [order[-1]]
    while parents[path[-1]] >= 0:
        path.append(parents[path[-1]])
    return _walk(neighbours, path[len(path) // 2])[1]


def hclt(
    x: Tensor,
    categories: int,
    states: int,
    *,
    noise: float = 0.3,
    pseudocount: float = 0.1,
    seed: int = 0,
    **options: Any,
) -> Circuit:
    """A hidden Chow-Liu tree of data x (N, n), started at the Chow-Liu tree itself: each latent state stands for one category (or several).

    Args:
        states: H of every latent; with H >= categories and no noise the start has exactly the likelihood of the Chow-Liu tree.
        noise: relative size of the random change of every count, without which states of one category would stay equal for ever; and
            the share of a state's leaf that is spread over all categories.
        pseudocount: observations spread evenly over every table.
        options: of `Circuit`.
    """
    generator = torch.Generator().manual_seed(seed)
    parents = chow_liu_tree(
        mutual_information(
            x[torch.randperm(len(x), generator=generator)[:20_000]], categories, pseudocount
        )
    )
    circuit = Circuit(RegionGraph.tree(parents), states, categories, **options)
    k = torch.arange(max(states, categories))
    member = torch.zeros(categories, states, dtype=torch.float64)
    member[k * categories // len(k), k * states // len(k)] = 1
    share = member / member.sum(1, keepdim=True)  # of a category among its states
    leaves, children = (
        len(parents),
        {circuit.graph.sums[s][0][0]: len(parents) + s for s in range(len(parents))},
    )
    place = {
        r: (d, i) for d, level in enumerate(circuit._plan) for i, r in enumerate(level.regions)
    }

    def perturbed(counts: Tensor) -> Tensor:
        return counts * (
            1 + noise * torch.rand(counts.shape, generator=generator, dtype=counts.dtype)
        )

    for i in range(leaves):
        counts = torch.bincount(x[:, i], minlength=categories).double() + pseudocount / categories
        depth, index = place[children[i]]
        weight = getattr(circuit, f"weight_{depth}")
        if parents[i] < 0:
            weight[index, 0] = perturbed(counts @ share)
        else:
            pairs = (
                torch.bincount(x[:, parents[i]] * categories + x[:, i], minlength=categories**2)
                .reshape(categories, categories)
                .double()
            )
            pairs = pairs + pseudocount / categories**2
            weight[index] = _rows(perturbed(share.T @ pairs @ share))
        if circuit.leaves == "gaussian":
            centre, size = torch.arange(categories, dtype=torch.float64), counts[:, None] * share
            circuit.mean[i] = _rows(size.T) @ centre + noise * (
                torch.rand(states, generator=generator) - 0.5
            )
            circuit.deviation[i] = max(categories / states / 2, 0.5)
        else:
            own = _rows(perturbed((counts[:, None] * share).T))
            circuit.table[i] = (
                (1 - noise) * own + noise * _rows(counts.expand(states, -1)) if noise else own
            )
    return circuit


def distil(
    circuit: Circuit, x: Tensor, features: Tensor, pseudocount: float = 0.1, seed: int = 0
) -> Circuit:
    """Start a circuit whose regions form a tree, in place, at clusters of features: the state of a region is the cluster of what lies under it.

    Latent-variable distillation: Liu, Zhang, Van den Broeck, Scaling Up Probabilistic Circuits by Latent Variable Distillation, ICLR 2023,
    https://arxiv.org/abs/2210.04398; features of an autoencoder stand here where a masked language model's do there.

    Args:
        x: data (N, n).
        features: of every variable, (N, n, d); a region is described by the means of them over each of its children.
        pseudocount: observations spread evenly over every table.
    """
    generator, leaves, scopes = (
        seeded(seed, "distil"),
        len(circuit.graph.variables),
        [[v] for v in circuit.graph.variables],
    )
    described, grouped = [], dict[tuple[int, ...], list[int]]()
    for s, (children,) in enumerate(circuit.graph.sums):
        described.append(torch.cat([features[:, scopes[c]].float().mean(1) for c in children], 1))
        scopes.append([v for c in children for v in scopes[c]])
        below = tuple(
            int(circuit.ties[c]) if c < leaves else -1 - s for c in children
        )  # regions above the same tables share their clusters
        grouped.setdefault(below, []).append(s)
    states = torch.empty(len(circuit.graph.sums), len(x), dtype=torch.long)
    for members in grouped.values():
        centres = k_means(torch.cat([described[s] for s in members]), circuit.states, generator)
        for s in members:
            states[s] = torch.cdist(described[s], centres).argmin(1)
    parent = {c: s for s, (children,) in enumerate(circuit.graph.sums) for c in children}
    table = torch.zeros_like(circuit.table)
    for c in range(leaves):
        table[circuit.ties[c]] += _table(
            states[parent[c]], x[:, circuit.graph.variables[c]], circuit.states, circuit.categories
        )
    circuit.table.copy_(_rows(table + pseudocount / circuit.categories))
    for d, level in enumerate(circuit._plan):
        for i, r in enumerate(level.regions):
            above = states[parent[r]] if r in parent else torch.zeros_like(states[0])
            counts = _table(
                above, states[r - leaves], circuit.states if r in parent else 1, circuit.states
            )
            getattr(circuit, f"weight_{d}")[i] = _rows(counts + pseudocount / circuit.states)
    return circuit


def k_means(
    x: Tensor, count: int, generator: torch.Generator, iterations: int = 10, most: int = 20_000
) -> Tensor:
    """Centres (count, d) of clusters of at most `most` rows of x (N, d), from random rows; a cluster that loses all its rows starts at another."""
    x = x[torch.randperm(len(x), generator=generator)[:most]]
    centres = x[torch.randint(len(x), (count,), generator=generator)]
    for _ in range(iterations):
        nearest = torch.cdist(x, centres).argmin(1)
        size = torch.bincount(nearest, minlength=count)
        means = torch.zeros_like(centres).index_add_(0, nearest, x) / size.clamp_min(1)[:, None]
        centres = torch.where(
            size[:, None] > 0, means, x[torch.randint(len(x), (count,), generator=generator)]
        )
    return centres


def _pair_counts(x: Tensor, categories: int) -> Tensor:
    """Joint counts of all pairs: (n, K, n, K), float64."""
    n = x.shape[1]
    total = torch.zeros(n * categories, n * categories)
    for part in x.split(2000):
        one_hot = torch.nn.functional.one_hot(part, categories).float().flatten(1)
        total += one_hot.T @ one_hot
    return total.double().reshape(n, categories, n, categories)


def _table(rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
    """How often each pair occurs: (height, width)."""
    return (
        torch.bincount(rows * width + columns, minlength=height * width)
        .reshape(height, width)
        .float()
    )


def _walk(neighbours: list[list[int]], root: int) -> tuple[list[int], list[int]]:
    """Breadth first: the order of visits, and each node's parent (-1 at the root)."""
    parents, order = {root: -1}, [root]
    for node in order:
        for other in neighbours[node]:
            if other not in parents:
                parents[other] = node
                order.append(other)
    if len(order) != len(neighbours):
        raise InputError(f"circuit: the tree reaches {len(order)} of {len(neighbours)} variables")
    return order, [parents[i] for i in range(len(neighbours))]


def _rows(counts: Tensor) -> Tensor:
    """Rows that sum to 1; an empty row becomes uniform."""
    total = counts.sum(-1, keepdim=True)
    return torch.where(total > 0, counts / total.clamp_min(1e-300), 1 / counts.shape[-1])
