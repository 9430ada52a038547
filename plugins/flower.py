"""Flower: a solver of linear inverse problems with a flow-matching prior.

Pourya, El Rawas, Unser, Flower: A Flow-Matching Solver for Inverse Problems, ICLR 2026,
https://arxiv.org/abs/2509.26287 (algorithm 1).

    x1_hat the estimated destination of x_t, x1 the refined one, nu_t the spread of x1 given x_t
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

import inverse
from inverse_plugins._flow import destination


@dataclass(frozen=True)
class Flower(inverse.Method):
    """Estimate the destination of x_t, refine it by the data, and progress along the flow.

    x1 given x_t is taken to be N(x1_hat, nu_t^2 I). With gamma = 1 the refinement is a draw given
    y, and the method is exact for a white Gaussian prior of variance sigma_data^2, at any number of
    steps. With gamma = 0, the release's default, it is the mean of that Gaussian.

    The release averages several runs in its tables: `--samples 5` does so, and reports their mean.

    Args:
        steps: N, times in [0, 1); one prior evaluation each.
        gamma: 0 for the mean of the refined destination, 1 for a draw.
        sigma_data: standard deviation of the data, model units; the paper's 1.
    """

    name = "flower"
    reference = (
        "Pourya, El Rawas, Unser, Flower: A Flow-Matching Solver for Inverse Problems, ICLR 2026, "
        "https://arxiv.org/abs/2509.26287"
    )
    equation = (
        "x1 = prox_{-log p(y|.)}(x1_hat(x_t); nu_t^2) + gamma N(0, Sigma_t);  "
        "x_t' = t' x1 + (1 - t') z,  nu_t^2 = (1 - t)^2 / (t^2 + (1 - t)^2)"
    )
    claim = "biased"
    bias = inverse.Method.bias | {"excess": 0.5}  # too narrow where y says little
    needs = ("linear", "gaussian")

    steps: inverse.Count = 100
    gamma: Annotated[int, inverse.Range(0, 1)] = 0
    sigma_data: inverse.Positive = 1.0

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        x = inverse.standard_normal(posterior, generator)
        for n in range(self.steps):
            t, later = n / self.steps, (n + 1) / self.steps
            x1_hat = destination(posterior, x, t)
            nu2 = (1 - t) ** 2 / (t**2 + (1 - t) ** 2 / self.sigma_data**2)
            if self.gamma:
                x1 = posterior.prox_sample(x1_hat, nu2, generator)
            else:
                x1 = posterior.prox(x1_hat, nu2)
            x = later * x1 + (1 - later) * generator.randn_like(x)
            yield x


@inverse.hookimpl
def inverse_methods():
    return [Flower]
