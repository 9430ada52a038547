"""Copies of tensors from the host to a device and back.

Copies to and from a GPU use pinned memory, so that the host waits once for all of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A copy of x on a device, of the given dtype; the host does not wait for it."""
    if device.type == "cuda" and x.device.type == "cpu":
        return x.detach().to(dtype).pin_memory().to(device, non_blocking=True)
    return x.detach().to(device, dtype, copy=True)


def to_host(tensors: dict[str, Any]) -> dict[str, Any]:
    """The tensors on the host, after all copies are complete; None stays None."""
    devices = {x.device for x in tensors.values() if x is not None and x.is_cuda}
    copies = {name: None if x is None else _host_copy(x) for name, x in tensors.items()}
    for device in devices:
        torch.cuda.current_stream(device).synchronize()
    return copies


def _host_copy(x: Tensor) -> Tensor:
    if not x.is_cuda:
        return x.cpu()
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)
