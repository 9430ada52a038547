"""Solve the inputs of one request in batches; halve a batch that fails."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from inverse.arena.source import prior_hash
from inverse.command.inputs import (
    Input,
    batch_key,
    earlier_result,
    read_input,
    with_noise_estimated,
)
from inverse.command.progress import forecast, label, said_later
from inverse.command.request import Request
from inverse.engine import Interrupted, Observer, device_errors, solve
from inverse.errors import (
    InputError,
    InverseError,
    MemoryLimitError,
    NoiseError,
    OptionError,
    UnsupportedError,
)
from inverse.execution import Execution
from inverse.io.command_line import confirmed
from inverse.io.devices import AUTO, DTYPES, automatic, check_device
from inverse.measurement.noise import GaussianNoise
from inverse.method import Method
from inverse.metrics.residual import neighbour_correlation
from inverse.posterior import Posterior
from inverse.priors.evaluation.evaluator import evaluator
from inverse.problem import ImageProblem, Problem, measurement_sha256
from inverse.registry.discovery import get_method, get_problem
from inverse.result import Result
from inverse.seeding import check_seed

Solved = list[tuple[Input, Result]]

PARALLEL: dict[str, Literal["fresh", "stale"]] = {"patches": "fresh", "patches:stale": "stale"}
"""Values of --parallel, and the halos that the processes of torchrun then exchange."""

CPU_PIXELS = 2**16
"""Pixels in a batch beyond which a CPU is no faster (bench/batch_throughput.py)."""


class BatchSolver:
    """Reads the inputs of one request, chooses batch sizes, solves batches and keeps count.

    Args:
        request: what the user asked.
        count: number of inputs.
        observers: a context manager that yields the observers of one batch's iterates.

    Attributes:
        problem, method, prior, device, dtype, execution: what the request names, looked up.
        parts: problems of the inputs that are slices of one file, by index; empty otherwise.
        resumed: inputs that an earlier run solved, with their results.
        skipped: number of inputs that could not be used.
        interrupted: inputs whose result is the last iterate before an interruption.

    Raises: OptionError or UnknownNameError for a request that cannot be served.
    """

    def __init__(
        self,
        request: Request,
        count: int,
        observers: Callable[[list[Input]], AbstractContextManager[list[Observer]]],
    ):
        self.problem = _problem(request)
        self.method: Method = get_method(request.method, **request.method_options)
        _check_values(request)
        device, memory = check_device(request.device), request.memory
        self.dtype, autocast = DTYPES.get(request.dtype, DTYPES["float32"])
        self.prior = self.problem.resolve_prior(request.prior, device, self.dtype)
        self.prior_sha256 = prior_hash(self.prior)
        if request.dtype == AUTO:
            _, autocast = DTYPES[automatic(getattr(self.prior, "bf16_loss", None), device)]
        if request.parallel:
            from inverse.priors.evaluation.patches import divide_among_ranks, memory_per_rank

            self.prior = divide_among_ranks(self.prior, PARALLEL[request.parallel])
            memory = memory or memory_per_rank(device)
        self.execution = _execution(request, autocast, memory)
        self.device = self.prior.device or torch.device("cpu")
        self.request, self.count = request, count
        self.parts: list[Problem] = []
        self.resumed: Solved = []
        self.skipped = 0
        self.interrupted: list[Input] = []
        self._observers = observers
        self._reported: set[str] = set()
        self._batch_sizes: dict[Hashable, int] = {}

    # --- inputs -------------------------------------------------------------------------------

    def read(
        self, place: tuple[int, Path | None, Path]
    ) -> tuple[Input, Result | InverseError | None]:
        """The input (index, file, output folder), with its earlier result or with its error.

        It runs in a thread; it returns an error instead of raising it.
        """
        try:
            with device_errors(torch.device("cpu"), lambda: f"in reading {place[1]}"):
                problem = self.parts[place[0]] if self.parts else self.problem
                item = read_input(*place, problem, self.prior, self.request.measured)
            if self.request.measured and "sigma_y" not in self.request.problem_options:
                item = with_noise_estimated(item)
        except InverseError as error:
            return Input(*place, self.problem), error
        if not self.request.resume:
            return item, None
        return item, earlier_result(
            item, self.method, self.request.samples, self._request_provenance()
        )

    def usable(
        self, inputs: Iterable[tuple[Input, Result | InverseError | None]]
    ) -> Iterator[Input]:
        """The inputs to solve; collects earlier results, reports and skips unusable inputs."""
        for item, outcome in inputs:
            if isinstance(outcome, Result):
                self.resumed.append((item, outcome))
            elif outcome is not None:
                self.skip(item, outcome)
            elif refusal := self._refusal(item):
                self.skip(item, refusal)
            else:
                yield item

    def _refusal(self, item: Input) -> InverseError | None:
        """The error for a doubtful measurement that the user does not confirm, or None."""
        if not self.request.measured or self.request.yes or item.values is None:
            return None
        try:
            doubt = item.problem.doubt(item.values)
        except InverseError as error:
            return error
        if doubt is None or confirmed(f"{item.file}: {doubt}"):
            return None
        return InputError(f"{item.file}: {doubt}; --yes solves it as it is")

    def skip(self, item: Input, error: InverseError) -> None:
        """Skip an input; print each reason once.

        Raises: the error itself if this input is the only one.
        """
        if self.count == 1:
            raise error
        self.skipped += 1
        reason = str(error)
        if reason not in self._reported:
            self._reported.add(reason)
            named = reason if str(item.file) in reason else f"{item.file}: {reason}"
            print(f"inverse: {named}; skipped", file=sys.stderr)

    def key(self, item: Input) -> Hashable | None:
        """See `inputs.batch_key`."""
        return batch_key(item, self.problem, self.prior)

    def batch_size(self, item: Input) -> int:
        """Images of this size in one batch.

        `request.batch`, or as many as run faster together and fit into memory in one call of the
        prior.
        """
        assert item.values is not None
        shape = tuple(item.values.shape)
        if shape not in self._batch_sizes:
            self._batch_sizes[shape] = self._images_at_once(shape)
        return self._batch_sizes[shape]

    def _images_at_once(self, shape: tuple[int, ...]) -> int:
        if self.request.batch is not None or self.request.parallel:
            return self.request.batch or 1
        rows_per_image = max(self.request.samples, getattr(self.method, "particles", None) or 1)
        pixels = CPU_PIXELS if self.device.type == "cpu" else self.execution.max_pixels
        try:
            image = self.problem.signal_shape(shape) if self.request.measured else shape
            rows = pixels // (torch.Size(image).numel() // image[0])
            if rows < 2 * rows_per_image:
                return 1
            evaluate = evaluator(self.prior, self.execution)
            return max(
                1, evaluate.rows_at_once(image, rows, self.device, self.dtype) // rows_per_image
            )
        except InverseError:
            return 1  # the solve reports the error

    # --- solving ------------------------------------------------------------------------------

    def solve(self, batch: list[Input]) -> Solved:
        """Solve a batch, and return each input with its result.

        A batch that fails is halved until the input that fails is alone; that input is skipped.

        Raises: DeviceError if the device fails; the input's own error if it is the only input.
        """
        try:
            with device_errors(self.device, lambda: "in preparing a solve"):
                return self._solve(batch)
        except (InputError, NoiseError, MemoryLimitError, OptionError, UnsupportedError) as error:
            every_image_fails = isinstance(error, OptionError | UnsupportedError)
            if len(batch) == 1 or every_image_fails:
                for item in batch:
                    self.skip(item, error)
                return []
            half = len(batch) // 2
            if isinstance(error, MemoryLimitError):
                self._batch_sizes = {
                    shape: min(size, half) for shape, size in self._batch_sizes.items()
                }
        first = self.solve(batch[:half])
        return first if self.interrupted else first + self.solve(batch[half:])

    def _solve(self, batch: list[Input]) -> Solved:
        posterior = self.posterior(batch)
        announced = (
            None
            if self.request.parallel
            else forecast(posterior, self.method, self.request.samples)
        )
        line = announced and f"inverse: {label(batch, self.count)}: {announced}"
        with said_later(line), self._observers(batch) as observers:
            try:
                result = solve(
                    posterior,
                    self.method,
                    self.request.samples,
                    self.request.seed,
                    observers=observers,
                    first_image=[item.index for item in batch],
                )
            except Interrupted as interruption:
                result, self.interrupted = interruption.result, batch
        structure = _structure(posterior, result, batch[0].problem)
        return [
            (item, self._result_of(result, i, item, structure[i])) for i, item in enumerate(batch)
        ]

    def posterior(self, batch: list[Input]) -> Posterior:
        """The posterior of inputs that share a key, or of a single input."""
        settings: dict[str, Any] = {
            "prior": self.prior,
            "seed": self.request.seed,
            "device": self.device,
            "dtype": self.dtype,
            "execution": self.execution,
        }
        item = batch[0]
        if item.values is None:
            posterior = item.problem.posterior(0, first_image=item.index, **settings)
            name = f"{self._shipped_truth(item.problem)} (shipped)"
        else:
            single = len(batch) == 1
            values = item.values if single else torch.stack([_values(item) for item in batch])
            indices = item.index if single else [item.index for item in batch]
            given: dict[str, Any] = {"y" if self.request.measured else "truth": values}
            posterior = item.problem.posterior(**given, first_image=indices, **settings)
            name = str(item.file)
        posterior.provenance.update(input=name, notes=[])
        return posterior

    def _shipped_truth(self, problem: Problem) -> str:
        if isinstance(problem, ImageProblem):
            return problem.pictures(self.prior)[0].stem
        return "truth 0"

    def _result_of(
        self, batch: Result, position: int, item: Input, structure: float | None
    ) -> Result:
        """One input's result, with the provenance of a solve alone and the size of its batch."""
        images = len(batch.samples)
        alone = item.values is None or images == 1
        result = batch if alone else batch.image(position)
        provenance: dict[str, Any] = {
            "notes": [*item.notes, *result.provenance["notes"]],
            "prior_sha256": self.prior_sha256,
        }
        if structure is not None:
            provenance["residual_correlation"] = structure
        if self.request.measured and item.values is not None:
            provenance["checks"] = item.problem.checks(item.values)
        if not alone:
            provenance |= {
                "input": str(item.file),
                "measurement_sha256": measurement_sha256(result.y),
                "batch": {"images": images, "seconds": batch.seconds},
            }
        return replace(result, provenance=result.provenance | provenance)

    def _request_provenance(self) -> dict[str, Any]:
        """The provenance that follows from the request, besides its problem and its method."""
        return {
            "prior": getattr(self.prior, "name", type(self.prior).__name__),
            "prior_sha256": self.prior_sha256,
            "seed": self.request.seed,
            "measurement_seed": None if self.request.measured else self.request.seed,
            "dtype": str(self.dtype).removeprefix("torch."),
            "autocast": self.execution.autocast,
        }


