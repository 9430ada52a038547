"""FK steering: particles of the plain sampler, resampled by a reward of their denoised means.

Singhal, Horvitz, Teehan, Ren, Yu, McKeown, Ranganath, A General Framework for Inference-time
Scaling and Steering of Diffusion Models, ICML 2025, https://arxiv.org/abs/2501.06848 (algorithm 1,
section 3.2).
"""

from __future__ import annotations

import math
import runpy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import Tensor

import inverse
from inverse.errors import OptionError
from inverse.sampling.schedules import transitions


@dataclass(frozen=True)
class FKSteering(inverse.ParticleMethod):
    """Sample prior(x) exp(lambda r(x)) from evaluations of the reward r, without its gradient.

    The reward and the operator may be any functions. The product of the potentials is exp(lambda r)
    for every choice of potential, so that the weights are right; the potentials differ in how early
    they separate good particles from bad ones. The method needs many particles.

    Departures:
    - Weights are kept where there is no resampling; the authors' code drops them.
    - The last potential of `max` is exp(lambda r(x_0)) divided by the product of the others, as in
      the paper; the code uses the running maximum.
    - The default reward is log p(y | x) with lambda = 1. Before the last step it is multiplied by
      b, 1 / b = 1 + (|A| r / sigma_y)^2, because early x0_hat is the mean of several modes, and a
      sharp likelihood would select particles too soon. tau = 0 omits the factor, as in the paper.

    Args:
        steps: number of noise levels.
        schedule: name of a noise schedule.
        sigma_max: first noise level, model units; by default the prior's.
        sigma_min: last noise level before 0, model units; by default the prior's, at least 0.002.
        potential: difference, lambda times the change of the reward; max or sum, lambda times the
            maximum or the sum of all rewards so far.
        lambda_: weight of the reward.
        interval: steps between potentials; the paper's 20 of 100.
        reward: FILE.py:FUNCTION or a function of x (B, *shape) in physical units that returns
            (B,); by default log p(y | x). The file is run as a program: name only files that you
            trust.
        tau: standard deviation of the prior in 1 / r^2 = 1 / sigma^2 + 1 / tau^2, model units;
            ignored for another reward.
    """

    name = "fk-steering"
    reference = (
        "Singhal, Horvitz, Teehan, Ren, Yu, McKeown, Ranganath, A General Framework for "
        "Inference-time Scaling and Steering of Diffusion Models, "
        "ICML 2025, https://arxiv.org/abs/2501.06848"
    )
    equation = (
        "w *= G_t,  "
        "log G_t = lambda (r(x0_hat_t) - r(x0_hat_s)), lambda max_s r or lambda sum_s r;  "
        "prod_t G_t = exp(lambda r(x_0))"
    )
    claim = "exact in the limit"
    any_prior = True
    bias = inverse.Method.bias | {"excess": 0.5}  # of a cloud without spread
    limit = {"steps": 1.0, "particles": 1.0}

    particles: Annotated[int, inverse.Range(2, 10**6)] = 64
    steps: inverse.Count = 100
    schedule: str = "karras"
    sigma_max: inverse.Positive | None = None
    sigma_min: inverse.Positive | None = None
    potential: Literal["difference", "max", "sum"] = "difference"
    lambda_: Annotated[float, inverse.Range(-1e9, 1e9)] = 1.0
    interval: inverse.Count = 1
    reward: Callable[[Tensor], Tensor] | str | None = None
    tau: inverse.NonNegative = 1.0

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.reward, str) and not all(self.reward.rpartition(":")[::2]):
            raise OptionError(f"fk-steering: reward must be FILE.py:FUNCTION, got '{self.reward}'")

    def unsupported(self, posterior):
        return super().unsupported(posterior) if self.reward is None else None

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[inverse.Weighted]:
        posterior, cloud = self.cloud(posterior, samples, generator)
        sigmas = inverse.noise_levels(
            posterior, self.schedule, self.steps, self.sigma_min, self.sigma_max
        )
        reward, cloud.x = self._reward(posterior), sigmas[0] * cloud.x
        product, history = torch.zeros(2, len(cloud.x), dtype=torch.float64, device=cloud.x.device)
        if self.potential == "max":
            history = history - math.inf
        for i, (sigma, s, t) in enumerate(transitions(sigmas)):
            x0_hat = posterior.denoise(cloud.x, sigma)
            if t == 0:
                cloud.x = x0_hat
                cloud.reweight(reward(x0_hat) - product, t)
            else:
                if i % self.interval == 0:
                    history, log_G = self._potential(
                        self._temper(posterior, s) * reward(x0_hat), history, product
                    )
                    cloud.reweight(log_G, s)
                    rows = cloud.resample()
                    x0_hat, history, product = x0_hat[rows], history[rows], (product + log_G)[rows]
                c, z = t * math.sqrt(1 - (t / s) ** 2), cloud.generator.randn_like(cloud.x)
                cloud.x = x0_hat + (t / s) ** 2 * (cloud.x - x0_hat) + c * z
            yield cloud.weighted(samples)

    def _temper(self, posterior, s):
        """b, the factor of the default reward at level s."""
        if self.tau == 0 or self.reward is not None or not posterior.gaussian:
            return 1.0
        gain = posterior.norm_squared
        return 1 / (1 + gain / (1 / s**2 + 1 / self.tau**2) / posterior.sigma_y**2)

    def _potential(self, r, history, product):
        """The history of the rewards, times lambda, and log G_t."""
        if self.potential == "difference":
            return r, r - product
        history = torch.maximum(history, r) if self.potential == "max" else history + r
        return history, history

    def _reward(self, posterior):
        """x, model units -> lambda r(x): (B,), float64."""
        if self.reward is None:
            return lambda x: self.lambda_ * posterior.log_likelihood(x).double()
        r = _load(self.reward) if isinstance(self.reward, str) else self.reward

        def evaluate(x):
            value = torch.as_tensor(r(posterior.prior.decode(x)), device=x.device)
            if value.shape != x.shape[:1]:
                raise OptionError(
                    f"fk-steering: reward must return one number for each of {len(x)} images, "
                    f"found shape {tuple(value.shape)}"
                )
            return self.lambda_ * value.double()

        return evaluate


def _load(source):
    """The function that FILE.py:FUNCTION names."""
    path, _, name = source.rpartition(":")
    if not Path(path).is_file():
        raise OptionError(
            f"fk-steering: reward {source}: no file {path}; reward must be FILE.py:FUNCTION"
        )
    names = runpy.run_path(path)
    if not callable(names.get(name)):
        raise OptionError(f"fk-steering: reward {source}: {path} has no function '{name}'")
    return names[name]


@inverse.hookimpl
def inverse_methods():
    return [FKSteering]
