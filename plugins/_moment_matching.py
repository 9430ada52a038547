"""The linear solve of moment matching, with the covariance V = sigma^2 J of x0 given x.

Rozet, Andry, Lanusse, Louppe, Learning Diffusion Priors from Observations by Expectation
Maximization, NeurIPS 2024, https://arxiv.org/abs/2405.13712.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

import inverse
from inverse.errors import OptionError
from inverse.measurement.linalg import conjugate_gradient, gmres

Solver = Literal["gmres", "cg"]
SOLVERS: dict[Solver, Callable[..., Tensor]] = {"gmres": gmres, "cg": conjugate_gradient}


def solve_moments(
    posterior: inverse.Posterior,
    residual: Tensor,
    sigma: Tensor,
    vjp: Callable[[Tensor], Tensor],
    solver: Solver,
    iterations: int,
    tolerance: float,
) -> Tensor:
    """(A V A^T + R)^-1 residual, one VJP an iteration: (B, *out_shape) -> same.

    Args:
        vjp: v -> J^T v, as `posterior.tweedie` returns it.
        iterations: largest number of iterations.
        tolerance: relative residual at which the solver stops.
    """
    settings = inverse.CG(tolerance, iterations)
    covariance = lambda u: sigma**2 * vjp(u)  # noqa: E731
    return posterior.solve_normal(residual, covariance, SOLVERS[solver], settings)


def check_solver(name: str, iterations: int, tolerance: float) -> None:
    """Check the solver settings of the method called `name`.

    Raises: OptionError if a setting is out of range.
    """
    if iterations < 1 or not tolerance >= 0:
        raise OptionError(
            f"{name}: iterations must be at least 1 and tolerance at least 0, "
            f"got {iterations} and {tolerance:g}"
        )