def _structure(posterior: Posterior, result: Result, problem: Problem) -> list[float | None]:
    """The neighbour correlation of each image's residual, of its first sample; None if undefined.

    It is defined for measurements that are pictures with noise of one level.
    """
    noise = posterior.noise
    picture = isinstance(problem, ImageProblem) and problem.measured_role == "picture"
    if not (picture and isinstance(noise, GaussianNoise) and result.y.ndim == 4):
        return [None] * len(result.samples)
    x = result.samples[:, 0].to(posterior.device, posterior.dtype)
    residual = posterior.y - posterior.operator.A(x)
    found = neighbour_correlation(residual.cpu(), noise.observed).tolist()
    return [value if math.isfinite(value) else None for value in found]


def _values(item: Input) -> torch.Tensor:
    assert item.values is not None
    return item.values


def _problem(request: Request) -> Problem:
    """The problem with the options of the request, and `when_restoring` where it states none."""
    problem: Problem = get_problem(request.problem, **request.problem_options)
    if not request.measured:
        return problem
    unstated = {
        name: value
        for name, value in problem.when_restoring.items()
        if name not in request.problem_options
    }
    return replace(problem, **unstated)


def _check_values(request: Request) -> None:
    if request.samples < 1:
        raise OptionError(f"samples must be at least 1, got {request.samples}")
    check_seed(request.seed)
    if request.dtype not in (AUTO, *DTYPES):
        known = ", ".join((AUTO, *DTYPES))
        raise OptionError(f"dtype must be one of {known}, got '{request.dtype}'")
    if request.batch is not None and request.batch < 1:
        raise OptionError(f"batch must be at least 1, got {request.batch}")


def _execution(request: Request, autocast: str | None, memory: float | None) -> Execution:
    """How the prior runs. With stale halos a batch stays in one piece.

    Stale halos are those of the call before, which must be the step before of the same rows.
    """
    limits: dict[str, Any] = {"memory": memory}
    if request.parallel == "patches:stale":
        limits = {"max_pixels": sys.maxsize, "memory": sys.maxsize}
    return Execution(autocast=autocast, compile="auto" if request.compile else None, **limits)
