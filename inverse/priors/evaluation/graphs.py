"""A call and its gradient with respect to the image, recorded once for each shape and replayed: CUDA graphs of forward and VJP.

A graph replays the same kernels on the same memory, so that inputs are copied in and outputs out, and a gradient belongs to the last forward
that was replayed; one of an earlier forward has that replayed first. The backward graph keeps what the forward saved (`retain_graph`), so that it
can be replayed more than once, which `torch.cuda.make_graphed_callables` does not promise.

Constraints (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs): shapes and control flow are fixed, nothing waits for the host, the
call is warmed up on the stream that captures, autocast does not cache weights, and graphs that share a pool are replayed in the order of capture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from inverse.priors.evaluation.memory import is_out_of_memory

Call = Callable[[Tensor, Tensor], Tensor]
Record = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]
"""work -> replay: both return a tensor, a replay always the same one where it is a graph."""

KEPT = 4
"""Shapes whose graphs are kept; each holds what its forward saves."""

WARM_UP = 3
"""Runs before a capture, as torch's own."""


def graphed(
    call: Call,
    say: Callable[[str], None],
    recorder: Callable[[Tensor], Record],
    of_call: Callable[[Exception], bool],
) -> Call:
    """call(x, sigma), differentiable once with respect to x, from recordings by shape and dtype; where recording fails, as it is, and why is said.

    Args:
        recorder: makes a `Record` for the device of x.
        of_call: whether an error is one that the call would raise unrecorded, too; it goes to the caller.

    When the memory runs out, the other shapes' recordings go first.
    """
    kept: dict[Any, Recording] = {}
    failed = False

    def run(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal failed
        key = (x.shape, x.dtype, sigma.shape, sigma.dtype)
        if not failed and key not in kept:
            if len(kept) >= KEPT:
                del kept[next(iter(kept))]
            try:
                kept[key] = Recording(call, x, sigma, recorder(x))
            except RuntimeError as error:
                if is_out_of_memory(error) and kept:
                    kept.clear()
                    return run(x, sigma)
                if is_out_of_memory(error) or of_call(error):
                    raise
                failed = True
                kept.clear()
                say(
                    f"passes with a gradient run without CUDA graphs: {type(error).__name__}: {(str(error).splitlines() or ['no reason given'])[0]}"
                )
        return call(x, sigma) if failed else _Replay.apply(x, sigma, kept[key])

    return run


class Recording:
    """The forward and the gradient of a call at one shape.

    Attributes:
        version: counts the forwards; a gradient that is asked for belongs to one of them.
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
        """call(x, sigma), in memory of its own."""
        with torch.no_grad():
            self.x.copy_(x)
            self.sigma.copy_(sigma)
        self.version += 1
        self._out = self._forward()
        return self._out.detach().clone()

    def pull(self, v: Tensor) -> Tensor:
        """The VJP at the x of the last forward, in memory of its own."""
        self._v.copy_(v)
        return self._gradient().clone()

    def _run(self) -> Tensor:
        """What is saved for the gradient stays here, even where a caller's checkpoint would throw it away and ask for it again."""
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
    """Recording by stream capture on the device of x, all in one pool of memory and on one stream."""
    stream, pool, half = (
        torch.cuda.Stream(x.device),
        torch.cuda.graph_pool_handle(),
        torch.get_autocast_dtype("cuda"),
    )
    autocast = torch.is_autocast_enabled("cuda")

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
