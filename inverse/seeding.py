"""Random generators as arguments: named by their purpose, with a stream for each sample of a batch.

The stream of sample j of image i depends on (seed, i, j) alone. A result therefore does not depend
on the batch in which it was computed. The global generator is never used.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable, Sequence
from typing import SupportsIndex

import torch
from torch import Tensor

from inverse.errors import OptionError


def seeded(*key: SupportsIndex | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose seed is a hash of `key`: seeded(0, "noise", 3) differs from seeded(0, 3).

    Args:
        key: words and integers; numpy's and torch's integers count as Python's.

    Raises: OptionError for a negative number, or a part that is neither a word nor an integer.
    """
    parts = tuple(part if isinstance(part, str) else as_seed(part) for part in key)
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def indices(first: int | Sequence[int], count: int) -> Sequence[int]:
    """Indices of images in a larger set: `count` of them starting at `first`, or those listed."""
    if isinstance(first, Sequence):
        return first
    start = as_seed(first)
    return range(start, start + count)


def as_seed(value: SupportsIndex) -> int:
    """A Python integer, from one of Python, numpy or torch.

    Raises: OptionError for anything else, or a negative number.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        seed = operator.index(value)
    except TypeError:
        raise OptionError(f"seed must be an integer, got {value!r}") from None
    check_seed(seed)
    return seed


def check_seed(seed: int, bits: int | None = None) -> None:
    """Check a seed before it is used.

    Args:
        bits: width of the seed of an external generator; None for the generators of `seeded`.

    Raises: OptionError for a negative seed, or a seed of more than `bits` bits.
    """
    if seed < 0 or (bits and seed >= 2**bits):
        upper = f" and below 2**{bits}" if bits else ""
        raise OptionError(f"seed must be at least 0{upper}, got {seed}")


class Generators:
    """A `torch.Generator` for each row of a batch; row i of a draw comes from generator i.

    Args:
        generators: as many as there are rows, all on the same device.
    """

    def __init__(self, generators: Iterable[torch.Generator]):
        self.rows: Sequence[torch.Generator] = list(generators)

    @classmethod
    def for_samples(
        cls,
        seed: int,
        images: int,
        samples: int,
        device: torch.device | str = "cpu",
        first_image: int | Sequence[int] = 0,
    ) -> Generators:
        """Generators in the order of a solve: all samples of image 0, then of image 1, ...

        Args:
            first_image: index of the first image, or the indices of all.

        Raises: OptionError for a negative seed.
        """
        return cls(
            seeded(seed, "image", i, "sample", j, device=device)
            for i in indices(first_image, images)
            for j in range(samples)
        )

    def __len__(self) -> int:
        return len(self.rows)

    def randn_like(self, x: Tensor) -> Tensor:
        """Standard normal draws of the dtype and on the device of x: x (B, *shape) -> same.

        Raises: ValueError if B is not len(self).
        """
        self._check(x)
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        for row, generator in zip(out, self.rows, strict=True):
            row.normal_(generator=generator)
        return out

    def rand_like(self, x: Tensor) -> Tensor:
        """Uniform draws on [0, 1) of the dtype and on the device of x: x (B, *shape) -> same.

        Raises: ValueError if B is not len(self).
        """
        self._check(x)
        shape, dtype, device = x.shape[1:], x.dtype, x.device
        return torch.stack(
            [torch.rand(shape, generator=g, dtype=dtype, device=device) for g in self.rows]
        )

    def permutations(self, n: int) -> Tensor:
        """A random permutation of range(n) for each row: (B, n), on the generators' device."""
        return torch.stack([torch.randperm(n, generator=g, device=g.device) for g in self.rows])

    def _check(self, x: Tensor) -> None:
        if x.shape[0] != len(self.rows):
            raise ValueError(
                f"generators: {len(self.rows)} rows were seeded, the batch has {x.shape[0]}"
            )


class SharedStream(Generators):
    """`Generators` whose rows draw from a shared stream, in order.

    A thousand rows cost as much as a single row, but each row depends on its batch. `verify` uses
    it to draw thousands of samples of a law; results that are kept use separate streams.
    """

    def __init__(self, generator: torch.Generator, rows: int):
        super().__init__([generator] * rows)

    def randn_like(self, x: Tensor) -> Tensor:
        self._check(x)
        return torch.randn(x.shape, generator=self.rows[0], dtype=x.dtype, device=x.device)

    def rand_like(self, x: Tensor) -> Tensor:
        self._check(x)
        return torch.rand(x.shape, generator=self.rows[0], dtype=x.dtype, device=x.device)
