"""MMPS: moment-matching posterior sampling.

Rozet, Andry, Lanusse, Louppe, Learning Diffusion Priors from Observations by Expectation
Maximization, NeurIPS 2024, https://arxiv.org/abs/2405.13712 (moment matching posterior sampling).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

import inverse
from inverse_plugins._moment_matching import Solver, solve_moments


@dataclass(frozen=True)
class MMPS(inverse.Guidance):
    """Take x0 given x to be N(x0_hat, V), V = sigma^2 J its true covariance, and condition on y.

    The covariance is Tweedie's. For a Gaussian prior the method is exact up to the sampler's
    discretisation. Each solver iteration costs one VJP. Departures: the solver stops by tolerance
    (the paper stops after 1 to 5 iterations) and is GMRES, since the Jacobian of a network is not
    exactly symmetric; the sampler is of second order.

    Args:
        solver: gmres, or cg as in the paper.
        iterations: largest number of solver iterations.
        tolerance: relative residual at which the solver stops.
    """

    name = "mmps"
    reference = (
        "Rozet, Andry, Lanusse, Louppe, Learning Diffusion Priors from Observations by "
        "Expectation Maximization, NeurIPS 2024, https://arxiv.org/abs/2405.13712"
    )
    equation = "E[x0|x,y] = x0_hat + V A^T (A V A^T + R)^-1 (y - A x0_hat),  V = sigma^2 J^T"
    claim = "exact in the limit"
    needs = ("linear", "gaussian")

    steps: inverse.Count = 50
    sampler: str = "heun"
    solver: Solver = "gmres"
    iterations: inverse.Count = 20
    tolerance: inverse.NonNegative = 1e-3

    def denoise(self, posterior: inverse.Posterior, x: Tensor, sigma: Tensor) -> Tensor:
        x0_hat, vjp = posterior.tweedie(x, sigma)
        r = posterior.residual(x0_hat)
        v = solve_moments(posterior, r, sigma, vjp, self.solver, self.iterations, self.tolerance)
        return x0_hat + sigma**2 * vjp(posterior.A_adjoint(v))


@inverse.hookimpl
def inverse_methods():
    return [MMPS]
