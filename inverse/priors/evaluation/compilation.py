"""A prior through torch.compile, and how to tell when that failed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor

from inverse.priors.evaluation.graphs import cuda_graphs, graphed
from inverse.priors.prior import Prior


def compiled(
    prior: Prior, mode: str, gradient: bool, say: Callable[[str], None]
) -> Callable[[Tensor, Tensor], Tensor]:
    """torch.compile for static shapes. `auto` is reduce-overhead (CUDA graphs) on a GPU and default elsewhere.

    A graph's outputs live until its next replay, so they are copied. Passes with a VJP have graphs of their own (`graphs`): torch.compile's are of
    one forward and one backward in turn, and a VJP may be asked for twice, or after another forward.

    Args:
        say: told why passes with a VJP do without graphs, where their capture failed.
    """
    on_gpu = any(t.is_cuda for t in chain(prior.parameters(), prior.buffers()))
    chosen = ("reduce-overhead" if on_gpu else "default") if mode == "auto" else mode
    graphs = on_gpu and chosen in ("reduce-overhead", "max-autotune")
    if gradient:
        chosen = {"reduce-overhead": "default", "max-autotune": "max-autotune-no-cudagraphs"}.get(
            chosen, chosen
        )
    call = torch.compile(prior, mode=chosen, dynamic=False)

    def run(x: Tensor, sigma: Tensor) -> Tensor:
        if graphs and not gradient:
            torch.compiler.cudagraph_mark_step_begin()
        with torch._functorch.config.patch(donated_buffer=False):  # type: ignore[attr-defined]
            out = call(x, sigma)
        return out.clone() if graphs and not gradient else out

    return graphed(run, say, cuda_graphs, is_compiler_error) if graphs and gradient else run


def is_compiler_error(error: Exception) -> bool:
    """Whether an error was raised by torch's compiler rather than by the prior."""
    return type(error).__module__.startswith(
        ("torch._dynamo", "torch._inductor", "torch._functorch")
    )


def error_summary(error: Exception) -> str:
    """The first two lines that say something, without the compiler's advice on debugging it."""
    said = str(error).split("Set TORCHDYNAMO_VERBOSE")[0]
    return " ".join([line.strip() for line in said.splitlines() if line.strip()][:2])[:200]
