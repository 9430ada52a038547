"""Memory that the evaluation of a prior takes, measured."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from inverse.priors.prior import Prior


class _Live(TorchDispatchMode):
    """Bytes of the live storages that operations allocated, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {
            leaf.untyped_storage()
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, Tensor)
        }
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if (
                isinstance(leaf, Tensor)
                and (storage := leaf.untyped_storage()) not in self._seen
                and storage not in inputs
            ):
                self._hold(storage)
        return out

    def _hold(self, storage: Any) -> None:
        self._seen.add(storage)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, storage.nbytes())

    def _drop(self, size: int) -> None:
        self.now -= size


def peak_bytes(call: Callable[[], Any]) -> int:
    """Peak bytes that a call allocates on any device, without work space inside an operation."""
    with _Live() as live:
        call()
    return live.peak


def bytes_needed(prior: Prior, x: Tensor, level: Tensor, gradient: bool) -> tuple[float, float]:
    """Bytes of an evaluation as fixed + per_pixel * pixels: (fixed, per_pixel).

    They are measured on two small images; a prior of a fixed size is measured at that size, with
    fixed = 0.

    Args:
        x: (B, *shape), for its shape, dtype and device.
        level: noise levels (B,).
        gradient: whether to include the graph and a VJP.
    """
    sides = [(64, 64), (64, 128)] if prior.shape[-2:] == (None, None) else [tuple(x.shape[-2:])]

    def peak(side: tuple[int, ...]) -> int:
        probe = torch.zeros(1, *x.shape[1:-2], *side, dtype=x.dtype, device=x.device)

        def call() -> None:
            if not gradient:
                prior(probe, level[:1])
                return
            with torch.enable_grad():
                leaf = probe.requires_grad_()
                out = prior(leaf, level[:1])
                torch.autograd.grad(out, leaf, torch.ones_like(out))

        return peak_bytes(call)

    pixels, peaks = [h * w for h, w in sides], [peak(side) for side in sides]
    if len(sides) == 1:
        return 0.0, peaks[0] / pixels[0]
    per_pixel = (peaks[1] - peaks[0]) / (pixels[1] - pixels[0])
    return max(0.0, peaks[0] - per_pixel * pixels[0]), per_pixel
