"""Randomness as an argument: generators named by what they are for, one per sample of a batch.

The stream of sample j of image i depends on (seed, i, j) alone, so a result does not depend on the batch it was
computed in, and neither the global generator nor another sample's stream is ever touched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from inverse.errors import OptionError


def seeded(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose seed is a hash of `key`; 0 is a seed like any other. seeded(0, "noise", 3) never equals seeded(0, 3).

    Raises: OptionError for a negative number.
    """
    for part in key:
        if isinstance(part, int):
            check_seed(part)
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def indices(first: int | Sequence[int], count: int) -> Sequence[int]:
    """Where images stand in a larger set: `count` of them from `first` on, or as listed."""
    return range(first, first + count) if isinstance(first, int) else first


def check_seed(seed: int, bits: int | None = None) -> None:
    """Raises OptionError for a seed below 0, which `seeded` refuses, before it is asked; or of more bits than a generator that is not ours takes."""
    if seed < 0 or (bits and seed >= 2**bits):
        raise OptionError(
            f"seed must be at least 0{f' and below 2**{bits}' if bits else ''}, got {seed}"
        )


class Generators:
    """One `torch.Generator` per row of a batch; draws have the rows' streams stacked along dimension 0.

    Args:
        generators: one per row, all on one device.
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
        """Rows in the order of a solve: all samples of image 0, then of image 1, ...; first_image is the index of the first, or of each."""
        return cls(
            seeded(seed, "image", i, "sample", j, device=device)
            for i in indices(first_image, images)
            for j in range(samples)
        )

    def __len__(self) -> int:
        return len(self.rows)

    def randn_like(self, x: Tensor) -> Tensor:
        """Standard normal draws: x (B, *shape) -> (B, *shape), same dtype and device; B must be len(self)."""
        self._check(x)
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        for row, generator in zip(out, self.rows, strict=True):
            row.normal_(generator=generator)
        return out

    def rand_like(self, x: Tensor) -> Tensor:
        """Uniform draws on [0, 1): x (B, *shape) -> (B, *shape)."""
        self._check(x)
        return torch.stack(
            [
                torch.rand(x.shape[1:], generator=g, dtype=x.dtype, device=x.device)
                for g in self.rows
            ]
        )

    def permutations(self, n: int) -> Tensor:
        """One random permutation of range(n) per row: (B, n), on the CPU if the generators are."""
        return torch.stack([torch.randperm(n, generator=g, device=g.device) for g in self.rows])

    def _check(self, x: Tensor) -> None:
        if x.shape[0] != len(self.rows):
            raise ValueError(
                f"generators: {len(self.rows)} rows were seeded, the batch has {x.shape[0]}"
            )


class SharedStream(Generators):
    """`Generators` whose rows draw from one stream, in order: a thousand rows at the price of one, each of which then depends on its batch.

    For a referee that looks at thousands of samples of a law, not for answers that somebody keeps.
    """

    def __init__(self, generator: torch.Generator, rows: int):
        super().__init__([generator] * rows)

    def randn_like(self, x: Tensor) -> Tensor:
        self._check(x)
        return torch.randn(x.shape, generator=self.rows[0], dtype=x.dtype, device=x.device)

    def rand_like(self, x: Tensor) -> Tensor:
        self._check(x)
        return torch.rand(x.shape, generator=self.rows[0], dtype=x.dtype, device=x.device)
