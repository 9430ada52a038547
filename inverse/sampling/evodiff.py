"""EVODiff: the data balance the two finite differences of a second-order step.

Li et al., EVODiff: Entropy-aware Variance Optimized Diffusion Inference, NeurIPS 2025. This is the
multistep method of the released demonstration, whose kappa, eta and zeta are sigmoids of inner
products. On exact denoisers it is of first order only; `evodiff-exact` is the same scheme with
constants that satisfy the conditions for second order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from inverse.sampling.integrator import Denoise
from inverse.sampling.schedules import transitions
from inverse.sampling.traits import sampler
from inverse.seeding import Generators


@sampler(order=1)
def evodiff(denoise: Denoise, x: Tensor, sigmas: Tensor, generator: Generators) -> Iterator[Tensor]:
    """EVODiff with its released constants: first order on exact denoisers, experimental.

    The notation is that of the demonstration with alpha = 1: m data predictions, H = 1/t - 1/s, h
    the step in lambda, r the ratio of the previous step to it; shifted is |zeta*| - 1/2, which the
    release turns around and weights by the consistency of the last two predictions above 20 steps.
    Departure: the step into 0 is the final denoise, for which the release has its own damped
    constants.
    """
    sigmas = sigmas.unique_consecutive()
    top, end = float(sigmas[0]), float(sigmas[-1] or sigmas[-2])
    m, old, before = denoise(x, sigmas[0]), None, math.inf
    for next_sigma, (_, s, t) in zip(sigmas[1:], transitions(sigmas), strict=True):
        if t == 0:
            yield m
            return
        tH = 1 - t / s
        x_E = (t / s) * x + tH * m  # the step of order one
        if old is None:
            x = x_E
            new = denoise(x, next_sigma)
        else:
            h, r = math.log(s / t), math.log(before / s) / math.log(s / t)
            beta = math.sqrt((t / s) / (s / before))
            w = 0.5 * (1 - ((t + end) / (top + end)) ** 2)
            b1 = (1 - w) * beta + w * _ratio(m, old, old)
            D1 = m - b1 * old
            r_i = (torch.sigmoid(0.25 * b1.abs()) * r).clamp(0.25 * r, 1.5 * r)
            x_P = x_E + 0.5 * tH * D1 / r_i
            new = denoise(x_P, next_sigma)
            D2 = new - ((1 - w) * beta + w * _ratio(new, m, m)) * m
            Bp, Bn = D1 / (r * h), r * D2 / h
            eta = 0.5 * torch.sigmoid((0.5 * _ratio(Bn + Bp, Bn - Bp, Bn - Bp)).abs())
            B = -eta * D1 / r + r * (1 - eta) * D2
            shifted = (_ratio(x_P - x_E - 0.5 * tH * B / r_i, D1, D1) / tH).abs() - 0.5
            if len(sigmas) > 21:
                D = (m - old) / (1 / t - 1 / s)
                shifted = -shifted * torch.sigmoid(_ratio(m, D, D) * (2 - (t / s) ** 2))
            x = x_E + 0.5 * tH * B / torch.sigmoid(shifted)
        m, old, before = new, m, s
        yield x


def _ratio(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """<a, b> / <c, c> in [-2, 2]: (B, C, *space) -> (B, C, 1, ...), or (B, n) -> (B, 1)."""
    over = tuple(range(2 if a.ndim > 2 else 1, a.ndim))
    return (
        (a * b).sum(over, keepdim=True)
        / c.square().sum(over, keepdim=True).clamp_min(torch.finfo(c.dtype).tiny)
    ).clamp(-2, 2)
