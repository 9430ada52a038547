"""Langevin steps on a law p(x) L(x), given the score of p and the factor L."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from inverse.rows import per_row, row_dot
from inverse.seeding import Generators

Field = Callable[[Tensor], Tensor]


def langevin(
    x: Tensor,
    step: Tensor | float,
    steps: int,
    score: Field,
    gradient: Field,
    generator: Generators,
) -> Tensor:
    """Unadjusted steps x' = x + step grad log(p L) + sqrt(2 step) z: x (B, *shape) -> same.

    The bias of the law of x is O(step).

    Args:
        step: size of a step, a number or broadcastable to x.
        score: grad log p, x -> same.
        gradient: grad log L, x -> same.
    """
    for _ in range(steps):
        x = x + step * (score(x) + gradient(x)) + (2 * step) ** 0.5 * generator.randn_like(x)
    return x


def adjusted_langevin(
    x: Tensor,
    step: float,
    steps: int,
    score: Field,
    gradient: Field,
    log_factor: Field,
    generator: Generators,
) -> Tensor:
    """Metropolis-adjusted steps, accepted so that p L is invariant: x (B, *shape) -> same.

    log p(x') - log p(x) is the trapezoid of the score along the segment, exact for a Gaussian p
    and of third order in x' - x otherwise.

    Args:
        log_factor: log L, x -> (B,).

    Source: Roberts, Tweedie, Exponential convergence of Langevin distributions, Bernoulli 1996;
        Sjoberg, Lindqvist, Schon, MCMC-Correction of Score-Based Diffusion Models for Model
        Composition, 2023, https://arxiv.org/abs/2307.14012.
    """
    phi, g, value = score(x), gradient(x), log_factor(x).double()
    for _ in range(steps):
        z = generator.randn_like(x)
        new = x + step * (phi + g) + (2 * step) ** 0.5 * z
        new_phi, new_g, new_value = score(new), gradient(new), log_factor(new).double()
        back = (x - new - step * (new_phi + new_g)).double()
        log_ratio = row_dot((phi + new_phi).double(), (new - x).double()) / 2 + new_value - value
        log_ratio = (
            log_ratio + row_dot(z.double(), z.double()) / 2 - row_dot(back, back) / (4 * step)
        )
        accept = generator.rand_like(value).log() < log_ratio
        x, phi, g = (
            torch.where(per_row(accept, x), proposed, current)
            for proposed, current in ((new, x), (new_phi, phi), (new_g, g))
        )
        value = torch.where(accept, new_value, value)
    return x
