"""The inputs of a solve: files opened and checked, those of one size gathered into batches, those that an earlier run has solved."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inverse.errors import InputError
from inverse.method import Method
from inverse.priors.prior import Prior
from inverse.problem import Problem
from inverse.registry.options import values as options_of
from inverse.result import Result

WAITING = 64
"""Inputs that may wait for others of their size."""


@dataclass(frozen=True)
class Input:
    """One input of a solve.

    Args:
        index: among all of them; its noise and its samples are seeded by it.
        file: None for the shipped truth.
        folder: of its results.
        problem: that it poses.
        values: the truth, as the operator takes it, or the measurement.
        notes: what was done to it.
    """

    index: int
    file: Path | None
    folder: Path
    problem: Problem
    values: Tensor | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.file.name if self.file else "solving"


def opened(
    index: int, file: Path | None, folder: Path, problem: Problem, prior: Prior, measured: bool
) -> Input:
    """Read a file, cut a truth to what the operator takes, and note that.

    Raises: InputError if the file cannot be used.
    """
    if file is None:
        return Input(index, file, folder, problem)
    posed, values, notes = problem.open(file, prior, measured)
    if bad := int((~torch.isfinite(values)).sum()):
        count = f"{bad} of {values.numel()} values"
        raise InputError(
            f"{file}: {count} are NaN or infinite; replace them, and mask them with --problem inpainting if they were never measured"
        )
    if not measured:
        cut = posed.prepare(values)
        if cut.shape != values.shape:
            notes = [
                *notes,
                f"cropped from {values.shape[-2]}x{values.shape[-1]} to {cut.shape[-2]}x{cut.shape[-1]}",
            ]
        values = cut
    return Input(index, file, folder, posed, values, notes)


def kind(one: Input, problem: Problem, prior: Prior) -> Hashable | None:
    """What inputs share that can be solved in one batch: their shape; None for one that is solved alone.

    Alone are inputs that pose a problem of their own, those of problems that make their posteriors in a way of their own, and files that hold a batch.
    """
    alone = (
        one.values is None
        or one.problem is not problem
        or type(problem).posterior is not Problem.posterior
        or one.values.ndim != len(prior.shape)
    )
    return None if alone or one.values is None else tuple(one.values.shape)


def batches(
    inputs: Iterable[Input], kind: Callable[[Input], Hashable | None], most: Callable[[Input], int]
) -> Iterator[list[Input]]:
    """Inputs of one kind together, as many as `most` says for it, each batch as soon as it is full; those of no kind alone.

    When `WAITING` of them wait, the largest batch goes as it is.
    """
    waiting: dict[Hashable, list[Input]] = {}
    for one in inputs:
        shared = kind(one)
        if shared is None:
            yield [one]
            continue
        waiting.setdefault(shared, []).append(one)
        if len(waiting[shared]) >= most(one):
            yield waiting.pop(shared)
        elif sum(map(len, waiting.values())) >= WAITING:
            yield waiting.pop(max(waiting, key=lambda key: len(waiting[key])))
    yield from waiting.values()


def finished(one: Input, method: Method, samples: int, about: dict[str, Any]) -> Result | None:
    """The result that an earlier run left for this input, where it came to its end and was asked for the same; None otherwise.

    Args:
        about: what else of its provenance must be the same, such as the prior's name and the seed.
    """
    if one.file is None or one.values is None:
        return None
    try:
        found = Result.load(one.folder / "result.h5")
    except InputError:
        return None
    ran = {
        name: value
        for name, value in found.provenance.get("method", {}).items()
        if name != "derived"
    }
    wanted = {
        "input": str(one.file),
        "problem": _named(one.problem),
        "method": _named(method),
        **about,
    }
    same = all(
        json.dumps(value, default=str)
        == json.dumps(({**found.provenance, "method": ran}).get(name))
        for name, value in wanted.items()
    )
    kept = (found.y if found.truth is None else found.truth)[0]
    unchanged = torch.equal(kept.to(one.values.dtype), one.values)
    return (
        found
        if same and unchanged and not found.interrupted and found.samples.shape[1] == samples
        else None
    )


def _named(thing: Problem | Method) -> dict[str, Any]:
    return {"name": thing.name, "options": options_of(thing)}
