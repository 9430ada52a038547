"""Images of one batch that are solved each with an operator, a noise model or a prior of its own, side by side."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from inverse.method import Weighted
from inverse.posterior import Posterior
from inverse.seeding import Generators

Run = Callable[[Posterior, int, Generators], Iterator[Tensor | Weighted]]


def rows_of(posterior: Posterior, rows: slice, **parts: Any) -> Posterior:
    """Some rows of a posterior, with other parts where given; what it evaluates is counted there.

    Args:
        parts: prior, operator, y or noise. Another prior must have the same model units.
    """
    given = {
        "prior": posterior.prior,
        "operator": posterior.operator,
        "y": posterior.y[rows],
        "noise": posterior.noise,
        **parts,
    }
    result = Posterior(
        **given,
        shape=posterior.shape,
        dtype=posterior.dtype,
        execution=posterior.execution,
        provenance=posterior.provenance,
    )
    result.cost = posterior.cost
    return result


def one_by_one(
    posterior: Posterior, samples: int, generator: Generators, run: Run
) -> Iterator[Tensor]:
    """The iterates (B, *shape) of a batch whose images are run each by itself, in step; one that has ended waits with its answer.

    Args:
        run: called with the rows of one image, `samples` and their generators, as `Method.run` is.
    """
    starts = range(0, len(posterior), samples)
    runs = [
        run(
            rows_of(posterior, slice(a, a + samples)),
            samples,
            Generators(generator.rows[a : a + samples]),
        )
        for a in starts
    ]
    last: list[Tensor | Weighted | None] = [None] * len(runs)
    for iterates in itertools.zip_longest(*runs):
        last = [before if now is None else now for before, now in zip(last, iterates, strict=True)]
        yield torch.cat([x.x if isinstance(x, Weighted) else x for x in last if x is not None])
