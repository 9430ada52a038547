"""Images of one batch solved separately, each with its own prior, operator or noise model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from inverse.method import Weighted
from inverse.posterior import Posterior
from inverse.seeding import Generators

Run = Callable[[Posterior, int, Generators], Iterator[Tensor | Weighted]]
"""As `Method.run`: (posterior, samples, generator) -> iterates."""


def image_by_image(
    posterior: Posterior, samples: int, generator: Generators, run: Run
) -> Iterator[Tensor | Weighted]:
    """The iterates of a batch whose images are run separately and advance together.

    An image whose run has ended keeps its answer while the others go on. A batch of one image is
    run as it is.

    Args:
        posterior: of B rows, `samples` consecutive ones for each image.
        run: called with the rows of one image, `samples`, and their random streams.

    Yields: (B, *shape), model units; for one image whatever its run yields.
    """
    if len(posterior) == samples:
        yield from run(posterior, samples, generator)
        return
    starts = range(0, len(posterior), samples)
    runs = [
        run(
            posterior.replaced(y=posterior.y[start : start + samples]),
            samples,
            Generators(generator.rows[start : start + samples]),
        )
        for start in starts
    ]
    last: list[Tensor | Weighted | None] = [None] * len(runs)
    for iterates in itertools.zip_longest(*runs):
        last = [old if new is None else new for old, new in zip(last, iterates, strict=True)]
        yield joined([iterate for iterate in last if iterate is not None])


def joined(iterates: list[Tensor | Weighted]) -> Tensor | Weighted:
    """The iterates of several images as one; weights are kept where every image has them."""
    tensors = [iterate for iterate in iterates if torch.is_tensor(iterate)]
    if len(tensors) == len(iterates):
        return torch.cat(tensors)
    parts = [x if isinstance(x, Weighted) else Weighted(x, None) for x in iterates]
    traces = [part.trace for part in parts if part.trace is not None]
    steps = zip(*traces, strict=True) if len(traces) == len(parts) else []
    return Weighted(
        torch.cat([part.x for part in parts]),
        _all([part.log_weights for part in parts]),
        _all([part.log_evidence for part in parts]),
        [{name: [step[name] for step in images] for name in images[0]} for images in steps] or None,
    )


def _all(tensors: list[Tensor | None]) -> Tensor | None:
    """Their concatenation; None where any is missing."""
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(present) if len(present) == len(tensors) else None
