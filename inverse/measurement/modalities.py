"""Instruments that measure the same x, stacked into one operator, one noise model and one y."""

from __future__ import annotations

import functools
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from inverse.errors import OperatorError, OptionError
from inverse.measurement.deepinv_import import deepinv
from inverse.measurement.noise import GaussianNoise


def stack(operators: dict[str, Any], shape: tuple[int, ...]) -> Any:
    """The operator that measures x (B, *shape) with several linear operators.

    y (B, 1, ..., 1, m) has as many dimensions as x. It holds the flattened measurement of each
    modality, in the order of the names.

    Args:
        operators: deepinv `LinearPhysics` by the name of the modality.
        shape: shape of one x.

    Returns: a deepinv `LinearPhysics`; its `modalities` maps each name to a slice of y.
    Raises: OperatorError without any operator.
    """
    if not operators:
        raise OperatorError("stack: got no operator; name at least one modality")
    return _stacked_class()(operators, tuple(shape))


@functools.cache
def _stacked_class() -> Any:
    physics = deepinv("physics")

    class Stacked(physics.LinearPhysics):  # type: ignore[name-defined, misc]
        def __init__(self, operators: dict[str, Any], shape: tuple[int, ...]):
            super().__init__(img_size=shape)
            self.out_shapes = [
                tuple(part.A(torch.zeros(1, *shape, dtype=_floating_dtype(part))).shape[1:])
                for part in operators.values()
            ]
            ends = accumulate((torch.Size(s).numel() for s in self.out_shapes), initial=0)
            self.modalities = {
                name: slice(a, b) for name, (a, b) in zip(operators, pairwise(ends), strict=True)
            }
            self.parts: Any = torch.nn.ModuleList(operators.values())
            self.flat = (*[1] * (len(shape) - 1), -1)

        def A(self, x: Tensor, **_: Any) -> Tensor:
            pieces = [part.A(x).flatten(1) for part in self.parts]
            return torch.cat(pieces, 1).unflatten(1, self.flat)

        def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:
            pieces = y.flatten(1).split([torch.Size(s).numel() for s in self.out_shapes], 1)
            back = [
                part.A_adjoint(piece.unflatten(1, s))
                for part, piece, s in zip(self.parts, pieces, self.out_shapes, strict=True)
            ]
            return torch.stack(back).sum(0)

    return Stacked


def _floating_dtype(operator: torch.nn.Module) -> torch.dtype:
    """The dtype of an operator's floating-point parameters; float32 without any."""
    floating = (buffer.dtype for buffer in operator.buffers() if buffer.is_floating_point())
    return next(floating, torch.float32)


def stacked_noise(operator: Any, sigma: dict[str, float | Tensor]) -> GaussianNoise:
    """Gaussian noise with a level for each modality of a stacked operator.

    Args:
        operator: what `stack` returned.
        sigma: standard deviation by modality, in the units of its measurement; () or one value for
            each entry.

    Raises: OptionError if the names of `sigma` are not those of the modalities.
    """
    if missing := operator.modalities.keys() ^ sigma.keys():
        raise OptionError(
            f"stacked noise: {', '.join(sorted(missing))} must be both a modality and have a "
            f"sigma; modalities: {', '.join(operator.modalities)}"
        )
    total = max(part.stop for part in operator.modalities.values())
    levels = torch.empty(total, dtype=torch.float64)
    for name, part in operator.modalities.items():
        levels[part] = torch.as_tensor(sigma[name], dtype=torch.float64).flatten()
    return GaussianNoise(levels.reshape(*operator.flat))


def per_modality(
    operator: Any, y: Tensor, values: dict[str, float], default: float = 1.0
) -> Tensor:
    """The value of each entry's modality: y (B, *out_shape) -> (*out_shape).

    Args:
        values: the value of each named modality.
        default: the value of all other modalities.

    Raises: OptionError for a name that is not a modality.
    """
    entries = torch.full(tuple(y.shape[1:]), default, dtype=y.dtype, device=y.device)
    for name, value in values.items():
        if name not in operator.modalities:
            measured = ", ".join(operator.modalities)
            raise OptionError(f"modality '{name}' is not measured here; measured: {measured}")
        entries[..., operator.modalities[name]] = value
    return entries
