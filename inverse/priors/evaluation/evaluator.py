"""Evaluate a prior under the settings of an `Execution`: in parts, in tiles, autocast, compiled.

The prior keeps its evaluators, so that the next image of a folder reuses the measured memory, the
compiled code and the list of warnings.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from inverse.errors import ExecutionWarning, MemoryLimitError, first_line, is_out_of_memory
from inverse.execution import HALVES, Execution
from inverse.memory import usable_memory
from inverse.priors.evaluation.compilation import compiled, error_summary, is_compiler_error
from inverse.priors.evaluation.half_precision import fingerprint, half_precision_copy
from inverse.priors.evaluation.memory import bytes_needed
from inverse.priors.evaluation.tiling import tiled
from inverse.priors.prior import Prior
from inverse.rows import like

BYTES_PER_PIXEL_BOUND = 16 * 1024
"""Upper bound on the memory of a prior: five times that of the shipped U-Net with its graph.

Memory is not measured if a call fits at this rate.
"""

NEGLIGIBLE_BYTES = 2**28
"""Memory that is assumed to be free."""

FULL_PRECISION_SIGMA = 5.0
"""Noise level (model units) above which a differentiated prior keeps its precision under autocast.

There, a relative error of 1e-3 that all pixels share grows several hundred times along the steps of
PiGDM, and the result is another draw.
"""


class _EvaluatorCache(dict):  # type: ignore[type-arg]
    """The evaluators of a prior, by their settings; empty in a copy or a pickle of the prior."""

    def __reduce__(self) -> Any:
        return _EvaluatorCache, ()


def evaluator(prior: Prior, execution: Execution) -> Evaluator:
    """The evaluator of a prior under these settings; the same object at every call."""
    cache = prior.__dict__.setdefault("_evaluators", _EvaluatorCache())
    if execution not in cache:
        cache[execution] = Evaluator(prior, execution)
    return cache[execution]


class Evaluator:
    """The denoiser of a prior and its VJP under the settings of an `Execution`.

    Raises: MemoryLimitError, from every evaluation, if the smallest possible call does not fit into
        the memory.
    """

    def __init__(self, prior: Prior, execution: Execution):
        self.prior, self.execution = prior, execution
        self._budget = 0.0
        self._fits: dict[bool, float] = {}
        self._compiled: dict[bool, Callable[[Tensor, Tensor], Tensor]] = {}
        self._half_precision: tuple[tuple[int, ...], Prior] | None = None
        self._compiles = execution.compile is not None
        self._warned: set[str] = set()

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """x0_hat in the dtype of x, without a graph: x (B, *shape), sigma () or (B,) -> like x."""
        with torch.no_grad():
            return self._within_memory(lambda: self._evaluate(x, sigma, False), x, False)

    def tweedie(
        self, x: Tensor, sigma: Tensor | float
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """x0_hat and its VJP v -> v^T dx0_hat / dx: x, v (B, *shape), sigma () or (B,).

        The VJP may be called more than once. Weights receive no gradients. Under autocast the host
        reads sigma.
        """
        if self.execution.autocast and float(torch.as_tensor(sigma).max()) > FULL_PRECISION_SIGMA:
            return self._full_precision.tweedie(x, sigma)

        def graph() -> tuple[Tensor, Tensor]:
            leaf = x.detach().requires_grad_()
            with torch.enable_grad():
                return leaf, self._evaluate(leaf, sigma, True)

        graphs = [self._within_memory(graph, x, True)]

        def pull(v: Tensor) -> Tensor:
            if not graphs:
                graphs.append(graph())
            leaf, out = graphs[0]
            try:
                return torch.autograd.grad(out, leaf, v, retain_graph=True)[0]
            except Exception:
                graphs.clear()  # the next attempt builds a smaller or an uncompiled graph
                raise

        return graphs[0][1].detach(), lambda v: self._within_memory(lambda: pull(v), x, True)

    def rows_at_once(
        self, shape: tuple[int, ...], rows: int, device: torch.device, dtype: torch.dtype
    ) -> int:
        """How many rows fit into a single call with its gradient; more rows are split into parts.

        Args:
            shape: shape of one row.
            rows: largest number of interest.
        """
        if self.execution.autocast:
            return self._full_precision.rows_at_once(shape, rows, device, dtype)
        x = torch.zeros(1, *shape, device=device, dtype=dtype)
        x = x.to(self._dtype(x)).expand(rows, *shape)
        fits = self._fitting(x, torch.ones(rows, device=device, dtype=x.dtype), True)
        return max(1, min(rows, int(min(fits, 2**52) // _pixels(x))))

    @property
    def _full_precision(self) -> Evaluator:
        """The evaluator of the same prior without autocast."""
        return evaluator(self.prior, replace(self.execution, autocast=None))

    # --- an evaluation ------------------------------------------------------------------------

    def _evaluate(self, x: Tensor, sigma: Tensor | float, gradient: bool) -> Tensor:
        dtype = self._dtype(x)
        cast = x.to(dtype)
        level = like(sigma, cast).reshape(-1).expand(x.shape[0])
        rows, side = self._plan(cast, level, gradient)
        run = self._run(gradient)
        if side:
            assert self.prior.halo is not None
            whole, halo = run, self.prior.halo

            def run(part: Tensor, s: Tensor) -> Tensor:
                return tiled(whole, part, s, side, halo)

        with self._autocast(x.device):
            if rows >= x.shape[0]:
                return run(cast, level).to(x.dtype)
            parts = zip(cast.split(rows), level.split(rows), strict=True)
            call: Callable[..., Any] = run
            if gradient and not side:  # the backward pass builds the graph of each part again
                call = partial(checkpoint, run, use_reentrant=False)
            return torch.cat([call(part, s) for part, s in parts]).to(x.dtype)

    def _dtype(self, x: Tensor) -> torch.dtype:
        floating = (
            t.dtype
            for t in chain(self.prior.parameters(), self.prior.buffers())
            if t.is_floating_point()
        )
        return next(floating, x.dtype)

    def _autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        half = self.execution.autocast
        return nullcontext() if half is None else torch.autocast(device.type, HALVES[half])

    # --- memory -------------------------------------------------------------------------------

    def _plan(self, x: Tensor, level: Tensor, gradient: bool) -> tuple[int, int | None]:
        """Rows per call, and the side of the tiles; None for whole images."""
        fits, pixels = self._fitting(x, level, gradient), _pixels(x)
        limit, halo, stride = self.execution.max_pixels, self.prior.halo, self.prior.stride
        if x.ndim != 4 or halo is None or pixels <= min(self.execution.tile_above, fits):
            return max(1, int(min(limit, fits) // pixels)), None
        largest = self.execution.tile // stride * stride
        fitting = (int(min(fits, 2**52) ** 0.5) - 2 * halo) // stride * stride
        side = max(min(largest, max(fitting, self._smallest_tile())), stride)
        return (max(1, limit // pixels) if fits >= x.shape[0] * pixels else 1), side

    def _smallest_tile(self) -> int:
        """Side of the smallest tile: its margin, so that margins take at most 8/9 of the work."""
        halo, stride = self.prior.halo or 0, self.prior.stride
        return max(stride, halo // stride * stride)

    def _smallest(self, x: Tensor) -> int:
        """Pixels of the smallest call for a part of one row."""
        if self.prior.halo is None or x.ndim != 4:
            return _pixels(x)
        return min(_pixels(x), (self._smallest_tile() + 2 * self.prior.halo) ** 2)

    def _fitting(self, x: Tensor, level: Tensor, gradient: bool) -> float:
        """Pixels of a call that fit into the memory.

        The memory is measured when it first matters. The number shrinks when the memory runs out.
        """
        if gradient not in self._fits:
            limit, bound = self.execution.memory, x.shape[0] * _pixels(x) * BYTES_PER_PIXEL_BOUND
            if x.ndim != 4 or (bound <= NEGLIGIBLE_BYTES and not limit):
                return float("inf")
            self._budget = self._budget or (
                limit * 2**30 if limit else usable_memory(x.device) or float("inf")
            )
            if bound <= self._budget:
                return float("inf")
            with self._autocast(x.device):
                fixed, per_pixel = bytes_needed(self.prior, x, level, gradient)
            fits, smallest = max(0.0, self._budget - fixed) / per_pixel, self._smallest(x)
            if limit and fits < smallest:
                needed = (fixed + per_pixel * smallest) / 2**30
                raise MemoryLimitError(
                    f"memory: {limit:g} GiB are too little for this prior, "
                    f"whose smallest call takes {needed:.3g} GiB; allow {1.1 * needed:.2g}"
                )
            self._fits[gradient] = fits
        return self._fits[gradient]

    def _within_memory(self, attempt: Callable[[], Any], x: Tensor, gradient: bool) -> Any:
        """attempt(), repeated with half the pixels per call each time the memory runs out.

        If compilation fails, it is repeated without.
        """
        while True:
            try:
                return attempt()
            except Exception as error:
                if is_out_of_memory(error):
                    reason = first_line(error)
                elif self._compiles and is_compiler_error(error):
                    self._compiles = False
                    self._warn(
                        "the prior runs without compilation: "
                        f"{type(error).__name__}: {error_summary(error)}"
                    )
                    continue
                else:
                    raise
            if x.device.type == "cuda":
                torch.cuda.empty_cache()
            self._halve(x, gradient, reason)

    def _halve(self, x: Tensor, gradient: bool, reason: str) -> None:
        """Allow half the pixels of the failed call; raise MemoryLimitError if it cannot shrink."""
        rows, side = self._plan(x, x.new_ones(x.shape[0]), gradient)
        halo = self.prior.halo or 0
        pixels_per_row = (side + 2 * halo) ** 2 if side else _pixels(x)
        tried, smallest = min(rows, x.shape[0]) * pixels_per_row, self._smallest(x)
        if tried <= smallest:
            shape = "x".join(map(str, x.shape[1:]))
            raise MemoryLimitError(
                f"the prior ran out of memory on {x.device} with one row of {shape} ({reason}); "
                f"{self._remedy(x, gradient)}"
            )
        self._fits[gradient] = max(tried // 2, smallest)
        self._warn(
            f"out of memory on {x.device} with {tried} pixels in one call of the prior: "
            f"continuing with {int(self._fits[gradient])}"
        )

    def _remedy(self, x: Tensor, gradient: bool) -> str:
        """Advice for a row that does not fit: the largest halving of the image that does."""
        side: tuple[int, ...] = (
            tuple(x.shape[-2:]) if x.ndim == 4 and self.prior.shape[-2:] == (None, None) else ()
        )
        while side and min(side) > max(1, self.prior.stride):
            side = tuple(n // 2 for n in side)
            try:
                with torch.set_grad_enabled(gradient), self._autocast(x.device):
                    small = x[:1, ..., : side[0], : side[1]].to(self._dtype(x)).detach()
                    small.requires_grad_(gradient)
                    self.prior(small, torch.ones(1, dtype=small.dtype, device=x.device))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            else:
                return f"{side[0]}x{side[1]} pixels would fit"
        return "this prior has no smaller size that fits; use a device with more memory"

    # --- compilation --------------------------------------------------------------------------

    def _run(self, gradient: bool) -> Callable[[Tensor, Tensor], Tensor]:
        """The prior, compiled if requested and unless compilation has failed."""
        prior = self._cast_prior() if self.execution.autocast else self.prior
        if not self._compiles:
            return prior
        if gradient not in self._compiled:
            self._compiled[gradient] = compiled(
                prior, self.execution.compile or "auto", gradient, self._warn
            )
        return self._compiled[gradient]

    def _cast_prior(self) -> Prior:
        """The prior with frozen weights cast to half precision, again whenever they change."""
        assert self.execution.autocast is not None
        if (current := fingerprint(self.prior)) is None:
            return self.prior
        if self._half_precision is None or self._half_precision[0] != current:
            half = half_precision_copy(self.prior, HALVES[self.execution.autocast])
            self._half_precision = current, half
            self._compiled.clear()
        return self._half_precision[1]

    def _warn(self, message: str) -> None:
        """Emit an `ExecutionWarning`, once for each beginning of a message."""
        topic = message.split(":")[0].split(" with ")[0]
        if topic not in self._warned:
            self._warned.add(topic)
            warnings.warn(message, ExecutionWarning, stacklevel=2)


def _pixels(x: Tensor) -> int:
    return x[0].numel() // x.shape[1] if x.ndim == 4 else x[0].numel()
