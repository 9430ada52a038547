"""Region graphs of circuits: trees of latent variables, and rectangles halved to single pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inverse.errors import InputError

Region = tuple[tuple[int, ...], ...]
"""The partitions of a region, each a tuple of smaller regions."""
Box = tuple[int, int, int, int]
"""First and last + 1 row, first and last + 1 column of a rectangle of pixels."""


@dataclass(frozen=True)
class RegionGraph:
    """The regions of a circuit. Leaves come first, the root is last.

    Args:
        variables: variable of each leaf region, numbered from 0.
        sums: every other region as its partitions, each a tuple of regions with smaller numbers.

    Raises: InputError if a partition overlaps (not decomposable), if the partitions of a region
        cover different variables (not smooth), or if the root misses a variable.
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
                    f"circuit: region {number} needs partitions into regions with smaller numbers, "
                    f"got {region}"
                )
            if any(sum(map(len, part)) != len(frozenset[int]().union(*part)) for part in parts):
                raise InputError(
                    f"circuit: a partition of region {number} overlaps; "
                    "a circuit must be decomposable"
                )
            if len(covered) != 1:
                raise InputError(
                    f"circuit: the partitions of region {number} cover different variables; "
                    "a circuit must be smooth"
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
        """A tree with one latent variable per variable (hidden Chow-Liu tree, hidden Markov model).

        Liu, Van den Broeck, Tractable Regularization of Probabilistic Circuits, NeurIPS 2021,
        https://arxiv.org/abs/2106.02264.

        Args:
            parents: variable whose latent is the parent of the latent of i; -1 at the root.

        Raises: InputError if the parents do not form one tree.
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
        """Rectangles, halved in both directions to single pixels; up to four factors each."""
        pending = [(0, height, 0, width)]
        splits: dict[Box, list[Box]] = {}
        for box in pending:
            rows, columns = _halves(box[0], box[1]), _halves(box[2], box[3])
            splits[box] = [(*r, *c) for r in rows for c in columns]
            pending += [part for part in splits[box] if _area(part) > 1]
        pixels = height * width
        if pixels == 1:
            return cls((0,), (((0,),),))
        number = {(i, i + 1, j, j + 1): i * width + j for i in range(height) for j in range(width)}
        number |= {box: pixels + k for k, box in enumerate(reversed(pending))}
        sums = [(tuple(number[part] for part in splits[box]),) for box in reversed(pending)]
        return cls(tuple(range(pixels)), tuple(sums))


def _halves(start: int, end: int) -> list[tuple[int, int]]:
    middle = (start + end) // 2
    return [(start, middle), (middle, end)] if end - start > 1 else [(start, end)]


def _area(box: Box) -> int:
    return (box[1] - box[0]) * (box[3] - box[2])
