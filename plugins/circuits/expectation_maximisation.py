"""Expectation maximisation of circuits.

Peharz et al., Einsum Networks, ICML 2020, https://arxiv.org/abs/2004.06231 (EM by the gradient of
the log-likelihood).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from inverse.errors import OptionError
from inverse_plugins.circuits.circuit import Circuit


def expected_counts(
    circuit: Circuit, x: Tensor, known: Tensor | None = None
) -> tuple[float, list[Tensor]]:
    """Total log-likelihood (nats) of data, and the expected number of uses of each parameter.

    An expected count is p d log-likelihood / dp. The leaf table's counts (leaves, H, K) come first,
    then those of each layer.

    Args:
        x: categories (N, n).
        known: where x holds, (N, n) or (n,), boolean; by default everywhere.
    """
    with torch.enable_grad():
        theta = circuit.theta.detach().requires_grad_()
        weights = [w.detach().requires_grad_() for w in circuit.weights]
        if known is None:
            leaf = circuit.value_messages(x, theta)
        else:
            leaf, _ = circuit.leaf_messages(circuit.values(x, known), theta)
        total = circuit.layered.upward(leaf, weights)[-1].sum()
        parameters = [theta, *weights]
        gradients = torch.autograd.grad(total, parameters)
    counts = [p.detach() * g for p, g in zip(parameters, gradients, strict=True)]
    return float(total.detach()), counts


def maximise(
    circuit: Circuit, counts: list[Tensor], pseudocount: float = 0.0, step: float = 1.0
) -> None:
    """The M-step, in place: every distribution moves towards its normalised counts.

    A distribution without counts keeps its value. Gaussian leaves take one step of EM for grouped
    data (Dempster, Laird, Rubin 1977, section 4.4) with the expected moments of a normal variable
    in each bin; this does not lower the likelihood either.

    Args:
        counts: see `expected_counts`.
        pseudocount: observations spread evenly over each distribution.
        step: fraction of the way to the normalised counts.
    """

    def updated(old: Tensor, count: Tensor, exists: Tensor) -> Tensor:
        count = torch.where(exists, count + pseudocount / exists.sum(-1, keepdim=True), 0)
        total = count.sum(-1, keepdim=True)
        new = count / total.clamp_min(torch.finfo(count.dtype).tiny)
        return torch.where(total > 0, torch.lerp(old, new, step), old)

    leaf_counts, *layer_counts = counts
    if circuit.leaves == "categorical":
        table = circuit.table / circuit.table.sum(-1, keepdim=True)
        tied = torch.zeros_like(table).index_add(0, circuit.ties.to(table.device), leaf_counts)
        circuit.table.copy_(updated(table, tied, torch.ones_like(tied, dtype=torch.bool)))
    else:
        _maximise_gaussian(circuit, leaf_counts, pseudocount, step)
    for i, (old, count) in enumerate(zip(circuit.weights, layer_counts, strict=True)):
        exists = circuit.layered.layers[i].mask(circuit.states).to(old.device)
        circuit.weight(i).copy_(updated(old, count, exists.expand_as(old)))


def fit(
    circuit: Circuit,
    x: Tensor,
    epochs: int,
    *,
    batch: int | None = None,
    pseudocount: float = 0.1,
    step: tuple[float, float] = (1.0, 1.0),
    seed: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[float]:
    """Fit a circuit to data in place; yields the mean log-likelihood (nats) during each epoch.

    Each batch is scored before its M-step.

    Args:
        x: categories (N, n).
        epochs: sweeps over the data.
        batch: rows of each M-step; None for full-batch EM, which with pseudocount 0 and step 1
            never lowers the likelihood.
        pseudocount: observations spread evenly over each distribution at each M-step.
        step: fraction of the way to the batch's maximum in the first and the last epoch, geometric
            in between.
        seed: random seed for the order of the rows.
        stop: asked after each M-step; true ends the fit.

    Raises: OptionError for a value out of range; KeyboardInterrupt between two M-steps if `stop`
        says so.
    """
    valid_step = 0 < min(step) <= max(step) <= 1
    if epochs < 1 or not valid_step or pseudocount < 0 or (batch is not None and batch < 1):
        raise OptionError(
            "circuit: epochs and batch must be at least 1, steps in (0, 1], pseudocount at least "
            f"0, got {epochs}, {batch}, {step}, {pseudocount:g}"
        )
    generator = torch.Generator().manual_seed(seed)
    first, last = map(math.log, step)
    for epoch in range(epochs):
        rate = math.exp(first + (last - first) * epoch / max(epochs - 1, 1))
        order = (
            torch.arange(len(x)) if batch is None else torch.randperm(len(x), generator=generator)
        )
        total = 0.0
        for rows in order.split(batch or len(x)):
            likelihood, counts = _batch_counts(circuit, x[rows])
            maximise(circuit, counts, pseudocount, rate)
            total += likelihood
            if stop():
                raise KeyboardInterrupt
        yield total / len(x)


def quantise(images: Tensor, categories: int) -> Tensor:
    """Index of the nearest of `categories` equally spaced levels from 0 to 1.

    images: intensities of any shape, clipped to [0, 1] -> integers of the same shape.
    """
    return (images.clamp(0, 1) * (categories - 1)).round().long()


def log_likelihoods(circuit: Circuit, x: Tensor) -> Tensor:
    """log p of data x (N, n): (N,), nats."""
    with torch.no_grad():
        theta, weights = circuit.theta, circuit.weights
        return torch.cat(
            [
                circuit.layered.upward(circuit.value_messages(part, theta), weights)[-1]
                for part in x.split(_rows_at_once(circuit))
            ]
        )


def _batch_counts(circuit: Circuit, x: Tensor) -> tuple[float, list[Tensor]]:
    """`expected_counts` in parts that fit into memory."""
    first, *others = x.split(_rows_at_once(circuit))
    total, counts = expected_counts(circuit, first)
    for part in others:
        likelihood, more = expected_counts(circuit, part)
        total += likelihood
        counts = [a + b for a, b in zip(counts, more, strict=True)]
    return total, counts


def _maximise_gaussian(circuit: Circuit, counts: Tensor, pseudocount: float, step: float) -> None:
    """Moments of the latent normal variable in each bin, weighted by the counts (leaves, H, K)."""
    counts = counts + pseudocount * circuit.theta
    edges = torch.arange(circuit.categories - 1, dtype=counts.dtype, device=counts.device) + 0.5
    z = (edges - circuit.mean[..., None]) / circuit.deviation[..., None]
    infinity = torch.full_like(z[..., :1], torch.inf)
    low, high = torch.cat([-infinity, z], -1), torch.cat([z, infinity], -1)
    density = [(-0.5 * e.square()).exp() / math.sqrt(2 * math.pi) for e in (low, high)]
    mass = (torch.special.ndtr(high) - torch.special.ndtr(low)).clamp_min(1e-12)
    slope = [
        torch.where(e.isfinite(), e, torch.zeros_like(e)) * d
        for e, d in zip((low, high), density, strict=True)
    ]
    nearest = torch.where(low.abs() < high.abs(), low, high)  # carries the mass if it underflows
    resolved = mass > 1e-9
    first = torch.where(resolved, (density[0] - density[1]) / mass, nearest)
    second = torch.where(resolved, 1 + (slope[0] - slope[1]) / mass, nearest.square())
    total = counts.sum(-1)
    m1, m2 = ((counts * m).sum(-1) / total.clamp_min(1e-30) for m in (first, second))
    mean = circuit.mean + circuit.deviation * m1
    deviation = circuit.deviation * (m2 - m1.square()).clamp_min(1e-6).sqrt()

    def updated(old: Tensor, new: Tensor) -> Tensor:
        return torch.where(total > 0, torch.lerp(old, new, step), old)

    circuit.mean.copy_(updated(circuit.mean, mean))
    circuit.deviation.copy_(updated(circuit.deviation, deviation).clamp_min(0.05))


def _rows_at_once(circuit: Circuit) -> int:
    """Rows whose messages take about 64 MB."""
    return max(16, 16_000_000 // (circuit.graph.size * max(circuit.states, circuit.categories)))
