"""MMPS: moment-matching posterior sampling.

Rozet, Andry, Lanusse, Louppe, Learning Diffusion Priors from Observations by Expectation Maximization, NeurIPS 2024,
https://arxiv.org/abs/2405.13712 (moment matching posterior sampling).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import inverse
from inverse.errors import OptionError
from inverse.measurement.linalg import conjugate_gradient, gmres

SOLVERS = {"gmres": gmres, "cg": conjugate_gradient}


@dataclass(frozen=True)
class MMPS(inverse.Guidance):
    """Take x0 given x to be N(x0_hat, V) with its true covariance V = sigma^2 J (Tweedie), and condition on y.

    Exact for a Gaussian prior: what is left is the sampler's discretisation. Each solver iteration costs one VJP.
    Departures: the solve stops by tolerance (the paper: after a fixed 1 to 5 iterations), and is by GMRES, since the
    Jacobian of a network is not exactly symmetric; the sampler is second order.

    Args:
        steps: sampler steps.
        sampler: name of a registered sampler.
        schedule: name of a noise schedule.
        sigma_max: first noise level, model units; by default the prior's.
        sigma_min: last noise level before 0, model units; by default the prior's, at least 0.002.
        solver: gmres, or cg as in the paper.
        iterations: most solver iterations.
        tolerance: relative residual at which the solver stops.
    """

    name = "mmps"
    reference = "Rozet, Andry, Lanusse, Louppe, Learning Diffusion Priors from Observations by Expectation Maximization, NeurIPS 2024, https://arxiv.org/abs/2405.13712"
    equation = "E[x0|x,y] = x0_hat + V A^T (A V A^T + R)^-1 (y - A x0_hat),  V = sigma^2 J^T"
    claim = "exact in the limit"
    needs = ("linear", "gaussian")

    steps: int = 50
    sampler: str = "heun"
    solver: Literal["gmres", "cg"] = "gmres"
    iterations: int = 20
    tolerance: float = 1e-3

    def __post_init__(self):
        super().__post_init__()
        if self.iterations < 1 or not self.tolerance >= 0:
            raise OptionError(
                f"mmps: iterations must be at least 1 and tolerance at least 0, got {self.iterations} and {self.tolerance:g}"
            )

    def denoise(self, posterior, x, sigma):
        x0_hat, vjp = posterior.tweedie(x, sigma)
        settings = inverse.CG(self.tolerance, self.iterations)
        v = posterior.solve_normal(
            posterior.residual(x0_hat), lambda u: sigma**2 * vjp(u), SOLVERS[self.solver], settings
        )
        return x0_hat + sigma**2 * vjp(posterior.A_adjoint(v))


@inverse.hookimpl
def inverse_methods():
    return [MMPS]
