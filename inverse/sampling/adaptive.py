"""DPM-Solver with adaptive steps: two orders share their evaluations and estimate the error.

Lu et al., DPM-Solver, NeurIPS 2022, https://arxiv.org/abs/2206.00927, appendix C (DPM-Solver-12 and
DPM-Solver-23), in the coordinate x = x0 + sigma n, with e = expm1 and h the step in
lambda = -log sigma from level s to t:

    order 1   x_t = x - t e(h) eps_s
    order 2   x_t = x - t e(h) eps_s - t e(h) / (2 r) (eps_r - eps_s)
    order 3   x_t = x - t e(h) eps_s - t (e(h) / h - 1) / r (eps_r - eps_s),    r = 2/3

eps_r is evaluated at the fraction r of the step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from inverse.errors import OptionError
from inverse.sampling.integrator import Denoise
from inverse.seeding import Generators


def adaptive(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    generator: Generators,
    order: int,
    atol: float,
    rtol: float,
    first: float = 0.05,
    safety: float = 0.9,
) -> Iterator[Tensor]:
    """Integrate from the first level to the last above 0, then denoise if the schedule ends in 0.

    The levels in between are not used. Every row has its own steps, so that no row depends on its
    batch (the authors' code takes the largest error of a batch); rows that have arrived wait. A
    trial costs `order` evaluations and one synchronisation with the device, and is an iterate. A
    rejected trial leaves its row unchanged. A step of less than 1e-4 of the interval is accepted
    whatever its error.

    Args:
        order: order of the solution that is kept, 2 or 3; the next lower order is compared with it.
        atol, rtol: a step is accepted if the root mean square over a sample of the difference,
            divided by max(atol, rtol |x|), is at most 1.
        first: first step in lambda.
        safety: factor in h' = safety h error^(-1 / order).
    """
    if not (atol > 0 and rtol >= 0):
        raise OptionError(
            f"sampler: atol must be positive and rtol at least 0, got {atol:g} and {rtol:g}"
        )
    levels = sigmas.tolist()
    start, end = -math.log(levels[0]), -math.log(levels[-1] or levels[-2])
    pair, entries = {2: _first_and_second, 3: _second_and_third}[order], tuple(range(1, x.ndim))
    lam = torch.full_like(x[(slice(None), *[slice(1)] * len(entries))], start)
    shortest = (end - start) * 1e-4
    h, before = torch.full_like(lam, min(first, end - start)), x
    while bool((active := lam < end).any()):
        step = torch.where(active, h, shortest)
        low, high = pair(denoise, x, lam, step)
        scale = (rtol * torch.maximum(low.abs(), before.abs())).clamp_min(atol)
        error = ((high - low) / scale).square().mean(entries, keepdim=True).sqrt()
        accepted = active & (~(error > 1) | (step <= shortest))
        x, before = torch.where(accepted, high, x), torch.where(accepted, low, before)
        lam = torch.where(accepted, torch.where(step >= end - lam, end, lam + step), lam)
        h = torch.fmin((safety * step * error ** (-1 / order)).clamp_min(shortest), end - lam)
        yield x
    if levels[-1] == 0:
        yield denoise(x, sigmas[-2])


def _first_and_second(denoise: Denoise, x: Tensor, lam: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """DPM-Solver-1 and DPM-Solver-2 with r = 1/2, from lam over h."""
    eps, t = _eps(denoise, x, lam), (-lam - h).exp()
    low = x - t * h.expm1() * eps
    middle = x - (-lam - h / 2).exp() * (h / 2).expm1() * eps
    return low, low - t * h.expm1() * (_eps(denoise, middle, lam + h / 2) - eps)


def _second_and_third(denoise: Denoise, x: Tensor, lam: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """DPM-Solver-2 with r = 1/3 and DPM-Solver-3 with r = 1/3 and 2/3, from lam over h."""
    eps, t = _eps(denoise, x, lam), (-lam - h).exp()
    straight, third, two = x - t * h.expm1() * eps, h / 3, 2 * h / 3
    D1 = _eps(denoise, x - (-lam - third).exp() * third.expm1() * eps, lam + third) - eps
    u = x - (-lam - two).exp() * (two.expm1() * eps + 2 * (two.expm1() / two - 1) * D1)
    D2 = _eps(denoise, u, lam + two) - eps
    return straight - 1.5 * t * h.expm1() * D1, straight - 1.5 * t * (h.expm1() / h - 1) * D2


def _eps(denoise: Denoise, x: Tensor, lam: Tensor) -> Tensor:
    """The noise estimate of rows, each at its own level."""
    sigma = (-lam).exp()
    return (x - denoise(x, sigma)) / sigma
