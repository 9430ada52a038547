"""Identities that every denoiser D satisfies, checked on clean draws x0 and x = x0 + sigma n.

    monotone   E|D(x) - x0|^2 does not fall as sigma rises; it is at most sigma^2 (the error of x)
               and at most the variance of x0 (the error of a constant)
    Tweedie    E|D(x) - x0|^2 = sigma^2 E tr dD/dx      (D is a conditional mean)
    scale      Var D(x) <= Var x0                       (the law of total variance)

Tweedie's identity fails for a denoiser whose noise level, input or output is wrong by a factor. The
checks need no training data.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inverse.errors import InputError
from inverse.io.image_sets import load_images, refuse_copies, spread
from inverse.priors.prior import Prior
from inverse.sampling.samplers import heun
from inverse.sampling.schedules import schedule
from inverse.seeding import Generators, seeded

SLACK = 1.05
"""Factor that allows for the finite number of draws in an inequality."""

TWEEDIE = 1.8
"""Largest factor between the two sides of Tweedie's identity, beyond four standard errors.

Shipped networks stay below 1.4; a noise level that is wrong by a factor of 2 exceeds 1.8.
"""


@dataclass(frozen=True)
class Level:
    """The measurements at one noise level, in model units.

    Args:
        sigma: noise level.
        error: RMS error of D(x).
        tweedie: sigma sqrt(tr dD/dx / d), which equals the error of an exact denoiser.
        standard_error: standard error of error^2 - tweedie^2.
        output: standard deviation of D(x).
        clean: standard deviation of x0.
    """

    sigma: float
    error: float
    tweedie: float
    standard_error: float
    output: float
    clean: float


@dataclass(frozen=True)
class Check:
    """The measurements at all noise levels, and the identities that fail, in words."""

    levels: list[Level]
    failures: list[str]

    def to_dict(self) -> dict:
        """The check as numbers, strings, lists and dictionaries."""
        return asdict(self)


def check(prior: Prior, x0: Tensor, levels: int = 10, seed: int = 0) -> Check:
    """Check the identities at noise levels spaced evenly in log sigma over the prior's range.

    Args:
        x0: clean draws (B, *shape), model units: the prior's draws (`own_draws`) or encoded images.
        levels: number of noise levels.
    """
    low, high = max(prior.sigma_min, 0.01), min(prior.sigma_max, 20.0)
    sigmas = torch.logspace(torch.tensor(low).log10(), torch.tensor(high).log10(), levels).tolist()
    noise = torch.randn(x0.shape, generator=seeded(seed, "prior check"), dtype=x0.dtype)
    probe = torch.randn(x0.shape, generator=seeded(seed, "prior check", "probe"), dtype=x0.dtype)
    measured = [_level(prior, x0, sigma, noise, probe) for sigma in sigmas]
    return Check(measured, _failures(measured))


def _level(prior: Prior, x0: Tensor, sigma: float, noise: Tensor, probe: Tensor) -> Level:
    """Measure one level; the trace is Hutchinson's estimate with one Gaussian probe."""
    with torch.enable_grad():
        x = (x0 + sigma * noise).requires_grad_()
        out = prior(x, torch.tensor(sigma, dtype=x0.dtype))
        (vjp,) = torch.autograd.grad(out, x, probe)
    out = out.detach()
    error = (out - x0).square().flatten(1).mean(1)
    trace = sigma**2 * (vjp * probe).flatten(1).mean(1)
    standard_error = float((error - trace).std() / len(x0) ** 0.5)
    return Level(
        sigma,
        float(error.mean()) ** 0.5,
        max(float(trace.mean()), 0.0) ** 0.5,
        standard_error,
        float(out.std()),
        float(x0.std()),
    )


def _failures(levels: list[Level]) -> list[str]:
    failures = []
    for low, high in pairwise(levels):
        if high.error * SLACK < low.error:
            failures.append(
                f"the error falls from {low.error:.3g} to {high.error:.3g} "
                f"between sigma {low.sigma:.3g} and {high.sigma:.3g}"
            )
    for level in levels:
        where = f"at sigma {level.sigma:.3g} the"
        if level.error > SLACK * min(level.sigma, level.clean) * (1 + 0.05 / level.sigma):
            failures.append(
                f"{where} error {level.error:.3g} is above the noise, or above that of a constant"
            )
        if not _tweedie_holds(level):
            failures.append(
                f"{where} error {level.error:.3g} is not sigma times the root of the divergence, "
                f"{level.tweedie:.3g}"
            )
        if level.output > SLACK * level.clean:
            failures.append(
                f"{where} output varies by {level.output:.3g}, clean draws by {level.clean:.3g}"
            )
    return failures


def _tweedie_holds(level: Level) -> bool:
    low, high = sorted((level.error**2, level.tweedie**2))
    return high - 4 * level.standard_error < TWEEDIE * low


def clean_images(prior: Prior, path: Path, count: int, side: int) -> Tensor:
    """Central crops of images of a source, evenly spread, encoded: (B, *shape), model units.

    Args:
        path: a source of `io.image_sets.load_images`.
        count: largest number of images.
        side: side of the crops (pixels) for a prior of any size.

    Raises: InputError if the source holds fewer than two images, or copies of one alone.
    """
    channels, *sides = prior.shape
    height, width = (n or side for n in sides)
    images = spread(load_images(path, max(height, width), channels or 3), count)
    if len(images) < 2:
        raise InputError(
            f"prior verify: {path} holds {len(images)} image of at least "
            f"{max(height, width)} pixels; two are needed"
        )
    refuse_copies(images, path)
    crops = [
        image[(image.shape[0] - height) // 2 :, (image.shape[1] - width) // 2 :][:height, :width]
        for image in images
    ]
    return prior.encode(torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255)


def own_draws(
    prior: Prior, count: int = 8, side: int = 64, steps: int = 12, seed: int = 0
) -> Tensor:
    """Unconditional draws of the prior by Heun's method: (count, *shape), model units.

    Args:
        side: side of the draws (pixels) for a prior of any size.
        steps: noise levels of the sampler.
    """
    shape = tuple(n or side for n in prior.shape)
    tensors = (*prior.parameters(), *prior.buffers())
    dtype = next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)
    low, high = max(prior.sigma_min, 0.01), min(prior.sigma_max, 80.0)
    sigmas = schedule("karras", steps, low, high).to(dtype)
    generator = Generators.for_samples(seed, count, 1)
    x = sigmas[0] * generator.randn_like(torch.empty(count, *shape, dtype=dtype))
    with torch.no_grad():
        *_, x = heun(prior, x, sigmas, generator)
    return x
