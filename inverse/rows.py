"""Tensors whose rows are independent: a number per row as a factor, and products row by row."""

from __future__ import annotations

import torch
from torch import Tensor


def like(sigma: Tensor | float, x: Tensor) -> Tensor:
    """sigma () or (B,), reshaped to multiply x (B, *shape), in its dtype and on its device.

    A float is written on the device directly, since a copy would make the host wait.
    """
    sigma = (
        sigma.to(x.device, x.dtype)
        if torch.is_tensor(sigma)
        else torch.full((), sigma, dtype=x.dtype, device=x.device)
    )
    return sigma if sigma.ndim == 0 else sigma.reshape(-1, *[1] * (x.ndim - 1))


def row_dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each row: (B, *shape) twice -> (B,)."""
    return (a * b).flatten(1).sum(1)


def per_row(value: Tensor, x: Tensor) -> Tensor:
    """value (B,), reshaped to multiply x (B, *shape)."""
    return value.reshape(-1, *[1] * (x.ndim - 1))
