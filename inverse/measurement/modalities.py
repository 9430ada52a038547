"""Several instruments that look at the same x: one operator, one noise model, one y, in which each keeps its name."""

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
    """The operator that measures x (B, *shape) with each of several linear operators in turn.

    y (B, 1, ..., 1, m) has as many dimensions as x and holds each modality's measurement, flattened, in the order of the names;
    `modalities` says which entries are whose.

    Args:
        operators: deepinv `LinearPhysics` by the name of the modality.
        shape: of one x.

    Returns: a deepinv `LinearPhysics`.
    """
    if not operators:
        raise OperatorError("stack: there is no operator to stack; name at least one modality")
    return _stacked_class()(operators, tuple(shape))


@functools.cache
def _stacked_class() -> Any:
    physics = deepinv("physics")

    class Stacked(physics.LinearPhysics):  # type: ignore[name-defined, misc]
        def __init__(self, operators: dict[str, Any], shape: tuple[int, ...]):
            super().__init__(img_size=shape)
            probe = {
                name: next(
                    (b.dtype for b in part.buffers() if b.is_floating_point()), torch.float32
                )
                for name, part in operators.items()
            }
            self.out_shapes = [
                tuple(part.A(torch.zeros(1, *shape, dtype=probe[name])).shape[1:])
                for name, part in operators.items()
            ]
            ends = accumulate((torch.Size(s).numel() for s in self.out_shapes), initial=0)
            self.modalities = {
                name: slice(a, b) for name, (a, b) in zip(operators, pairwise(ends), strict=True)
            }
            self.parts: Any = torch.nn.ModuleList(operators.values())
            self.flat = (*[1] * (len(shape) - 1), -1)

        def A(self, x: Tensor, **_: Any) -> Tensor:
            return torch.cat([part.A(x).flatten(1) for part in self.parts], 1).unflatten(
                1, self.flat
            )

        def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:
            pieces = y.flatten(1).split([torch.Size(s).numel() for s in self.out_shapes], 1)
            back = [
                part.A_adjoint(piece.unflatten(1, s))
                for part, piece, s in zip(self.parts, pieces, self.out_shapes, strict=True)
            ]
            return torch.stack(back).sum(0)

    return Stacked


def stacked_noise(operator: Any, sigma: dict[str, float | Tensor]) -> GaussianNoise:
    """Gaussian noise of its own for each modality of a stacked operator.

    Args:
        sigma: standard deviation by modality, in the units of its measurement; () or one for each entry.
    """
    if missing := operator.modalities.keys() ^ sigma.keys():
        raise OptionError(
            f"stacked noise: {', '.join(sorted(missing))} must be both a modality and have a sigma; modalities: {', '.join(operator.modalities)}"
        )
    total = max(part.stop for part in operator.modalities.values())
    levels = torch.empty(total, dtype=torch.float64)
    for name, part in operator.modalities.items():
        levels[part] = torch.as_tensor(sigma[name], dtype=torch.float64).flatten()
    return GaussianNoise(levels.reshape(*operator.flat))
