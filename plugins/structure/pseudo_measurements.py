"""Coarse structure as pseudo-measurements beside y.

    p(x | y, z) ~ p(x) N(y; A x, R) prod_s N(z_s; B_s x, tau_s^2 / beta_s)

z_s is a function of y, so its errors correlate between neighbouring pixels, across scales and with
the noise of y; beta_s <= 1 compensates for these correlations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inverse.measurement.modalities import stack, stacked_noise
from inverse.measurement.noise import GaussianNoise
from inverse.posterior import Posterior
from inverse_plugins.structure.coarse_pictures import (
    averaged,
    coarse_colour,
    coarse_grey,
    colour_of,
)
from inverse_plugins.structure.structure_network import Estimate


def with_structure(
    posterior: Posterior,
    estimates: dict[int, Estimate],
    beta: dict[int, float],
    colour: float | None = None,
) -> Posterior:
    """The posterior of one image's rows given y and coarse structure.

    Its modalities are y (or colour), structure-2, structure-4, ...

    Args:
        posterior: rows of one image, with Gaussian noise.
        estimates: by scale, one row; of y, or of another picture in its place.
        beta: tempering by scale; scales without an entry are left out.
        colour: standard deviation of the coarse colour of y, intensities. If given, the coarse
            colour replaces y and its operator (blind).
    """
    y, shape, noise = posterior.y[:1], posterior.shape, posterior.noise
    assert isinstance(noise, GaussianNoise)
    parts: dict[str, tuple[object, Tensor, Tensor]] = {}  # operator, values, standard deviation
    if colour is None:
        parts["y"] = (posterior.operator, y, noise.sigma.expand(y.shape[1:]))
    elif shape[0] == 3:
        coarsest = max(estimates)
        coarse = averaged(colour_of(y), coarsest)
        deviation = torch.full(coarse.shape, colour)
        parts["colour"] = (coarse_colour(coarsest, shape), coarse, deviation)
    for s, b in beta.items():
        tau = estimates[s].log_tau.double().exp()
        parts[f"structure-{s}"] = (coarse_grey(s, shape), estimates[s].mean.to(y), tau / b**0.5)
    operator = stack({name: part for name, (part, _, _) in parts.items()}, shape)
    values = torch.cat([z.flatten() for _, z, _ in parts.values()]).reshape(operator.flat)
    return posterior.replaced(
        operator=operator,
        y=values.expand(len(posterior), *[-1] * len(shape)),
        noise=stacked_noise(operator, {name: sigma for name, (_, _, sigma) in parts.items()}),
    )
