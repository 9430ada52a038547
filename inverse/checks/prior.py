"""Identities that a denoiser worth the name satisfies, checked on clean draws x0 and x = x0 + sigma n: no training data is needed.

    monotone   E|D(x) - x0|^2 does not fall as sigma rises, and stays below sigma^2 (doing nothing) and the variance of x0
    Tweedie    E|D(x) - x0|^2 = sigma^2 E tr dD/dx      (D is a conditional mean: its error is sigma^2 times its divergence)
    scale      Var D(x) <= Var x0                       (the law of total variance)

The second holds for no denoiser whose noise level, input or output is off by a factor.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inverse.errors import InputError
from inverse.io.image_sets import load_images
from inverse.priors.prior import Prior
from inverse.sampling.samplers import heun
from inverse.sampling.schedules import schedule
from inverse.seeding import Generators, seeded

SLACK = 1.05
"""Room for the finite number of draws in what may not grow."""

TWEEDIE = 1.8
"""Largest factor between the two sides of Tweedie's identity, beyond four standard errors: shipped networks stay below 1.4, a noise level off by 2 does not."""


@dataclass(frozen=True)
class Level:
    """A noise level: root mean square error, sigma sqrt(trace / d), the standard error of the difference of their squares, deviations of D(x) and x0.

    All in model units.
    """

    sigma: float
    error: float
    tweedie: float
    standard_error: float
    output: float
    clean: float


@dataclass(frozen=True)
class Check:
    """What was measured, and which identities fail, in words."""

    levels: list[Level]
    failures: list[str]

    def to_dict(self) -> dict:
        return asdict(self)


def check(prior: Prior, x0: Tensor, levels: int = 10, seed: int = 0) -> Check:
    """Measure the identities at noise levels spread evenly, in log sigma, over those that the prior is trusted at.

    Args:
        x0: clean draws (B, *shape), model units; the prior's own (`own_draws`), or encoded images.
    """
    low, high = max(prior.sigma_min, 0.01), min(prior.sigma_max, 20.0)
    sigmas = torch.logspace(torch.tensor(low).log10(), torch.tensor(high).log10(), levels).tolist()
    noise = torch.randn(x0.shape, generator=seeded(seed, "prior check"), dtype=x0.dtype)
    probe = torch.randn(x0.shape, generator=seeded(seed, "prior check", "probe"), dtype=x0.dtype)
    found = [_level(prior, x0, s, noise, probe) for s in sigmas]
    return Check(found, _failures(found))


def _level(prior: Prior, x0: Tensor, sigma: float, noise: Tensor, probe: Tensor) -> Level:
    """The trace is Hutchinson's, from one vector-Jacobian product with a Gaussian probe."""
    with torch.enable_grad():
        x = (x0 + sigma * noise).requires_grad_()
        out = prior(x, torch.tensor(sigma, dtype=x0.dtype))
        (vjp,) = torch.autograd.grad(out, x, probe)
    out = out.detach()
    error, trace = (
        (out - x0).square().flatten(1).mean(1),
        sigma**2 * (vjp * probe).flatten(1).mean(1),
    )
    uncertain = float((error - trace).std() / len(x0) ** 0.5)
    return Level(
        sigma,
        float(error.mean()) ** 0.5,
        max(float(trace.mean()), 0.0) ** 0.5,
        uncertain,
        float(out.std()),
        float(x0.std()),
    )


def _failures(levels: list[Level]) -> list[str]:
    found = []
    for below, above in pairwise(levels):
        if above.error * SLACK < below.error:
            found.append(
                f"the error falls from {below.error:.3g} to {above.error:.3g} between sigma {below.sigma:.3g} and {above.sigma:.3g}"
            )
    for at in levels:
        if at.error > SLACK * min(at.sigma, at.clean) * (1 + 0.05 / at.sigma):
            found.append(
                f"at sigma {at.sigma:.3g} the error {at.error:.3g} is above the noise, or above that of a constant"
            )
        if not _agree(at):
            found.append(
                f"at sigma {at.sigma:.3g} the error {at.error:.3g} is not sigma times the root of the divergence, {at.tweedie:.3g}"
            )
        if at.output > SLACK * at.clean:
            found.append(
                f"at sigma {at.sigma:.3g} the output varies by {at.output:.3g}, clean draws by {at.clean:.3g}"
            )
    return found


def _agree(at: Level) -> bool:
    low, high = sorted((at.error**2, at.tweedie**2))
    return high - 4 * at.standard_error < TWEEDIE * low


def clean_images(prior: Prior, path: Path, count: int, side: int) -> Tensor:
    """Central crops of the first images of a source (`io.image_sets.load_images`), encoded.

    Raises: InputError if there are fewer than two.
    """
    channels, *sides = prior.shape
    height, width = (n or side for n in sides)
    images = load_images(path, max(height, width), channels or 3)[:count]
    if len(images) < 2:
        raise InputError(
            f"prior verify: {path} holds {len(images)} image of at least {max(height, width)} pixels; two are needed"
        )
    crops = [
        image[(image.shape[0] - height) // 2 :, (image.shape[1] - width) // 2 :][:height, :width]
        for image in images
    ]
    return prior.encode(torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255)


def own_draws(
    prior: Prior, count: int = 8, side: int = 64, steps: int = 12, seed: int = 0
) -> Tensor:
    """Unconditional draws of the prior by Heun's method, model units; `side` pixels where it takes any size."""
    shape = tuple(n or side for n in prior.shape)
    dtype = next(
        (t.dtype for t in (*prior.parameters(), *prior.buffers()) if t.is_floating_point()),
        torch.float32,
    )
    sigmas = schedule("karras", steps, max(prior.sigma_min, 0.01), min(prior.sigma_max, 80.0)).to(
        dtype
    )
    generator = Generators.for_samples(seed, count, 1)
    x = sigmas[0] * generator.randn_like(torch.empty(count, *shape, dtype=dtype))
    with torch.no_grad():
        *_, x = heun(prior, x, sigmas, generator)
    return x
