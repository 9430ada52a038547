"""Choice of a start by successive halving over candidates and images, and its refinement.

Karnin, Koren, Somekh, Almost Optimal Exploration in Multi-Armed Bandits, ICML 2013.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from inverse.seeding import seeded


def rounds(candidates: int, references: int) -> list[tuple[int, int]]:
    """(candidates, images) of each round: each halves the candidates and doubles the images.

    The first round has two or three images, the last has all.
    """
    count = max(1, references.bit_length() - 1)
    return [(max(1, candidates >> r), -(-references >> (count - 1 - r))) for r in range(count)]


def tail_mean(losses: Tensor, tail: float) -> Tensor:
    """Conditional value at risk: mean loss of the worst fraction `tail` of the images.

    losses: (..., R) -> (...); a tail of 1 is the plain mean.
    """
    count = math.ceil(tail * losses.shape[-1])
    return losses.sort(-1, descending=True).values[..., :count].mean(-1)


def halving(
    explore: Callable[[list[int], int], Tensor], candidates: int, references: int, tail: float = 1.0
) -> tuple[int, Tensor]:
    """Best candidate among those explored on all images, and the losses (K, R), NaN elsewhere.

    Candidate 0 is never dropped, so the choice is at least as good on the reference set as the
    first draw.

    Args:
        explore: (candidates, images) -> losses so far (K, R), filled at least for these
            candidates on the first `images` references.
        candidates: K.
        references: R.
        tail: see `tail_mean`.
    """
    alive, plan = list(range(candidates)), rounds(candidates, references)
    for (_, images), (keep, _) in zip(plan, [*plan[1:], (1, 0)], strict=True):
        losses = explore(alive, images)
        ranked = sorted(alive, key=lambda k: (float(tail_mean(losses[k, :images], tail)), k))
        alive = sorted({0, *ranked[:keep]})
    return ranked[0], losses


def with_new_block(x: Tensor, seed: int, index: int, block: int) -> Tensor:
    """x (C, H, W) with one block x block patch drawn anew and scaled to its previous norm.

    Index 0, 1, ... visits the patches in reading order, again and again. The norm of x stays.
    """
    down, right = (math.ceil(n / block) for n in x.shape[-2:])
    row, column = divmod(index % (down * right), right)
    rows = slice(row * block, (row + 1) * block)
    columns = slice(column * block, (column + 1) * block)
    fresh = torch.randn(x.shape, generator=seeded(seed, "refine", index))[..., rows, columns]
    changed = x.clone()
    changed[..., rows, columns] = fresh * (x[..., rows, columns].norm() / fresh.norm())
    return changed
