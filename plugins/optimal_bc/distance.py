"""Registered metrics as losses of one reconstruction."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from inverse.errors import InputError, OptionError
from inverse.execution import Cost
from inverse.metrics.registered import find_metric
from inverse.result import Result


def loss_by(distance: str) -> Callable[[Tensor, Tensor], float]:
    """The metric `distance` of a reconstruction and its truth, signed so that less is better.

    The loss takes both as (*shape), physical units, and raises InputError where the metric does
    not apply to the shape.

    Raises: UnknownNameError for an unknown metric; OptionError for a metric without a direction;
        InputError for a metric whose weights are missing.
    """
    metric = find_metric(distance)
    if metric.better is None:
        raise OptionError(
            f"fit-bc: the metric {distance} has no direction, so it cannot rank starts; "
            "choose haarpsi, ms-ssim, ssim, psnr or rmse"
        )
    metric.ready()

    def loss(x: Tensor, truth: Tensor) -> float:
        y, misfit = torch.zeros(1, 1), torch.full((1, 1), math.nan)
        value = metric(Result(x[None, None].cpu(), y, misfit, Cost(), 0.0, truth=truth[None].cpu()))
        if value is None:
            shape = " x ".join(map(str, truth.shape))
            raise InputError(
                f"fit-bc: {distance} has no value for truths of shape {shape}; "
                "try haarpsi, ssim or rmse"
            )
        return metric.loss(value)

    return loss
