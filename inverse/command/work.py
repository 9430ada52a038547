"""An `inverse solve` under way: inputs opened and gathered into batches, a batch solved, one that fails halved."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from inverse.command.inputs import Input, finished, kind, opened
from inverse.engine import Interrupted, Observer, failures_told, solve
from inverse.errors import (
    InputError,
    InverseError,
    MemoryLimitError,
    NoiseError,
    OptionError,
    UnsupportedError,
)
from inverse.execution import Execution
from inverse.method import Method
from inverse.posterior import Posterior
from inverse.priors.evaluation.evaluator import evaluator
from inverse.priors.prior import Prior
from inverse.problem import ImageProblem, Problem, measurement_sha256
from inverse.result import Result

Solved = list[tuple[Input, Result]]

ON_A_CPU = 2**16
"""Pixels, over all rows, above which a larger batch gains nothing on a CPU: 16 images of 64 pixels, 1 of 256 (bench/folders.py)."""


@dataclass(frozen=True)
class Request:
    """What the user asked of `inverse solve`; see its options."""

    problem: str
    method: str
    problem_options: dict[str, Any] = field(default_factory=dict)
    method_options: dict[str, Any] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    measured: bool = False
    prior: str | None = None
    samples: int = 1
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    out: Path = Path("out")
    parallel: str | None = None
    compile: bool = False
    memory: float | None = None
    batch: int | None = None
    resume: bool = False


class Work:
    """What is solved, how, and what came of it.

    Args:
        request: of the user.
        problem, method, prior, dtype, execution: what it says, looked up.
        count: of all inputs.
        watched: makes the observers of a batch's iterates.

    Attributes:
        resumed: results of an earlier run, not solved again.
        left_out: how many inputs could not be used.
        interrupted: the inputs whose last iterate is all there is.
    """

    def __init__(
        self,
        request: Request,
        problem: Problem,
        method: Method,
        prior: Prior,
        dtype: torch.dtype,
        execution: Execution,
        count: int,
        watched: Callable[[list[Input]], AbstractContextManager[list[Observer]]],
    ):
        self.request, self.problem, self.method, self.prior, self.dtype, self.execution = (
            request,
            problem,
            method,
            prior,
            dtype,
            execution,
        )
        self.device = prior.device or torch.device("cpu")
        self.resumed: Solved = []
        self.interrupted: list[Input] = []
        self.count, self.left_out = count, 0
        self._watched = watched
        self._said: set[str] = set()
        self._most: dict[Hashable, int] = {}

    # --- inputs --------------------------------------------------------------------------------------------------------

    def open(
        self, place: tuple[int, Path | None, Path]
    ) -> tuple[Input, Result | InverseError | None]:
        """The input at a place, with what an earlier run has made of it or what is wrong with it; called in a thread."""
        try:
            one = opened(*place, self.problem, self.prior, self.request.measured)
        except InverseError as error:
            return Input(*place, self.problem), error
        return one, finished(
            one, self.method, self.request.samples, self._about()
        ) if self.request.resume else None

    def usable(
        self, inputs: Iterable[tuple[Input, Result | InverseError | None]]
    ) -> Iterator[Input]:
        """The inputs that are to be solved; of the others, what is there is kept and what cannot be used is said."""
        for one, outcome in inputs:
            if isinstance(outcome, Result):
                self.resumed.append((one, outcome))
            elif outcome is not None:
                self.leave_out(one, outcome)
            else:
                yield one

    def leave_out(self, one: Input, error: InverseError) -> None:
        """Say why this input is left out, once for each reason; raise it where there is no other input."""
        if self.count == 1:
            raise error
        self.left_out += 1
        if (reason := str(error)) not in self._said:
            self._said.add(reason)
            print(
                f"inverse: {reason if str(one.file) in reason else f'{one.file}: {reason}'}; left out",
                file=sys.stderr,
            )

    def kind(self, one: Input) -> Hashable | None:
        """See `inputs.kind`."""
        return kind(one, self.problem, self.prior)

    def most(self, one: Input) -> int:
        """Images of this size in a batch: as asked, or as many as pay on this device and fit into its memory in one call of the prior."""
        assert one.values is not None
        key = tuple(one.values.shape)
        if key not in self._most:
            self._most[key] = self._images_at_once(key)
        return self._most[key]

    def _images_at_once(self, shape: tuple[int, ...]) -> int:
        if self.request.batch is not None or self.request.parallel:
            return self.request.batch or 1
        each = max(self.request.samples, getattr(self.method, "particles", None) or 1)
        try:
            unknown = self.problem.signal_shape(shape) if self.request.measured else shape
            rows = (ON_A_CPU if self.device.type == "cpu" else self.execution.max_pixels) // (
                torch.Size(unknown).numel() // unknown[0]
            )
            return (
                1
                if rows < 2 * each
                else max(
                    1,
                    evaluator(self.prior, self.execution).rows_at_once(
                        unknown, rows, self.device, self.dtype
                    )
                    // each,
                )
            )
        except InverseError:
            return 1  # the solve will say what is wrong

    # --- solving -------------------------------------------------------------------------------------------------------

    def solve(self, batch: list[Input]) -> Solved:
        """The result of each; a batch that fails is halved until what fails is alone, and left out."""
        try:
            with failures_told(self.device, lambda: "in preparing a solve"):
                return self._solve(batch)
        except (InputError, NoiseError, MemoryLimitError, OptionError, UnsupportedError) as error:
            if len(batch) == 1 or isinstance(
                error, OptionError | UnsupportedError
            ):  # which every image of this size would meet
                for one in batch:
                    self.leave_out(one, error)
                return []
            half = len(batch) // 2
            if isinstance(error, MemoryLimitError):
                self._most = {shape: min(most, half) for shape, most in self._most.items()}
        first = self.solve(batch[:half])
        return first if self.interrupted else first + self.solve(batch[half:])

    def _solve(self, batch: list[Input]) -> Solved:
        posterior, indices = self.posterior(batch), [one.index for one in batch]
        with self._watched(batch) as observers:
            try:
                together = solve(
                    posterior,
                    self.method,
                    self.request.samples,
                    self.request.seed,
                    observers=observers,
                    first_image=indices,
                )
            except Interrupted as stop:
                together, self.interrupted = stop.result, batch
        return [(one, self._alone(together, i, one)) for i, one in enumerate(batch)]

    def posterior(self, batch: list[Input]) -> Posterior:
        """Of a batch that `kind` holds together, or of one input."""
        settings: dict[str, Any] = {
            "prior": self.prior,
            "seed": self.request.seed,
            "device": self.device,
            "dtype": self.dtype,
            "execution": self.execution,
        }
        one, indices = batch[0], [one.index for one in batch]
        if one.values is None:
            posterior = one.problem.posterior(0, first_image=one.index, **settings)
            shipped = (
                one.problem.pictures(self.prior)[0].stem
                if isinstance(one.problem, ImageProblem)
                else "truth 0"
            )
            posterior.provenance.update(input=f"{shipped} (shipped)", notes=[])
            return posterior
        values = (
            one.values
            if len(batch) == 1
            else torch.stack([one.values for one in batch if one.values is not None])
        )
        given: dict[str, Any] = {"y": values} if self.request.measured else {"truth": values}
        posterior = one.problem.posterior(
            **given, first_image=one.index if len(batch) == 1 else indices, **settings
        )
        posterior.provenance.update(input=str(one.file), notes=[])
        return posterior

    def _alone(self, together: Result, position: int, one: Input) -> Result:
        """The result of one image, which says of itself what it would have said alone, and how many were solved with it."""
        images = len(together.samples)
        if one.values is None or images == 1:
            notes = {"notes": [*one.notes, *together.provenance["notes"]]}
            return replace(together, provenance=together.provenance | notes)
        result = together.image(position)
        about = {
            "input": str(one.file),
            "measurement_sha256": measurement_sha256(result.y),
            "notes": [*one.notes, *together.provenance["notes"]],
        }
        return replace(
            result,
            provenance=result.provenance
            | about
            | {"batch": {"images": images, "seconds": together.seconds}},
        )

    def _about(self) -> dict[str, Any]:
        """What of a result's provenance follows from the request, but for its problem and its method."""
        request = self.request
        return {
            "prior": getattr(self.prior, "name", type(self.prior).__name__),
            "seed": request.seed,
            "measurement_seed": None if request.measured else request.seed,
            "dtype": str(self.dtype).removeprefix("torch."),
            "autocast": self.execution.autocast,
        }
