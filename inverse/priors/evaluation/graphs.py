"""CUDA graphs of a call and its VJP with respect to the image, recorded for each shape.

A graph replays the same kernels on the same memory. Inputs are therefore copied in and outputs
copied out, and a gradient belongs to the last forward that was replayed. For the gradient of an
earlier forward, that forward is replayed first. The backward graph keeps the tensors that the
forward saved (`retain_graph`), so that it can be replayed more than once;
`torch.cuda.make_graphed_callables` does not promise that.

Constraints (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs): shapes and control
flow are fixed, nothing waits for the host, the call is warmed up on the stream that captures,
autocast does not cache weights, and graphs that share a pool are replayed in the order of capture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from inverse.errors import is_out_of_memory

Call = Callable[[Tensor, Tensor], Tensor]
Record = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]
"""work -> replay: both return a tensor; a replay of a graph always returns the same tensor."""

MAX_RECORDINGS = 4
"""Shapes whose recordings are kept; each holds the tensors that its forward saves."""

WARM_UP = 3
"""Runs before a capture, as in torch's own graphs."""


def with_recordings(
    call: Call,
    warn: Callable[[str], None],
    recorder: Callable[[Tensor], Record],
    is_call_error: Callable[[Exception], bool],
) -> Call:
    """call(x, sigma) replayed from recordings by shape and dtype, differentiable once in x.

    If recording fails, the call runs without it. If the memory runs out, the recordings of other
    shapes are discarded first.

    Args:
        warn: receives the reason if recording fails.
        recorder: makes a `Record` for the device of x.
        is_call_error: whether the call would raise an error without recording, too; such an error
            is raised.
    """
    recordings: dict[Any, Recording] = {}
    failed = False

    def run(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal failed
        key = (x.shape, x.dtype, sigma.shape, sigma.dtype)
        if not failed and key not in recordings:
            if len(recordings) >= MAX_RECORDINGS:
                del recordings[next(iter(recordings))]
            try:
                recordings[key] = Recording(call, x, sigma, recorder(x))
            except RuntimeError as error:
                if is_out_of_memory(error) and recordings:
                    recordings.clear()
                    return run(x, sigma)
                if is_out_of_memory(error) or is_call_error(error):
                    raise
                failed = True
                recordings.clear()
                reason = (str(error).splitlines() or ["no reason given"])[0]
                warn(
                    "passes with a gradient run without CUDA graphs: "
                    f"{type(error).__name__}: {reason}"
                )
        return call(x, sigma) if failed else _Replay.apply(x, sigma, recordings[key])

    return run


class Recording:
    """The recorded forward and gradient of a call for a fixed shape.

    Args:
        x: (B, *shape).
        sigma: (B,).
        record: records a piece of work.

    Attributes:
        version: number of forwards; it identifies the forward that a gradient belongs to.
    """

    def __init__(self, call: Call, x: Tensor, sigma: Tensor, record: Record):
        self.x, self.sigma = x.detach().clone().requires_grad_(), sigma.detach().clone()
        self.version = 0
        self._call = call
        self._forward = record(self._run)
        self._out = self._forward()
        self._v = torch.ones_like(self._out)
        self._gradient = record(
            lambda: torch.autograd.grad(self._out, self.x, self._v, retain_graph=True)[0]
        )

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """call(x, sigma) as a new tensor: x (B, *shape), sigma (B,) -> (B, *shape)."""
        with torch.no_grad():
            self.x.copy_(x)
            self.sigma.copy_(sigma)
        self.version += 1
        self._out = self._forward()
        return self._out.detach().clone()

    def pull(self, v: Tensor) -> Tensor:
        """The VJP at the x of the last forward, as a new tensor: v (B, *shape) -> same."""
        self._v.copy_(v)
        return self._gradient().clone()

    def _run(self) -> Tensor:
        """The call, whose saved tensors are kept even inside a checkpoint (it discards them)."""
        with (
            torch.enable_grad(),
            torch.autograd.graph.saved_tensors_hooks(lambda saved: saved, lambda saved: saved),
        ):
            return self._call(self.x, self.sigma)


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sigma: Tensor, recording: Recording) -> Tensor:
        ctx.recording = recording
        ctx.save_for_backward(x, sigma)
        out = recording.forward(x, sigma)
        ctx.version = recording.version
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, None, None]:
        if ctx.version != ctx.recording.version:
            ctx.recording.forward(*ctx.saved_tensors)
            ctx.version = ctx.recording.version
        return ctx.recording.pull(v), None, None


def cuda_graphs(x: Tensor) -> Record:
    """Recording by stream capture on the device of x, with a shared memory pool and stream."""
    stream, pool = torch.cuda.Stream(x.device), torch.cuda.graph_pool_handle()
    autocast, half = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")

    def record(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        current, graph = torch.cuda.current_stream(x.device), torch.cuda.CUDAGraph()
        with (
            torch.enable_grad(),
            torch.autocast("cuda", half, enabled=autocast, cache_enabled=False),
        ):
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    work()
            current.wait_stream(stream)
            with torch.cuda.graph(graph, pool=pool, stream=stream):
                out = work()

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay

    return record
