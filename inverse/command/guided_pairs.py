"""Inputs of a prior in a solve, to calibrate its rounding on guided trajectories.

A guided trajectory visits other images and noise levels than the prior's own reverse process, on
which `quantize.calibration_pairs` calibrates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inverse.engine import solve
from inverse.errors import OptionError
from inverse.method import Method
from inverse.priors.prior import Prior
from inverse.problem import Problem
from inverse.seeding import seeded


class Recorder(Prior):
    """A prior that keeps copies of its inputs.

    Args:
        prior: the prior that denoises.
    """

    def __init__(self, prior: Prior):
        units = {"shift": prior.shift, "scale": prior.scale}
        super().__init__(prior.shape, **units, sigma_min=prior.sigma_min, sigma_max=prior.sigma_max)
        self.prior, self.inputs = prior, list[tuple[Tensor, Tensor]]()

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        level = torch.as_tensor(sigma, dtype=x.dtype).expand(len(x))
        self.inputs.append((x.detach().clone(), level.clone()))
        return self.prior(x, sigma)


def guided_pairs(
    prior: Prior, problem: Problem, method: Method, count: int, side: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Pairs (x, sigma) that a method evaluates on the problem's shipped truths, in model units.

    Args:
        count: number of pairs, evenly spread over all evaluations.
        side: side of the central crops of the truths (pixels).

    Raises: OptionError if the method evaluates the prior fewer than `count` times.
    """
    recorder = Recorder(prior)
    for i, truth in enumerate(problem.truths_for(prior)):
        top, left = ((n - side) // 2 for n in truth.shape[-2:])
        crop = truth[..., top : top + side, left : left + side]
        solve(problem.posterior(crop, prior=recorder, seed=seed + i), method, seed=seed + i)
    evaluations = sum(len(x) for x, _ in recorder.inputs)
    if evaluations < count:
        raise OptionError(
            f"quantize: {method.name} evaluates the prior {evaluations} times; {count} are needed"
        )
    x = torch.cat([x for x, _ in recorder.inputs])
    sigma = torch.cat([sigma for _, sigma in recorder.inputs])
    chosen = torch.randperm(len(x), generator=seeded(seed, "guided pairs"))[:count]
    return x[chosen], sigma[chosen]
