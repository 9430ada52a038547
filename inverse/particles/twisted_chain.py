"""The chain of twisted diffusion samplers: a twist guides the prior's ancestral chain.

    x' ~ q = N(m + shift, c^2),    m = x0_hat + (t / s)^2 (x - x0_hat),    c^2 = t^2 (1 - (t / s)^2)
    shift = (s^2 - t^2) grad log p~_s(y | x)
    w' = w p~_t(y | x') p(x' | x) / (p~_s(y | x) q(x' | x)),    p = N(m, c^2)

The weights correct the error of the twist p~; the last twist is the likelihood.

Wu, Trippe, Naesseth, Blei, Cunningham, Practical and Asymptotically Exact Conditional Sampling in
Diffusion Models, NeurIPS 2023, https://arxiv.org/abs/2306.17775 (algorithm 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

from torch import Tensor

from inverse.particles.cloud import Cloud
from inverse.posterior import Posterior
from inverse.rows import row_dot

Twist = Callable[[Tensor, float], tuple[Tensor, Tensor, Tensor]]
"""(x, s) -> x0_hat, grad log p~_s(y | x), and log p~_s(y | x) (B,) up to a constant of s."""


def twisted_chain(
    posterior: Posterior, cloud: Cloud, sigmas: list[float], twist: Twist
) -> Iterator[Cloud]:
    """The cloud after each step; its particles are N(0, I) at first.

    Args:
        sigmas: noise levels, decreasing to 0, model units.
        twist: the estimate of p(y | x) and its gradient at a noise level.
    """
    cloud.x = sigmas[0] * cloud.x
    x0_hat, gradient, log_twist = twist(cloud.x, sigmas[0])
    cloud.reweight(log_twist, sigmas[0])
    for s, t in pairwise(sigmas):
        rows = cloud.resample()
        x0_hat, gradient, log_twist = x0_hat[rows], gradient[rows], log_twist[rows]
        if t == 0:
            cloud.x = x0_hat
            cloud.reweight(posterior.log_likelihood(x0_hat).double() - log_twist, t)
        else:
            shift = (s * s - t * t) * gradient
            c = t * math.sqrt(1 - (t / s) ** 2)
            z = cloud.generator.randn_like(cloud.x)
            cloud.x = x0_hat + (t / s) ** 2 * (cloud.x - x0_hat) + shift + c * z
            log_ratio = -row_dot(shift, shift / 2 + c * z).double() / c**2 - log_twist
            x0_hat, gradient, log_twist = twist(cloud.x, t)
            cloud.reweight(log_ratio + log_twist, t)
        yield cloud
