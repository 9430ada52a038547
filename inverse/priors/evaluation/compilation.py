"""Compile a prior with torch.compile, and recognise errors of the compiler."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor

from inverse.priors.evaluation.graphs import cuda_graphs, with_recordings
from inverse.priors.prior import Prior

WITHOUT_GRAPHS = {
    "reduce-overhead": "default",
    "max-autotune": "max-autotune-no-cudagraphs",
}
"""Modes of torch.compile that capture CUDA graphs, and the same modes without graphs."""


def compiled(
    prior: Prior, mode: str, gradient: bool, warn: Callable[[str], None]
) -> Callable[[Tensor, Tensor], Tensor]:
    """The prior compiled for static shapes: x (B, *shape), sigma (B,) -> (B, *shape).

    The outputs of a CUDA graph live until its next replay, so they are copied. Passes with a VJP
    use the graphs of `graphs`: those of torch.compile alternate a forward and a backward, but a VJP
    may be evaluated twice, or after another forward.

    Args:
        mode: a mode of torch.compile, or `auto`: reduce-overhead (CUDA graphs) on a GPU, default
            elsewhere.
        gradient: whether the result will be differentiated.
        warn: receives the reason if CUDA graphs of passes with a VJP cannot be captured.
    """
    on_gpu = any(t.is_cuda for t in chain(prior.parameters(), prior.buffers()))
    if mode == "auto":
        mode = "reduce-overhead" if on_gpu else "default"
    graphs = on_gpu and mode in WITHOUT_GRAPHS
    if gradient:
        mode = WITHOUT_GRAPHS.get(mode, mode)
    call = torch.compile(prior, mode=mode, dynamic=False)

    def run(x: Tensor, sigma: Tensor) -> Tensor:
        if graphs and not gradient:
            torch.compiler.cudagraph_mark_step_begin()
        with torch._functorch.config.patch(donated_buffer=False):  # type: ignore[attr-defined]
            out = call(x, sigma)
        return out.clone() if graphs and not gradient else out

    if graphs and gradient:
        return with_recordings(run, warn, cuda_graphs, is_compiler_error)
    return run


def is_compiler_error(error: Exception) -> bool:
    """Whether torch's compiler raised an error, rather than the prior."""
    return type(error).__module__.startswith(
        ("torch._dynamo", "torch._inductor", "torch._functorch")
    )


def error_summary(error: Exception) -> str:
    """The first two lines of an error's message, without the compiler's debugging advice."""
    message = str(error).split("Set TORCHDYNAMO_VERBOSE")[0]
    return " ".join([line.strip() for line in message.splitlines() if line.strip()][:2])[:200]
