"""Coarse structure as measurements beside y.

    p(x | y, z) ~ p(x) N(y; A x, R) prod_s N(z_s; B_s x, tau_s^2 / beta_s)

z_s is a function of y, and its errors go with those of neighbouring pixels, of other scales and of y; beta_s <= 1 makes up for that.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inverse.measurement.modalities import stack, stacked_noise
from inverse.measurement.noise import GaussianNoise
from inverse.posterior import Posterior
from inverse_plugins.structure.network import (
    Estimate,
    averaged,
    coarse_colour,
    coarse_grey,
    colour_of,
)


def guided(
    posterior: Posterior,
    estimates: dict[int, Estimate],
    beta: dict[int, float],
    colour: float | None = None,
) -> Posterior:
    """The posterior of one image's rows with the structure of its y beside y: modalities y, structure-2, structure-4, ...

    Args:
        estimates: of y, or of a picture in its place, one row.
        beta: by scale; those that are not named stay out.
        colour: standard deviation, intensities, of the coarse colour of y, which then stands for y and its operator (`blind`).
    """
    y, shape, noise = posterior.y[:1], posterior.shape, posterior.noise
    assert isinstance(noise, GaussianNoise)
    coarsest = max(estimates)
    parts: dict[str, tuple[object, Tensor, Tensor]] = {}
    if colour is None:
        parts["y"] = (posterior.operator, y, noise.sigma.expand(y.shape[1:]))
    elif shape[0] == 3:
        seen = averaged(colour_of(y), coarsest)
        parts["colour"] = (coarse_colour(coarsest, shape), seen, torch.full(seen.shape, colour))
    for s, b in beta.items():
        parts[f"structure-{s}"] = (
            coarse_grey(s, shape),
            estimates[s].mean.to(y),
            estimates[s].log_tau.double().exp() / b**0.5,
        )
    operator = stack({name: part for name, (part, _, _) in parts.items()}, shape)
    stacked = (
        torch.cat([z.flatten() for _, z, _ in parts.values()])
        .reshape(operator.flat)
        .expand(len(posterior), *[-1] * len(shape))
    )
    return posterior.replaced(
        operator=operator,
        y=stacked,
        noise=stacked_noise(operator, {name: s for name, (_, _, s) in parts.items()}),
    )
