"""Weights in half precision, cast once rather than by autocast at every evaluation."""

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
"""Layers that autocast runs in half precision for any dtype of their weights."""


def half_precision_copy(prior: Prior, dtype: torch.dtype) -> Prior:
    """The prior with the weights of its convolutions and linear layers in `dtype`.

    Under autocast it computes the same bits as the prior. All other tensors are shared with the
    prior. Two kinds of layers keep their weights: subclasses, which may read them, and those that a
    module names in `full_precision`.
    """
    shared = {id(t): t for t in chain(prior.parameters(), prior.buffers())}
    half = copy.deepcopy(prior, shared)
    full_precision = {
        part
        for module in half.modules()
        for name in getattr(module, "full_precision", ())
        for part in getattr(module, name).modules()
    }
    for layer in half.modules():
        if type(layer) in CAST and layer not in full_precision:
            for name, weight in list(layer.named_parameters(recurse=False)):
                setattr(layer, name, nn.Parameter(weight.detach().to(dtype), requires_grad=False))
    return half


def fingerprint(prior: Prior) -> tuple[int, ...] | None:
    """A value that changes when a weight is written or moved.

    Returns: None for a prior with trainable weights, or without weights.
    """
    weights = list(prior.parameters())
    if not weights or any(weight.requires_grad for weight in weights):
        return None
    return tuple(
        number
        for weight in weights
        for number in (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
    )
