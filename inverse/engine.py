"""Run a method on a posterior: lay out and seed the rows, time the method, record the result."""

from __future__ import annotations

import functools
import operator
import platform
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from inverse.errors import (
    DeviceError,
    InputError,
    MemoryLimitError,
    OptionError,
    PluginError,
    UnsupportedError,
    first_line,
    is_out_of_memory,
)
from inverse.measurement.noise import GaussianNoise
from inverse.memory import what_fits
from inverse.method import Method, Weighted
from inverse.posterior import Posterior
from inverse.priors.evaluation.transfer import to_host
from inverse.registry.discovery import get_method
from inverse.registry.options import build, source_file, values
from inverse.result import Result, collapse_notes
from inverse.seeding import Generators, as_seed

Observer = Callable[..., Any]
END = object()  # what `next` returns after the last iterate, as None may be a mistaken iterate


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a solve.

    Args:
        result: the result of the last iterate.
    """

    def __init__(self, result: Result):
        super().__init__("interrupted")
        self.result = result


@torch.inference_mode(False)
def solve(
    posterior: Posterior,
    method: Method | type[Method] | str,
    samples: int = 1,
    seed: int = 0,
    *,
    observers: Sequence[Observer] = (),
    first_image: int | Sequence[int] = 0,
) -> Result:
    """Draw posterior samples.

    Args:
        posterior: the posterior of one or more measurements.
        method: an instance, a class (default options) or a registered name.
        samples: samples for each measurement.
        seed: random seed of the method; sample j of image i depends on (seed, i, j) alone.
        observers: called as observer(index, total, x, misfit, nfe) after each iterate, outside the
            timed region; see `inverse_step` in `inverse.registry.hooks`.
        first_image: index of the first measurement, or of each measurement, when a larger set is
            solved in parts.

    Returns: samples (images, samples, *shape) in physical units, on the CPU, with cost, seconds and
    provenance.

    Raises:
        UnsupportedError: the method cannot run on this posterior; the message says why.
        Interrupted: the user pressed Ctrl-C; the error carries the last iterate.
        InputError: the method diverged, or its numbers left their range.
        DeviceError, MemoryLimitError: the device failed or ran out of memory.
    """
    if not isinstance(posterior, Posterior):
        raise InputError(f"solve: expected a posterior first, got {type(posterior).__name__}")
    method, seed = method_instance(method), as_seed(seed)
    samples = _count(samples)
    if reason := method.unsupported(posterior):
        raise UnsupportedError(reason)
    asked, (method, reason) = method, method.chosen(posterior, samples)
    rows = posterior.rows(samples)
    generator = Generators.for_samples(
        seed, len(posterior), samples, device=posterior.device, first_image=first_image
    )
    answer: Tensor | Weighted | None = None
    index, seconds, interrupted = 0, 0.0, False
    iterates = iterator_of(method, method.run(rows, samples, generator))
    with (
        torch.no_grad(),
        device_errors(posterior.device, lambda: f"in step {index + 1} of {method.name}"),
    ):
        try:
            while True:
                start = time.perf_counter()
                step = next(iterates, END)
                seconds += time.perf_counter() - start
                if step is END:
                    break
                answer, index = checked_iterate(method, step, rows), index + 1
                for observe in observers:
                    x = answer.x if isinstance(answer, Weighted) else answer
                    observe(
                        index,
                        method.total,
                        x,
                        lambda x=x: float(residual_chi_square(rows, x).mean()),
                        rows.cost.nfe,
                    )
            start = time.perf_counter()
            if posterior.device.type == "cuda":
                torch.cuda.synchronize(posterior.device)
            seconds += time.perf_counter() - start
        except (ArithmeticError, torch.linalg.LinAlgError) as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            raise InputError(
                f"{method.name} left the range of numbers in step {index + 1} "
                f"({type(error).__name__}: {error}; {Path(place.filename).name}, line "
                f"{place.lineno}); try options nearer to their defaults, or a larger sigma_y"
            ) from error
        except KeyboardInterrupt:
            if answer is None:
                raise
            interrupted = True
        if answer is None:
            raise InputError(f"{method.name} yielded nothing")
        result = _result(posterior, rows, method, answer, samples, seed, seconds, interrupted)
        if method is not asked:
            _note_choice(result.provenance, asked, method, reason)
    if interrupted:
        raise Interrupted(result)
    return result


def _count(samples: SupportsIndex) -> int:
    """A number of samples as a Python integer.

    Raises: OptionError for anything else, or a number that no memory holds.
    """
    try:
        count = 0 if isinstance(samples, bool) else operator.index(samples)
    except (TypeError, ValueError, RuntimeError):
        count = 0
    if not 1 <= count <= 10**9:
        raise OptionError(f"samples must be at least 1 and at most 10^9, got {samples!r:.80}")
    return count


def method_instance(method: Method | type[Method] | str) -> Method:
    """The method itself, an instance of a class with default options, or of a registered name."""
    if isinstance(method, str):
        return get_method(method)
    if isinstance(method, type) and issubclass(method, Method):
        return build(method, {})
    if not isinstance(method, Method):
        raise OptionError(
            f"solve: expected a method, its class or its name, got {type(method).__name__}"
        )
    return method


def iterator_of(method: Method, iterates: Any) -> Iterator[Tensor | Weighted]:
    """The iterates of a run.

    Raises: PluginError if the method returned its answer instead of yielding it.
    """
    if isinstance(iterates, Tensor) or not isinstance(iterates, Iterable):
        raise PluginError(
            f"{method.name} ({source_file(type(method))}): run must yield its iterates, "
            f"it returned {type(iterates).__name__}"
        )
    return iter(iterates)


def checked_iterate(method: Method, step: Any, rows: Posterior) -> Tensor | Weighted:
    """An iterate, if it is a real tensor of the shape of the unknown.

    Raises: PluginError with the name and the file of the method.
    """
    x, want = step.x if isinstance(step, Weighted) else step, (len(rows), *rows.shape)
    found = type(x).__name__
    if isinstance(x, Tensor):
        if tuple(x.shape) == want and x.dtype.is_floating_point:
            return step
        found = f"{tuple(x.shape)} of {str(x.dtype).removeprefix('torch.')}"
    raise PluginError(
        f"{method.name} ({source_file(type(method))}): run must yield real tensors {want}, "
        f"it yielded {found}"
    )


@contextmanager
def device_errors(device: torch.device, where: Callable[[], str]) -> Iterator[None]:
    """Context manager that turns torch's device errors into errors of one line.

    Args:
        where: what was running, for the message, such as "in step 3 of dps".

    Raises: MemoryLimitError if the device ran out of memory, DeviceError if it failed.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        reason = first_line(error)
        if is_out_of_memory(error):
            raise MemoryLimitError(
                f"{device} ran out of memory {where()} ({reason}); {what_fits(error, device)}"
            ) from error
        if isinstance(error, getattr(torch, "AcceleratorError", ())) or reason.startswith(
            ("CUDA error", "CUDA driver error", "cuDNN error")
        ):
            raise DeviceError(
                f"{device} failed {where()} ({reason}); "
                "files saved earlier are unchanged; try --device cpu"
            ) from error
        raise


