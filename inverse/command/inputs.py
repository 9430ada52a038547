"""The inputs of `inverse solve`: read and check files, form batches, find earlier results."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace
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

MAX_WAITING = 64
"""Largest number of inputs that wait for others of their size."""


@dataclass(frozen=True)
class Input:
    """One input of a solve.

    Args:
        index: position among all inputs; it seeds the measurement noise and the samples.
        file: the file that was read; None for the ground truth that the problem ships.
        folder: where the results are written.
        problem: the problem that the file poses.
        values: the ground truth, cropped to what the operator accepts, or the measurement; physical
            units, (*shape).
        notes: what was done to the file's contents, for the provenance.
        stated: the problem before its noise level was estimated from the file; None if it was not.
    """

    index: int
    file: Path | None
    folder: Path
    problem: Problem
    values: Tensor | None = None
    notes: list[str] = field(default_factory=list)
    stated: Problem | None = None


def read_input(
    index: int, file: Path | None, folder: Path, problem: Problem, prior: Prior, measured: bool
) -> Input:
    """Read a file; crop a ground truth to a size that the operator accepts, and note the crop.

    Args:
        measured: whether the file holds a measurement instead of a ground truth.

    Raises: InputError if the file cannot be used.
    """
    if file is None:
        notes = [*problem.file_notes(), *problem.prior_notes(prior)]
        return Input(index, file, folder, problem, notes=notes)
    posed, values, notes = problem.open(file, prior, measured)
    notes = [*notes, *posed.file_notes(), *posed.prior_notes(prior)]
    if invalid := int((~torch.isfinite(values)).sum()):
        raise InputError(
            f"{file}: {invalid} of {values.numel()} values are NaN or infinite; replace them, and "
            "mask them with --problem inpainting if they were never measured"
        )
    if not measured:
        cropped = posed.prepare(values)
        if not cropped.numel():
            size = "x".join(map(str, values.shape[-2:]))
            options = ", ".join(f"{k}={v}" for k, v in options_of(posed).items() if v is not None)
            raise InputError(
                f"{file}: its {size} pixels are fewer than {posed.name} needs with {options}"
            )
        if cropped.shape != values.shape:
            before, after = (f"{x.shape[-2]}x{x.shape[-1]}" for x in (values, cropped))
            notes = [*notes, f"cropped from {before} to {after}"]
        values = cropped
    return Input(index, file, folder, posed, values, notes)


def with_noise_estimated(item: Input) -> Input:
    """The input with `sigma_y` estimated from its measurement, and a note, where that is possible.

    For a measurement whose `sigma_y` the user did not state.
    """
    found = None if item.values is None else item.problem.estimated_sigma_y(item.values)
    if found is None:
        return item
    sigma_y = float(f"{found:.2g}")  # so that pictures of one camera share a batch
    note = (
        f"sigma_y = {sigma_y:g}, estimated from the measurement; "
        "--problem-option sigma_y=... states it"
    )
    problem = replace(item.problem, sigma_y=sigma_y)
    return replace(item, problem=problem, stated=item.problem, notes=[*item.notes, note])


def batch_key(item: Input, problem: Problem, prior: Prior) -> Hashable | None:
    """Shape and noise that the inputs of one batch share; None for an input to be solved alone.

    An input is solved alone if its file poses a problem of its own, other than in the noise level
    that was estimated from it, if its problem overrides `posterior`, or if its file already holds a
    batch.
    """
    if (
        item.values is None
        or (item.stated or item.problem) is not problem
        or type(problem).posterior is not Problem.posterior
        or item.values.ndim != len(prior.shape)
    ):
        return None
    return tuple(item.values.shape), item.problem.sigma_y


def batches(
    inputs: Iterable[Input],
    key: Callable[[Input], Hashable | None],
    batch_size: Callable[[Input], int],
) -> Iterator[list[Input]]:
    """Group inputs that share a key, and yield each batch as soon as it is full.

    When `MAX_WAITING` inputs wait, the largest batch is yielded although it is not full.

    Args:
        key: what the inputs of a batch share; None makes an input a batch of one.
        batch_size: inputs of a full batch, given one of its inputs.
    """
    waiting: dict[Hashable, list[Input]] = {}
    for item in inputs:
        shared = key(item)
        if shared is None:
            yield [item]
            continue
        waiting.setdefault(shared, []).append(item)
        if len(waiting[shared]) >= batch_size(item):
            yield waiting.pop(shared)
        elif sum(map(len, waiting.values())) >= MAX_WAITING:
            yield waiting.pop(max(waiting, key=lambda shared: len(waiting[shared])))
    yield from waiting.values()


def earlier_result(
    item: Input, method: Method, samples: int, provenance: dict[str, Any]
) -> Result | None:
    """The complete result that an earlier run of the same request wrote for this input, or None.

    Args:
        provenance: further fields that must agree, such as the name of the prior and the seed.
    """
    if item.file is None or item.values is None:
        return None
    try:
        result = Result.load(item.folder / "result.h5")
    except InputError:
        return None
    stored = dict(result.provenance)
    ran = stored.get("method", {})
    stored["method"] = stored.get("asked") or {k: v for k, v in ran.items() if k != "derived"}
    wanted = {
        "input": str(item.file),
        "problem": _name_and_options(item.problem),
        "method": _name_and_options(method),
        **provenance,
    }
    same_request = all(
        json.dumps(value, default=str) == json.dumps(stored.get(name))
        for name, value in wanted.items()
    )
    values = (result.y if result.truth is None else result.truth)[0]
    same_values = torch.equal(values.to(item.values.dtype), item.values)
    complete = not result.interrupted and result.samples.shape[1] == samples
    return result if same_request and same_values and complete else None


def _name_and_options(thing: Problem | Method) -> dict[str, Any]:
    return {"name": thing.name, "options": options_of(thing)}
