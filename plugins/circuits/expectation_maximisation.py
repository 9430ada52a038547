"""Circuits from data by expectation maximisation.

Peharz et al., Einsum Networks, ICML 2020, https://arxiv.org/abs/2004.06231 (EM by the gradient of the log-likelihood).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from inverse.errors import OptionError
from inverse_plugins.circuits.circuit import Circuit


def expected_counts(
    circuit: Circuit, x: Tensor, known: Tensor | None = None
) -> tuple[float, list[Tensor]]:
    """Total log-likelihood of data x (N, n), and how often each parameter is used: the leaf table's counts (leaves, H, K), then each level's.

    An expected count is p d log-likelihood / dp.
    """
    with torch.enable_grad():
        theta = circuit.theta.detach().requires_grad_()
        weights = [w.detach().requires_grad_() for w in circuit.weights]
        leaf = (
            circuit._observed(x, theta)
            if known is None
            else circuit._leaves(circuit.values(x, known), theta)[0]
        )
        total = circuit._upward(leaf, weights)[-1].sum()
        gradients = torch.autograd.grad(total, [theta, *weights])
    return float(total.detach()), [
        p.detach() * g for p, g in zip([theta, *weights], gradients, strict=True)
    ]


def maximise(
    circuit: Circuit, counts: list[Tensor], pseudocount: float = 0.0, step: float = 1.0
) -> None:
    """The M-step: every distribution becomes its normalised counts, or moves towards them by the fraction `step`, in place.

    A distribution that nothing used stays. Gaussian leaves take one step of EM for grouped data (Dempster, Laird, Rubin 1977, 4.4): the
    moments of a normal variable within each bin are expected ones; that never lowers the likelihood either.
    """

    def moved(old: Tensor, count: Tensor, among: Tensor) -> Tensor:
        count = torch.where(among, count + pseudocount / among.sum(-1, keepdim=True), 0)
        total = count.sum(-1, keepdim=True)
        new = count / total.clamp_min(torch.finfo(count.dtype).tiny)
        return torch.where(total > 0, torch.lerp(old, new, step), old)

    theta, *weights = counts
    if circuit.leaves == "categorical":
        table = circuit.table / circuit.table.sum(-1, keepdim=True)
        theta = torch.zeros_like(table).index_add(0, circuit.ties.to(theta.device), theta)
        circuit.table.copy_(moved(table, theta, torch.ones_like(theta, dtype=torch.bool)))
    else:
        _maximise_gaussian(circuit, theta, pseudocount, step)
    for i, (old, count) in enumerate(zip(circuit.weights, weights, strict=True)):
        level = circuit._plan[i]
        real = (
            level.padding.isfinite()
            .reshape(len(level.regions), 1, -1, 1)
            .expand(-1, 1, -1, circuit.states)
            .flatten(2)
        )
        getattr(circuit, f"weight_{i}").copy_(moved(old, count, real.to(old.device).expand_as(old)))


def fit(
    circuit: Circuit,
    x: Tensor,
    epochs: int,
    *,
    batch: int | None = None,
    pseudocount: float = 0.1,
    step: tuple[float, float] = (1.0, 1.0),
    seed: int = 0,
) -> Iterator[float]:
    """Expectation maximisation on data x (N, n) in place; yields the mean log-likelihood (nats) under each epoch's parameters as they were.

    Args:
        batch: rows per M-step; None for full-batch EM, which with pseudocount 0 and step 1 never lowers the likelihood.
        pseudocount: observations spread evenly over each distribution at each M-step.
        step: fraction of the way to the batch's maximum, from the first epoch to the last, geometrically.
    """
    if (
        epochs < 1
        or not 0 < min(step) <= max(step) <= 1
        or pseudocount < 0
        or (batch is not None and batch < 1)
    ):
        got = f"{epochs}, {batch}, {step}, {pseudocount:g}"
        raise OptionError(
            f"circuit: epochs and batch must be at least 1, steps in (0, 1], pseudocount at least 0, got {got}"
        )
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        rate = math.exp(
            math.log(step[0]) + (math.log(step[1]) - math.log(step[0])) * epoch / max(epochs - 1, 1)
        )
        order = (
            torch.arange(len(x)) if batch is None else torch.randperm(len(x), generator=generator)
        )
        total = 0.0
        for rows in order.split(batch or len(x)):
            likelihood, counts = 0.0, None
            for part in x[rows].split(_rows_at_once(circuit)):
                nats, more = expected_counts(circuit, part)
                likelihood += nats
                counts = (
                    more if counts is None else [a + b for a, b in zip(counts, more, strict=True)]
                )
            assert counts is not None
            maximise(circuit, counts, pseudocount, rate)
            total += likelihood
        yield total / len(x)


def quantise(images: Tensor, categories: int) -> Tensor:
    """Intensities in [0, 1] to the nearest of `categories` equally spaced levels, 0 and 1 among them."""
    return (images.clamp(0, 1) * (categories - 1)).round().long()


def log_likelihoods(circuit: Circuit, x: Tensor) -> Tensor:
    """log p of data x (N, n): (N,), nats."""
    with torch.no_grad():
        parts = x.split(_rows_at_once(circuit))
        return torch.cat(
            [
                circuit._upward(circuit._observed(part, circuit.theta), circuit.weights)[-1]
                for part in parts
            ]
        )


def _maximise_gaussian(circuit: Circuit, counts: Tensor, pseudocount: float, step: float) -> None:
    """Moments of the latent normal in each bin, weighted by the counts (leaves, H, K)."""
    counts = counts + pseudocount * circuit.theta
    edges = torch.arange(circuit.categories - 1, dtype=counts.dtype, device=counts.device) + 0.5
    z = (edges - circuit.mean[..., None]) / circuit.deviation[..., None]
    far = torch.full_like(z[..., :1], torch.inf)
    low, high = torch.cat([-far, z], -1), torch.cat([z, far], -1)
    density = [(-0.5 * e.square()).exp() / math.sqrt(2 * math.pi) for e in (low, high)]
    mass = (torch.special.ndtr(high) - torch.special.ndtr(low)).clamp_min(1e-12)
    slope = [
        torch.where(e.isfinite(), e, torch.zeros_like(e)) * d
        for e, d in zip((low, high), density, strict=True)
    ]
    nearest = torch.where(
        low.abs() < high.abs(), low, high
    )  # where the mass underflows, all of it lies at the nearer edge
    inside = mass > 1e-9
    first = torch.where(inside, (density[0] - density[1]) / mass, nearest)
    second = torch.where(inside, 1 + (slope[0] - slope[1]) / mass, nearest.square())
    total = counts.sum(-1)
    m1, m2 = ((counts * m).sum(-1) / total.clamp_min(1e-30) for m in (first, second))
    mean = circuit.mean + circuit.deviation * m1
    deviation = circuit.deviation * (m2 - m1.square()).clamp_min(1e-6).sqrt()
    used = total > 0
    circuit.mean.copy_(torch.where(used, torch.lerp(circuit.mean, mean, step), circuit.mean))
    circuit.deviation.copy_(
        torch.where(
            used, torch.lerp(circuit.deviation, deviation, step), circuit.deviation
        ).clamp_min(0.05)
    )


def _rows_at_once(circuit: Circuit) -> int:
    """Rows whose messages take about 64 MB."""
    return max(16, 16_000_000 // (circuit.graph.size * max(circuit.states, circuit.categories)))
