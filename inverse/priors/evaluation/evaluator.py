"""Carries out evaluations of a prior as an `Execution` asks: in parts that fit the memory, in tiles, autocast, compiled.

What is learned on the way (how much fits, what was compiled, what has been said) is kept on the prior, so that the next image of a folder
starts with it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from inverse.errors import ExecutionWarning, MemoryLimitError
from inverse.execution import HALVES, Execution
from inverse.priors.evaluation.compilation import compiled, error_summary, is_compiler_error
from inverse.priors.evaluation.half_precision import fingerprint, half_precision_copy
from inverse.priors.evaluation.memory import bytes_needed, is_out_of_memory, usable_memory
from inverse.priors.evaluation.tiling import tiled
from inverse.priors.prior import Prior

SURELY = 16 * 1024
"""Bytes a pixel below which nothing is measured if that many fit: five times what the shipped U-Net takes with its graph."""

NOTHING = 2**28
"""Bytes that are there without looking."""

STEEP = 5.0
"""Noise level (model units) above which a prior that is differentiated keeps its own precision under autocast: there an error of a thousandth that all
pixels share is multiplied several hundred times along the steps of PiGDM, and the answer is another draw."""


class _Held(dict):  # type: ignore[type-arg]
    """What a prior holds of its evaluators; a copy or a pickle of the prior starts with none."""

    def __reduce__(self) -> Any:
        return _Held, ()


def evaluator(prior: Prior, execution: Execution) -> Evaluator:
    """The evaluator of this prior under these settings; one for each pair."""
    held = prior.__dict__.setdefault("_evaluators", _Held())
    if execution not in held:
        held[execution] = Evaluator(prior, execution)
    return held[execution]


class Evaluator:
    """A prior's denoiser and its VJP; see `evaluator`."""

    def __init__(self, prior: Prior, execution: Execution):
        self.prior, self.execution = prior, execution
        self._budget = 0.0
        self._fits: dict[bool, float] = {}
        self._compiled: dict[bool, Callable[[Tensor, Tensor], Tensor]] = {}
        self._halved: tuple[tuple[int, ...], Prior] | None = None
        self._compiles = execution.compile is not None
        self._said: set[str] = set()

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """x0_hat: x (B, *shape), sigma () or (B,) -> (B, *shape) in the dtype of x, without a graph."""
        with torch.no_grad():
            return self._within_memory(lambda: self._evaluate(x, sigma, False), x, False)

    def tweedie(
        self, x: Tensor, sigma: Tensor | float
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """x0_hat and its VJP, which may be called more than once. Gradients go to x alone, none to weights. Under autocast the host reads sigma."""
        if self.execution.autocast and float(torch.as_tensor(sigma).max()) > STEEP:
            return self._full.tweedie(x, sigma)

        def graph() -> tuple[Tensor, Tensor]:
            leaf = x.detach().requires_grad_()
            with torch.enable_grad():
                return leaf, self._evaluate(leaf, sigma, True)

        held = [self._within_memory(graph, x, True)]

        def pull(v: Tensor) -> Tensor:
            if not held:
                held.append(graph())
            leaf, out = held[0]
            try:
                return torch.autograd.grad(out, leaf, v, retain_graph=True)[0]
            except Exception:
                held.clear()  # the next try builds a smaller graph, or one that is not compiled
                raise

        return held[0][1].detach(), lambda v: self._within_memory(lambda: pull(v), x, True)

    def rows_at_once(
        self, shape: tuple[int, ...], rows: int, device: torch.device, dtype: torch.dtype
    ) -> int:
        """How many of `rows` images of a shape one call takes within the memory, a gradient included; more would go through in parts."""
        if self.execution.autocast:
            return self._full.rows_at_once(shape, rows, device, dtype)
        x = torch.zeros(1, *shape, device=device, dtype=dtype)
        x = x.to(self._dtype(x)).expand(rows, *shape)
        fits = self._fitting(x, torch.ones(rows, device=device, dtype=x.dtype), True)
        return max(1, min(rows, int(min(fits, 2**52) // _pixels(x))))

    @property
    def _full(self) -> Evaluator:
        """Of the same prior, without autocast."""
        return evaluator(self.prior, replace(self.execution, autocast=None))

    # --- one evaluation ------------------------------------------------------------------------------------------------

    def _evaluate(self, x: Tensor, sigma: Tensor | float, gradient: bool) -> Tensor:
        dtype = self._dtype(x)
        level = (
            sigma.to(x.device, dtype)
            if torch.is_tensor(sigma)
            else torch.full((), sigma, dtype=dtype, device=x.device)
        )
        level = level.reshape(-1).expand(x.shape[0])
        given = x.to(dtype)
        rows, side = self._plan(given, level, gradient)
        run = self._run(gradient)
        if side:
            assert self.prior.halo is not None
            whole, halo = run, self.prior.halo

            def run(part: Tensor, s: Tensor) -> Tensor:
                return tiled(whole, part, s, side, halo)

        with self._autocast(x.device):
            if rows >= x.shape[0]:
                return run(given, level).to(x.dtype)
            parts = zip(given.split(rows), level.split(rows), strict=True)
            if (
                gradient and not side
            ):  # one part's graph at a time: it is built again in the backward pass
                return torch.cat(
                    [checkpoint(run, part, s, use_reentrant=False) for part, s in parts]
                ).to(x.dtype)  # type: ignore[misc]
            return torch.cat([run(part, s) for part, s in parts]).to(x.dtype)

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

    # --- memory --------------------------------------------------------------------------------------------------------

    def _plan(self, x: Tensor, level: Tensor, gradient: bool) -> tuple[int, int | None]:
        """Rows in a call, and the side of the tiles if the images are to be cut."""
        fits, most, pixels = (
            self._fitting(x, level, gradient),
            self.execution.max_pixels,
            _pixels(x),
        )
        if x.ndim != 4 or self.prior.halo is None or pixels <= min(self.execution.tile_above, fits):
            return max(1, int(min(most, fits) // pixels)), None
        widest, wanted = (
            n // self.prior.stride * self.prior.stride
            for n in (self.execution.tile, int(min(fits, 2**52) ** 0.5) - 2 * self.prior.halo)
        )
        side = max(min(widest, max(wanted, self._least_side())), self.prior.stride)
        return (max(1, most // pixels) if fits >= x.shape[0] * pixels else 1), side

    def _least_side(self) -> int:
        """Of a tile: as wide as its margin, or nine tenths of the work would be for margins."""
        halo, stride = self.prior.halo or 0, self.prior.stride
        return max(stride, halo // stride * stride)

    def _smallest(self, x: Tensor) -> int:
        """Pixels of the smallest call that one row can be cut into."""
        local = self.prior.halo is not None and x.ndim == 4
        return (
            min(_pixels(x), (self._least_side() + 2 * (self.prior.halo or 0)) ** 2)
            if local
            else _pixels(x)
        )

    def _fitting(self, x: Tensor, level: Tensor, gradient: bool) -> float:
        """Pixels of a call that fit into the memory; measured when it first matters, smaller after the memory has run out."""
        if gradient not in self._fits:
            given, surely = self.execution.memory, x.shape[0] * _pixels(x) * SURELY
            if x.ndim != 4 or (surely <= NOTHING and not given):
                return float("inf")
            self._budget = self._budget or (
                given * 2**30 if given else usable_memory(x.device) or float("inf")
            )
            budget = self._budget
            if surely <= budget:
                return float("inf")
            with self._autocast(x.device):
                fixed, each = bytes_needed(self.prior, x, level, gradient)
            fits, smallest = max(0.0, budget - fixed) / each, self._smallest(x)
            if given and fits < smallest:
                takes = (fixed + each * smallest) / 2**30
                words = f"memory: {given:g} GiB are too little for this prior"
                raise MemoryLimitError(
                    f"{words}, whose smallest call here takes {takes:.3g} GiB; give it {1.1 * takes:.2g}"
                )
            self._fits[gradient] = fits
        return self._fits[gradient]

    def _within_memory(self, attempt: Callable[[], Any], x: Tensor, gradient: bool) -> Any:
        """attempt(), again with half the pixels in a call as often as the memory runs out, again without compilation if that fails."""
        while True:
            try:
                return attempt()
            except Exception as error:
                if is_out_of_memory(error):
                    reason = str(error).splitlines()[0]
                elif self._compiles and is_compiler_error(error):
                    self._compiles = False
                    self._say(
                        f"the prior runs without compilation: {type(error).__name__}: {error_summary(error)}"
                    )
                    continue
                else:
                    raise
            if x.device.type == "cuda":
                torch.cuda.empty_cache()
            self._halve(x, gradient, reason)

    def _halve(self, x: Tensor, gradient: bool, reason: str) -> None:
        """Plan for half of what has just been too much; raise if there is no half."""
        rows, side = self._plan(x, x.new_ones(x.shape[0]), gradient)
        halo = self.prior.halo or 0
        tried, smallest = (
            min(rows, x.shape[0]) * ((side + 2 * halo) ** 2 if side else _pixels(x)),
            self._smallest(x),
        )
        if tried <= smallest:
            shape = "x".join(map(str, x.shape[1:]))
            raise MemoryLimitError(
                f"the prior ran out of memory on {x.device} with one row of {shape} ({reason}); {self._remedy(x, gradient)}"
            )
        self._fits[gradient] = max(tried // 2, smallest)
        self._say(
            f"out of memory on {x.device} with {tried} pixels in one call of the prior: going on with {int(self._fits[gradient])}"
        )

    def _remedy(self, x: Tensor, gradient: bool) -> str:
        """The largest halving of the image that one row fits at, found by trying."""
        side: tuple[int, ...] = (
            tuple(x.shape[-2:]) if x.ndim == 4 and self.prior.shape[-2:] == (None, None) else ()
        )
        while side and min(side) > max(1, self.prior.stride):
            side = tuple(n // 2 for n in side)
            try:
                with torch.set_grad_enabled(gradient), self._autocast(x.device):
                    small = (
                        x[:1, ..., : side[0], : side[1]]
                        .to(self._dtype(x))
                        .detach()
                        .requires_grad_(gradient)
                    )
                    self.prior(small, torch.ones(1, dtype=small.dtype, device=x.device))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            else:
                return f"{side[0]}x{side[1]} pixels would fit"
        return "no smaller size can be had from this prior; use a device with more memory"

    # --- compilation ---------------------------------------------------------------------------------------------------

    def _run(self, gradient: bool) -> Callable[[Tensor, Tensor], Tensor]:
        """The prior, compiled if asked and if that has not failed."""
        prior = self._in_half() if self.execution.autocast else self.prior
        if not self._compiles:
            return prior
        if gradient not in self._compiled:
            self._compiled[gradient] = compiled(
                prior, self.execution.compile or "auto", gradient, self._say
            )
        return self._compiled[gradient]

    def _in_half(self) -> Prior:
        """The prior with frozen weights cast once, again if somebody has written them since."""
        assert self.execution.autocast is not None
        if (now := fingerprint(self.prior)) is None:
            return self.prior
        if self._halved is None or self._halved[0] != now:
            self._halved = now, half_precision_copy(self.prior, HALVES[self.execution.autocast])
            self._compiled.clear()
        return self._halved[1]

    def _say(self, words: str) -> None:
        """Once for each kind of thing to say."""
        kind = words.split(":")[0].split(" with ")[0]
        if kind not in self._said:
            self._said.add(kind)
            warnings.warn(words, ExecutionWarning, stacklevel=2)


def _pixels(x: Tensor) -> int:
    return x[0].numel() // x.shape[1] if x.ndim == 4 else x[0].numel()
