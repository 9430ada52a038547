"""The search for a start: successive halving over candidates and images, moves of one block, and what a choice can be expected to gain.

Karnin, Koren, Somekh, Almost Optimal Exploration in Multi-Armed Bandits, ICML 2013; see `inverse_plugins.optimal_bc.table`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from inverse.seeding import seeded


def rungs(candidates: int, references: int) -> list[tuple[int, int]]:
    """(candidates, images) of each round of successive halving: twice the images for half the candidates, from two images to all."""
    count = max(1, references.bit_length() - 1)
    return [(max(1, candidates >> r), -(-references >> (count - 1 - r))) for r in range(count)]


def tail_mean(losses: Tensor, tail: float) -> Tensor:
    """Conditional value at risk: the mean of the worst fraction `tail` of the images, of all of them for 1; (..., R) -> (...)."""
    return (
        losses.sort(-1, descending=True).values[..., : math.ceil(tail * losses.shape[-1])].mean(-1)
    )


def halving(
    explore: Callable[[list[int], int], Tensor], candidates: int, references: int, tail: float = 1.0
) -> tuple[int, Tensor]:
    """The candidate of least loss among those explored on all images, and the losses (K, R), NaN where not explored.

    Candidate 0 is never dropped: what is chosen is at least as good on the reference set as taking the first draw.

    Args:
        explore: (candidates, images) -> the losses so far (K, R), filled at least for these candidates on the first `images` references.
    """
    alive, rounds = list(range(candidates)), rungs(candidates, references)
    for (_, images), (keep, _) in zip(rounds, [*rounds[1:], (1, 0)], strict=True):
        losses = explore(alive, images)
        ranked = sorted(alive, key=lambda k: (float(tail_mean(losses[k, :images], tail)), k))
        alive = sorted({0, *ranked[:keep]})
    return ranked[0], losses


def moved(x: Tensor, seed: int, index: int, block: int) -> Tensor:
    """x with one block x block patch, the next in reading order, drawn anew and scaled to the norm it had: x stays on its shell."""
    down, right = (math.ceil(n / block) for n in x.shape[-2:])
    row, column = divmod(index % (down * right), right)
    patch = (
        ...,
        slice(row * block, (row + 1) * block),
        slice(column * block, (column + 1) * block),
    )
    fresh, changed = torch.randn(x.shape, generator=seeded(seed, "refine", index))[patch], x.clone()
    changed[patch] = fresh * (x[patch].norm() / fresh.norm())
    return changed


@dataclass(frozen=True)
class Variances:
    """Two-way analysis of variance of losses (K, R) without replication: loss = mean + candidate + image + rest.

    Args:
        between: standard deviation between candidates, estimated without bias before the root (0 where that is negative).
        within: standard deviation of the rest.
        images: standard deviation between images, which no choice of a start changes.
    """

    between: float
    within: float
    images: float

    def gain(self, candidates: int, references: int) -> float:
        """Expected gain on new images of the best of K candidates on R references over a random one: E[max of K normals] b^2 / sqrt(b^2 + w^2 / R)."""
        spread = math.hypot(self.between, self.within / math.sqrt(references))
        return expected_maximum(candidates) * self.between**2 / spread if spread > 0 else 0.0


def anova(losses: Tensor) -> Variances:
    """Of complete losses (K, R), K and R at least 2."""
    losses = losses.double()
    k, r = losses.shape
    rows, columns = losses.mean(1), losses.mean(0)
    rest = (losses - rows[:, None] - columns + losses.mean()).square().sum() / ((k - 1) * (r - 1))
    between, images = (rows.var() - rest / r).clamp_min(0), (columns.var() - rest / k).clamp_min(0)
    return Variances(float(between.sqrt()), float(rest.sqrt()), float(images.sqrt()))


def expected_maximum(count: int) -> float:
    """E[max of `count` standard normals], the integral over x > 0 of 1 - F(x)^n - F(-x)^n."""
    x = torch.linspace(0, 12, 12001, dtype=torch.float64)
    return float(
        torch.trapezoid(1 - torch.special.ndtr(x) ** count - torch.special.ndtr(-x) ** count, x)
    )