def residual_chi_square(posterior: Posterior, x: Tensor) -> Tensor:
    """Residual chi-square |y - A x|^2 / (m sigma_y^2) of each row, not counted in the cost.

    Args:
        x: (B, *shape), model units.

    Returns: (B,); NaN unless the noise is Gaussian with positive sigma_y.
    """
    noise = posterior.noise
    if not isinstance(noise, GaussianNoise) or noise.noiseless:
        return torch.full((len(x),), float("nan"))
    return noise.chi_square(posterior.y, posterior.operator.A(posterior.prior.decode(x)))


def _result(
    posterior: Posterior,
    rows: Posterior,
    method: Method,
    answer: Tensor | Weighted,
    samples: int,
    seed: int,
    seconds: float,
    interrupted: bool,
) -> Result:
    weighted = answer if isinstance(answer, Weighted) else None
    x = answer.x if isinstance(answer, Weighted) else answer
    if not bool(torch.isfinite(x).all()):
        raise InputError(
            f"{method.name} diverged: the answer holds NaN or infinity; "
            "try fewer or smaller steps, or a larger sigma_y"
        )
    split = (len(posterior), samples)
    log_weights = None if weighted is None else weighted.log_weights
    tensors: dict[str, Any] = {
        "samples": rows.prior.decode(x).unflatten(0, split),
        "y": posterior.y,
        "misfit": residual_chi_square(rows, x).unflatten(0, split),
        "truth": None if posterior.truth is None else posterior.truth.to(posterior.dtype),
        "log_weights": None
        if log_weights is None
        else log_weights.unflatten(0, split).log_softmax(1),
        "log_evidence": None if weighted is None else weighted.log_evidence,
    }
    return Result(
        **to_host(tensors),
        cost=rows.cost,
        seconds=seconds,
        interrupted=interrupted,
        provenance=_provenance(posterior, rows, method, weighted, seed),
    )


def _provenance(
    posterior: Posterior, rows: Posterior, method: Method, weighted: Weighted | None, seed: int
) -> dict[str, Any]:
    provenance: dict[str, Any] = {
        **posterior.provenance,
        "method": {
            "name": method.name,
            "options": values(method),
            "derived": method.derived(posterior),
        },
    }
    if weighted is not None and weighted.trace is not None:
        provenance["trace"] = weighted.trace
    provenance |= {
        "seed": seed,
        "device": str(posterior.device),
        "dtype": str(posterior.dtype).removeprefix("torch."),
    }
    if posterior.execution.autocast:
        provenance["autocast"] = posterior.execution.autocast
    provenance["versions"] = versions()
    notes = [*method.notes(posterior), *_level_notes(rows, method)]
    if notes := [*notes, *collapse_notes(method.name, provenance.get("trace"))]:
        provenance["notes"] = [*posterior.provenance.get("notes", []), *notes]
    return provenance


def _note_choice(provenance: dict[str, Any], asked: Method, chosen: Method, reason: str) -> None:
    """Record the method that the user named beside the one that it chose, and why."""
    provenance["asked"] = {"name": asked.name, "options": values(asked)}
    note = f"{asked.name} chose {chosen.name}: {reason}"
    provenance["notes"] = [note, *provenance.get("notes", [])]


def _level_notes(rows: Posterior, method: Method) -> list[str]:
    """A note if the method called the prior at noise levels outside the prior's range."""
    prior, levels = rows.prior, rows.evaluated_levels
    if prior.exact or levels is None:
        return []
    lowest, highest = levels
    if lowest >= 0.999 * prior.sigma_min and highest <= 1.001 * prior.sigma_max:
        return []
    return [
        f"{method.name} asked the prior for noise levels from {lowest:.3g} to {highest:.3g}; "
        f"the prior is made for {prior.sigma_min:.3g} to {prior.sigma_max:.3g} and guesses beyond"
    ]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a result, by name."""
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("inverse-posterior", "torch", "deepinv", "numpy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions
