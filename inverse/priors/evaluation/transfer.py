"""Tensors from the host to a device and back; to and from a GPU through pinned memory, so that the host waits once and not at each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A copy of x on a device, which the host does not wait for."""
    if device.type == "cuda" and x.device.type == "cpu":
        return x.detach().to(dtype).pin_memory().to(device, non_blocking=True)
    return x.detach().to(device, dtype, copy=True)


def to_host(tensors: dict[str, Any]) -> dict[str, Any]:
    """These tensors on the host, complete; None stays None."""
    waited = [x.device for x in tensors.values() if x is not None and x.is_cuda]
    found = {
        name: None if x is None else _pinned(x) if x.is_cuda else x.cpu()
        for name, x in tensors.items()
    }
    for device in set(waited):
        torch.cuda.current_stream(device).synchronize()
    return found


def _pinned(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)
