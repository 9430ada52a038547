"""Noise-level schedules: decreasing sequences of sigma (model units), computed once per solve.

A VP network at alpha_bar sees the level sigma = sqrt((1 - alpha_bar) / alpha_bar).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from inverse.errors import OptionError, UnknownNameError, suggestion


def karras(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """The schedule of EDM: (steps,), float64.

        (sigma_max^(1/rho) + i / (steps - 1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho

    Source: Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models,
    NeurIPS 2022, eq. 5.
    """
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    return (
        sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))
    ) ** rho


def log_uniform(steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Uniform in log sigma, that is in half log-SNR: (steps,), float64."""
    return torch.linspace(
        math.log(sigma_max), math.log(sigma_min), steps, dtype=torch.float64
    ).exp()


def vp_levels(timesteps: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02) -> Tensor:
    """Increasing levels of the discrete linear-beta VP process: (timesteps,), float64.

    Source: Ho et al., Denoising Diffusion Probabilistic Models, NeurIPS 2020, section 4.
    """
    alpha_bar = torch.cumprod(
        1 - torch.linspace(beta_min, beta_max, timesteps, dtype=torch.float64), 0
    )
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def vp(steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Levels of the 1000-step linear VP process, evenly spaced in t: (steps,), float64.

    Only levels within [sigma_min, sigma_max] count. With more steps than levels, further levels are
    interpolated in log sigma, so that none is repeated.
    """
    levels = vp_levels()
    levels = levels[(levels >= sigma_min) & (levels <= sigma_max)]
    if len(levels) < 2:
        raise OptionError(
            f"schedule vp has no two levels between {sigma_min:g} and {sigma_max:g}; "
            "its 1000 levels run from 0.01 to 157"
        )
    t = torch.linspace(len(levels) - 1, 0, steps, dtype=torch.float64)
    if steps <= len(levels):
        return levels[t.round().long()]
    below = t.long().clamp(max=len(levels) - 2)
    return torch.lerp(levels[below].log(), levels[below + 1].log(), t - below).exp()


def cosine(steps: int, sigma_min: float, sigma_max: float, offset: float = 0.008) -> Tensor:
    """Uniform in the time t of the cosine process: (steps,), float64.

        alpha_bar = cos^2(a(t)) / cos^2(a(0)),    a(t) = (t + offset) / (1 + offset) pi / 2

    Source: Nichol, Dhariwal, Improved Denoising Diffusion Probabilistic Models, ICML 2021, eq. 17.
    """
    start = math.cos(offset / (1 + offset) * math.pi / 2)
    high, low = (math.acos(start / math.hypot(1, sigma)) for sigma in (sigma_max, sigma_min))
    return ((torch.linspace(high, low, steps, dtype=torch.float64).cos() / start) ** -2 - 1).sqrt()


def flow(steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Uniform in the time t of the straight path (1 - t) x0 + t n: (steps,), float64.

    The level is sigma = t / (1 - t).

    Source: Lipman et al., Flow Matching for Generative Modeling, ICLR 2023.
    """
    t = torch.linspace(
        sigma_max / (1 + sigma_max), sigma_min / (1 + sigma_min), steps, dtype=torch.float64
    )
    return t / (1 - t)


def transitions(sigmas: Tensor) -> Iterator[tuple[Tensor, float, float]]:
    """The steps of a schedule as (sigma, s, t): from level s to the next level t.

    `sigma` is the level s as a tensor () on the device, so that evaluating a prior copies nothing
    to the device. `s` and `t` are numbers, so that the coefficients of a step are double
    precision.

    Args:
        sigmas: levels (steps + 1,), in the order in which they are visited.
    """
    levels = sigmas.tolist()
    yield from zip(sigmas, levels, levels[1:], strict=False)


SCHEDULES: dict[str, Callable[[int, float, float], Tensor]] = {
    "karras": karras,
    "log-uniform": log_uniform,
    "vp": vp,
    "cosine": cosine,
    "flow": flow,
}


def schedule(name: str, steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """The named schedule followed by a final 0: (steps + 1,), float64.

    Raises: UnknownNameError for a name not in `SCHEDULES`; OptionError for fewer than one step.
    """
    if name not in SCHEDULES:
        raise UnknownNameError(f"schedule '{name}' is not known; {suggestion(name, SCHEDULES)}")
    if steps < 1:
        raise OptionError(f"steps must be at least 1, got {steps}")
    return torch.cat(
        [SCHEDULES[name](steps, sigma_min, sigma_max), torch.zeros(1, dtype=torch.float64)]
    )


def walk_with_jumps(steps: int, jump_length: int, repeats: int) -> list[int]:
    """Visited levels, counted from the clean image: steps, ..., 0, with jumps back (time travel).

    Args:
        steps: number of levels.
        jump_length: levels between the places of the jumps, and levels of a jump.
        repeats: number of passes over the levels of a jump; 1 is a walk without jumps.

    Source: Lugmayr et al., RePaint, CVPR 2022, https://arxiv.org/abs/2201.09865, appendix B.
    """
    stops = range(jump_length, steps - jump_length + 1, jump_length)
    walk, jumps = [steps], dict.fromkeys(stops, repeats - 1)
    while walk[-1] > 0:
        walk.append(walk[-1] - 1)
        if jumps.get(walk[-1], 0) > 0:
            jumps[walk[-1]] -= 1
            walk.extend(range(walk[-1] + 1, walk[-1] + jump_length + 1))
    return walk
