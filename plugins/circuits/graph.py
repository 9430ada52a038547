"""Which regions a circuit has: trees of latent variables, and rectangles of pixels halved down to single ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inverse.errors import InputError

Region = tuple[tuple[int, ...], ...]
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class RegionGraph:
    """Which regions a circuit has.

    Args:
        variables: of each leaf region; their numbers are 0, 1, ...
        sums: every other region, numbered on from the leaves, as its partitions, each a tuple of regions with smaller numbers; the
            last is the root.

    Raises: InputError if a partition overlaps (not decomposable), partitions differ in scope (not smooth) or the root misses a variable.
    """

    variables: tuple[int, ...]
    sums: tuple[Region, ...]

    def __post_init__(self) -> None:
        scopes = [frozenset([v]) for v in self.variables]
        for region in self.sums:
            number = len(scopes)
            parts = [
                [scopes[c] if 0 <= c < number else frozenset[int]() for c in partition]
                for partition in region
            ]
            covered = {frozenset[int]().union(*part) for part in parts}
            if not region or not all(all(part) and part for part in parts):
                raise InputError(
                    f"circuit: region {number} needs partitions into regions with smaller numbers, got {region}"
                )
            if any(sum(map(len, part)) != len(frozenset[int]().union(*part)) for part in parts):
                raise InputError(
                    f"circuit: a partition of region {number} overlaps; a circuit must be decomposable"
                )
            if len(covered) != 1:
                raise InputError(
                    f"circuit: the partitions of region {number} cover different variables; a circuit must be smooth"
                )
            scopes.append(covered.pop())
        if not self.sums or scopes[-1] != frozenset(range(self.size)):
            raise InputError("circuit: the last region must cover every variable, counted from 0")

    @property
    def size(self) -> int:
        """Number of variables."""
        return max(self.variables) + 1

    @classmethod
    def tree(cls, parents: Sequence[int]) -> RegionGraph:
        """A latent variable for every variable, in a tree: the latent of i hangs on that of parents[i], -1 at the root (HCLT, HMM).

        Liu, Van den Broeck, Tractable Regularization of Probabilistic Circuits, NeurIPS 2021, https://arxiv.org/abs/2106.02264.
        """
        children: dict[int, list[int]] = {}
        for i, parent in enumerate(parents):
            children.setdefault(parent, []).append(i)
        order = list(children[-1])
        for i in order:
            order += children.get(i, [])
        if len(order) != len(parents) or len(children[-1]) != 1:
            raise InputError(
                f"circuit: parents must form one tree with one root (-1), got {list(parents)}"
            )
        number = {i: len(parents) + k for k, i in enumerate(reversed(order))}
        return cls(
            tuple(range(len(parents))),
            tuple(((i, *(number[c] for c in children.get(i, []))),) for i in reversed(order)),
        )

    @classmethod
    def quad_split(cls, height: int, width: int) -> RegionGraph:
        """Rectangles of pixels, halved in both directions down to single ones; every product has up to four factors."""
        pending = [(0, height, 0, width)]
        splits: dict[Box, list[Box]] = {}
        for box in pending:
            rows, columns = _halves(box[0], box[1]), _halves(box[2], box[3])
            splits[box] = [(*r, *c) for r in rows for c in columns]
            pending += [part for part in splits[box] if _area(part) > 1]
        number = {(i, i + 1, j, j + 1): i * width + j for i in range(height) for j in range(width)}
        number |= (
            {box: height * width + k for k, box in enumerate(reversed(pending))}
            if height * width > 1
            else {}
        )
        sums = (
            [(tuple(number[part] for part in splits[box]),) for box in reversed(pending)]
            if height * width > 1
            else [((0,),)]
        )
        return cls(tuple(range(height * width)), tuple(sums))


def _halves(start: int, end: int) -> list[tuple[int, int]]:
    middle = (start + end) // 2
    return [(start, middle), (middle, end)] if end - start > 1 else [(start, end)]


def _area(box: Box) -> int:
    return (box[1] - box[0]) * (box[3] - box[2])
