"""Hidden Chow-Liu trees (HCLT): circuits that start at the best tree of pairwise dependences.

Chow, Liu, Approximating Discrete Probability Distributions with Dependence Trees, IEEE Trans. Inf.
Theory 1968; Liu, Van den Broeck, Tractable Regularization of Probabilistic Circuits, NeurIPS 2021,
https://arxiv.org/abs/2106.02264 (HCLT).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inverse.errors import InputError
from inverse_plugins.circuits.circuit import Circuit
from inverse_plugins.circuits.graph import RegionGraph


def mutual_information(x: Tensor, categories: int, pseudocount: float = 0.0) -> Tensor:
    """Mutual information of every pair of variables: (n, n), nats.

    Args:
        x: categories (N, n).
        categories: K.
        pseudocount: observations spread evenly over each joint table.
    """
    joint = _all_pair_counts(x, categories) + pseudocount / categories**2
    joint = joint / joint.sum((1, 3), keepdim=True)
    first, second = joint.sum(3, keepdim=True), joint.sum(1, keepdim=True)
    return torch.special.xlogy(joint, joint / (first * second).clamp_min(1e-300)).sum((1, 3))


def chow_liu_tree(information: Tensor) -> list[int]:
    """Parent of each variable in the spanning tree with the largest sum of information (n, n).

    The tree is rooted at its centre, whose parent is -1.

    Raises: InputError if the tree does not reach every variable.
    """
    n = len(information)
    best, nearest = information[0].clone(), torch.zeros(n, dtype=torch.long)
    inside = torch.zeros(n, dtype=torch.bool)
    inside[0] = True
    neighbours: list[list[int]] = [[] for _ in range(n)]
    for _ in range(n - 1):  # Prim's algorithm
        new = int(best.masked_fill(inside, -torch.inf).argmax())
        old = int(nearest[new])
        neighbours[new].append(old)
        neighbours[old].append(new)
        inside[new] = True
        closer = information[new] > best
        best = torch.where(closer, information[new], best)
        nearest = torch.where(closer, new, nearest)
    end = _walk(neighbours, 0)[0][-1]
    order, parents = _walk(neighbours, end)
    path = [order[-1]]  # the longest path of the tree
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
    """A hidden Chow-Liu tree of data, initialised at the Chow-Liu tree.

    Each latent state stands for one category, or for several. With at least as many states as
    categories and no noise, the circuit has exactly the likelihood of the Chow-Liu tree.

    Args:
        x: categories (N, n).
        categories: K.
        states: number H of states of each latent variable.
        noise: relative size of the random change of every count, which separates states of the same
            category; also the share of a state's leaf that is spread over all categories.
        pseudocount: observations spread evenly over every table.
        seed: random seed for the noise.
        options: further arguments of `Circuit`.
    """
    generator = torch.Generator().manual_seed(seed)
    some = x[torch.randperm(len(x), generator=generator)[:20_000]]
    parents = chow_liu_tree(mutual_information(some, categories, pseudocount))
    circuit = Circuit(RegionGraph.tree(parents), states, categories, **options)
    share = _shares(categories, states)
    leaves = len(parents)
    latent = {circuit.graph.sums[s][0][0]: leaves + s for s in range(leaves)}  # by variable

    def perturbed(counts: Tensor) -> Tensor:
        uniform = torch.rand(counts.shape, generator=generator, dtype=counts.dtype)
        return counts * (1 + noise * uniform)

    for i in range(leaves):
        counts = torch.bincount(x[:, i], minlength=categories).double() + pseudocount / categories
        layer, index = circuit.layered.position[latent[i]]
        weight = circuit.weight(layer)
        if parents[i] < 0:
            weight[index, 0] = perturbed(counts @ share)
        else:
            pairs = pair_counts(x[:, parents[i]], x[:, i], categories, categories).double()
            pairs = pairs + pseudocount / categories**2
            weight[index] = normalised_rows(perturbed(share.T @ pairs @ share))
        if circuit.leaves == "gaussian":
            centre, size = torch.arange(categories, dtype=torch.float64), counts[:, None] * share
            jitter = noise * (torch.rand(states, generator=generator) - 0.5)
            circuit.mean[i] = normalised_rows(size.T) @ centre + jitter
            circuit.deviation[i] = max(categories / states / 2, 0.5)
        else:
            own = normalised_rows(perturbed((counts[:, None] * share).T))
            spread = normalised_rows(counts.expand(states, -1))
            circuit.table[i] = (1 - noise) * own + noise * spread if noise else own
    return circuit


def pair_counts(rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
    """How often each pair of integers (rows, columns), (N,) each, occurs: (height, width)."""
    counts = torch.bincount(rows * width + columns, minlength=height * width)
    return counts.reshape(height, width).float()


def normalised_rows(counts: Tensor) -> Tensor:
    """Rows that sum to 1; an empty row becomes uniform."""
    total = counts.sum(-1, keepdim=True)
    return torch.where(total > 0, counts / total.clamp_min(1e-300), 1 / counts.shape[-1])


def _shares(categories: int, states: int) -> Tensor:
    """Share of each category among the states that stand for it: (K, H), rows of sum 1."""
    k = torch.arange(max(states, categories))
    member = torch.zeros(categories, states, dtype=torch.float64)
    member[k * categories // len(k), k * states // len(k)] = 1
    return member / member.sum(1, keepdim=True)


def _all_pair_counts(x: Tensor, categories: int) -> Tensor:
    """Joint counts of all pairs of variables: (n, K, n, K), float64."""
    n = x.shape[1]
    total = torch.zeros(n * categories, n * categories)
    for part in x.split(2000):
        one_hot = torch.nn.functional.one_hot(part, categories).float().flatten(1)
        total += one_hot.T @ one_hot
    return total.double().reshape(n, categories, n, categories)


def _walk(neighbours: list[list[int]], root: int) -> tuple[list[int], list[int]]:
    """Breadth-first order of the nodes, and each node's parent (-1 at the root)."""
    parents, order = {root: -1}, [root]
    for node in order:
        for other in neighbours[node]:
            if other not in parents:
                parents[other] = node
                order.append(other)
    if len(order) != len(neighbours):
        raise InputError(f"circuit: the tree reaches {len(order)} of {len(neighbours)} variables")
    return order, [parents[i] for i in range(len(neighbours))]
