"""Samplers by name with settings, such as `ddim:eta=0.5,threshold=0.995`.

Some options are common to all samplers; a sampler adds its own.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from inverse.errors import OptionError, UnknownNameError, suggestion
from inverse.registry.discovery import registry
from inverse.registry.types import convert
from inverse.sampling.integrator import Denoise
from inverse.sampling.samplers import Sampler
from inverse.seeding import Generators


def get_sampler(name: str) -> Sampler:
    """The sampler called `name`, a generator function (denoise, x, sigmas, generator).

    Settings follow a colon: get_sampler("ddim:eta=0.5").
    """
    name, _, settings = name.partition(":")
    sampler = registry().find("inverse_samplers", name)
    return configured(name, sampler, settings) if settings else sampler


def thresholded(denoise: Denoise, quantile: float = 0.995, ceiling: float = 1.0) -> Denoise:
    """Dynamic thresholding: clip x0_hat of each sample at its quantile of |x0_hat|, and rescale.

    It applies where the quantile is above the ceiling (Saharia et al., 2022).
    """

    def clipped(x: Tensor, sigma: Tensor) -> Tensor:
        x0_hat = denoise(x, sigma)
        size = x0_hat.flatten(1).abs().sort(1).values  # torch.quantile refuses large images
        place = quantile * (size.shape[1] - 1)
        s = torch.lerp(size[:, math.floor(place)], size[:, math.ceil(place)], place % 1)
        s = s.clamp_min(ceiling).reshape(-1, *[1] * (x.ndim - 1))
        return x0_hat.clamp(-s, s) * (ceiling / s)

    return clipped


def with_common_options(
    sampler: Sampler,
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    generator: Generators,
    threshold: float = 0.0,
    ceiling: float = 1.0,
    final_denoise: bool = True,
    **own: Any,
) -> Iterator[Tensor]:
    """A sampler with the options common to all samplers and its own.

    Args:
        threshold: quantile of dynamic thresholding, e.g. 0.995; 0 for none.
        ceiling: smallest value of the threshold, model units.
        final_denoise: whether the last step is the one into level 0; without it the noise of the
            last level remains.
        own: options of this sampler.
    """
    _need(
        0 <= threshold <= 1 and ceiling > 0,
        f"threshold must lie in [0, 1] and ceiling be positive, got {threshold:g} and {ceiling:g}",
    )
    _need(final_denoise or len(sigmas) > 2, "final_denoise=false needs at least two steps")
    levels = sigmas if final_denoise or sigmas[-1] > 0 else sigmas[:-1]
    return sampler(
        thresholded(denoise, threshold, ceiling) if threshold else denoise,
        x,
        levels,
        generator,
        **own,
    )


def sampler_options(sampler: Sampler) -> dict[str, Any]:
    """Name -> default of a sampler's own options: the parameters after `generator`."""
    return {
        p.name: p.default
        for p in inspect.signature(sampler).parameters.values()
        if p.default is not p.empty
    }


def configured(name: str, sampler: Sampler, settings: str) -> Sampler:
    """The sampler called `name` with settings such as "eta=0.5,threshold=0.995".

    Raises: UnknownNameError for an unknown option; OptionError for a value of the wrong type.
    """
    known, chosen = sampler_options(with_common_options) | sampler_options(sampler), {}
    for setting in settings.split(","):
        option, given, value = setting.strip().partition("=")
        if not given:
            raise OptionError(
                f"sampler '{name}' takes name=value after the colon, separated by commas, "
                f"got '{setting}'"
            )
        key = option.replace("-", "_")
        if key not in known:
            raise UnknownNameError(
                f"sampler '{name}' has no option '{option}'; {suggestion(key, known)}"
            )
        chosen[key] = convert(value, type(known[key]), f"sampler '{name}': {option}")
    return functools.partial(with_common_options, sampler, **chosen)


def _need(condition: bool, words: str) -> None:
    if not condition:
        raise OptionError(f"sampler: {words}")
