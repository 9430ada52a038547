"""Weights kept in half precision: what autocast would make of them at every evaluation, made once."""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import nn

from inverse.priors.prior import Prior

CAST = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)
"""Layers that autocast runs in half precision whatever the dtype of their weights."""


def half_precision_copy(prior: Prior, dtype: torch.dtype) -> Prior:
    """The prior with the weights of its convolutions and linear layers in `dtype`, for use under autocast, where it computes the same bits.

    Everything else is shared with it. A subclass of a layer, which may look at its weights, keeps them as they are, and so does what a
    module names in `full_precision`.
    """
    shared = {id(t): t for t in chain(prior.parameters(), prior.buffers())}
    half = copy.deepcopy(prior, shared)
    full = {
        part
        for module in half.modules()
        for name in getattr(module, "full_precision", ())
        for part in getattr(module, name).modules()
    }
    for layer in half.modules():
        if type(layer) in CAST and layer not in full:
            for name, weight in list(layer.named_parameters(recurse=False)):
                setattr(layer, name, nn.Parameter(weight.detach().to(dtype), requires_grad=False))
    return half


def fingerprint(prior: Prior) -> tuple[int, ...] | None:
    """Changes when a weight is written or moved; None for a prior that has weights to train, or none."""
    weights = list(prior.parameters())
    if not weights or any(weight.requires_grad for weight in weights):
        return None
    return tuple(
        number
        for weight in weights
        for number in (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
    )
