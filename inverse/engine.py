"""Run a method on a posterior: lay out the rows, seed them, time the method alone, return the account."""

from __future__ import annotations

import functools
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from inverse.errors import DeviceError, InputError, MemoryLimitError, OptionError, UnsupportedError
from inverse.measurement.noise import GaussianNoise
from inverse.method import Method, Weighted
from inverse.posterior import Posterior
from inverse.priors.evaluation.memory import is_out_of_memory
from inverse.priors.evaluation.transfer import to_host
from inverse.registry.discovery import get_method
from inverse.registry.options import values
from inverse.result import Result
from inverse.seeding import Generators

Observer = Callable[..., Any]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a solve; `result` holds the last iterate."""

    def __init__(self, result: Result):
        super().__init__("interrupted")
        self.result = result


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
        posterior: of one or more measurements.
        method: an instance, a class (default options) or a registered name.
        samples: per measurement.
        seed: of the method's randomness; sample j of image i depends on (seed, i, j) alone.
        observers: called as observer(index, total, x, misfit, nfe) after each iterate, outside the timed region; see
            `hookspecs.inverse_step`.
        first_image: index of the first measurement, or of each, where a larger set is solved in parts.

    Returns: samples in physical units, on the CPU, with cost, seconds and provenance.

    Raises: UnsupportedError with the reason if the method cannot run here; Interrupted (a KeyboardInterrupt) with the
        last iterate on Ctrl-C; InputError if the method diverges.
    """
    method = (
        get_method(method)
        if isinstance(method, str)
        else method()
        if isinstance(method, type)
        else method
    )
    if samples < 1:
        raise OptionError(f"samples must be at least 1, got {samples}")
    if reason := method.unsupported(posterior):
        raise UnsupportedError(reason)
    rows = posterior.rows(samples)
    generator = Generators.for_samples(
        seed, len(posterior), samples, device=posterior.device, first_image=first_image
    )
    answer: Tensor | Weighted | None = None
    index, seconds, interrupted = 0, 0.0, False
    iterates = iter(method.run(rows, samples, generator))
    with (
        torch.no_grad(),
        failures_told(posterior.device, lambda: f"in step {index + 1} of {method.name}"),
    ):
        try:
            while True:
                start = time.perf_counter()
                step = next(iterates, None)
                seconds += time.perf_counter() - start
                if step is None:
                    break
                answer, index = step, index + 1
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
        except KeyboardInterrupt:
            if answer is None:
                raise
            interrupted = True
        if answer is None:
            raise InputError(f"{method.name} yielded nothing")
        result = _result(posterior, rows, method, answer, samples, seed, seconds, interrupted)
    if interrupted:
        raise Interrupted(result)
    return result


@contextmanager
def failures_told(device: torch.device, where: Callable[[], str]) -> Iterator[None]:
    """A device that fails or runs out of memory becomes one line that says where.

    Raises: DeviceError or MemoryLimitError in place of torch's own errors.
    """
    try:
        yield
    except RuntimeError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if is_out_of_memory(error):
            words = f"{device} ran out of memory {where()} ({reason}); a smaller image or fewer samples would fit"
            raise MemoryLimitError(words) from error
        if isinstance(error, getattr(torch, "AcceleratorError", ())) or reason.startswith(
            ("CUDA error", "CUDA driver error", "cuDNN error")
        ):
            words = f"{device} failed {where()} ({reason}); what was saved before is as it was, --device cpu would work"
            raise DeviceError(words) from error
        raise


def residual_chi_square(posterior: Posterior, x: Tensor) -> Tensor:
    """|y - A x|^2 / (m sigma_y^2) of each row, not counted in the cost: (B, *shape) -> (B,); NaN without Gaussian noise of positive sigma."""
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
    x = answer.x if isinstance(answer, Weighted) else answer
    log_weights, log_evidence = (
        (answer.log_weights, answer.log_evidence) if isinstance(answer, Weighted) else (None, None)
    )
    if not bool(torch.isfinite(x).all()):
        raise InputError(
            f"{method.name} diverged: the answer holds NaN or infinity; try fewer or smaller steps, or a larger sigma_y"
        )
    split = (len(posterior), samples)
    tensors: dict[str, Any] = {
        "samples": rows.prior.decode(x).unflatten(0, split),
        "y": posterior.y,
        "misfit": residual_chi_square(rows, x).unflatten(0, split),
        "truth": None if posterior.truth is None else posterior.truth.to(posterior.dtype),
        "log_weights": None
        if log_weights is None
        else log_weights.unflatten(0, split).log_softmax(1),
        "log_evidence": log_evidence,
    }
    return Result(
        **to_host(tensors),
        cost=rows.cost,
        seconds=seconds,
        interrupted=interrupted,
        provenance={
            **posterior.provenance,
            "method": {
                "name": method.name,
                "options": values(method),
                "derived": method.derived(posterior),
            },
            **(
                {"trace": answer.trace}
                if isinstance(answer, Weighted) and answer.trace is not None
                else {}
            ),
            "seed": seed,
            "device": str(posterior.device),
            "dtype": str(posterior.dtype).removeprefix("torch."),
            **({"autocast": posterior.execution.autocast} if posterior.execution.autocast else {}),
            "versions": versions(),
            **(
                {"notes": [*posterior.provenance.get("notes", []), *found]}
                if (found := [*method.notes(posterior), *_outside(rows, method)])
                else {}
            ),
        },
    )


def _outside(rows: Posterior, method: Method) -> list[str]:
    """A note where the method asked the prior for noise levels that it was not made for."""
    prior, asked = rows.prior, rows.levels_asked
    if (
        prior.exact
        or asked is None
        or (asked[0] >= 0.999 * prior.sigma_min and asked[1] <= 1.001 * prior.sigma_max)
    ):
        return []
    levels = f"from {asked[0]:.3g} to {asked[1]:.3g}"
    return [
        f"{method.name} asked the prior for noise levels {levels}, it was made for {prior.sigma_min:.3g} to {prior.sigma_max:.3g}; beyond, it guesses"
    ]


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("inverse-posterior", "torch", "deepinv", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
