"""OT-ODE: linear inverse problems by a guided flow along the conditional optimal-transport path.

Pokle, Muckley, Chen, Karrer, Training-free Linear Image Inverses via Flows, TMLR 2024,
https://arxiv.org/abs/2310.04432 (algorithm 1).

    v the velocity (x1_hat - x_t) / (1 - t), r_t the spread of x1 given x_t, g the guidance
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from torch import Tensor

import inverse
from inverse_plugins._flow import clipped, destination_with_vjp


@dataclass(frozen=True)
class OTODE(inverse.Method):
    """Follow the flow from a time t' > 0, with the score of p(y | x_t) added to its velocity.

    x1 given x_t is taken to be N(x1_hat, r_t^2 I), as in PiGDM. The choice is exact for a white
    Gaussian prior of unit variance: with start_time 0 and gamma constant the method then tends to
    the posterior as steps grow.

    Departure: the start t' A^+ y + (1 - t') z has the pseudo-inverse damped at the noise level,
    where the paper has y.

    Args:
        steps: Euler steps of the whole path; those from start_time on are made, one prior
            evaluation and one VJP each.
        start_time: t', in [0, 1).
        gamma: weight of the guidance, 1 or the paper's adaptive sqrt(t / (t^2 + (1 - t)^2)).
    """

    name = "ot-ode"
    reference = (
        "Pokle, Muckley, Chen, Karrer, Training-free Linear Image Inverses via Flows, TMLR 2024, "
        "https://arxiv.org/abs/2310.04432"
    )
    equation = (
        "dx/dt = v + (1 - t) / t gamma_t J^T A^T (r_t^2 A A^T + R)^-1 (y - A x1_hat),  "
        "r_t^2 = (1 - t)^2 / (t^2 + (1 - t)^2)"
    )
    claim = "biased"
    needs = ("linear", "gaussian")

    steps: inverse.Count = 100
    start_time: Annotated[float, inverse.Range(0, below=1)] = 0.2
    gamma: Literal["constant", "adaptive"] = "constant"

    @property
    def total(self):
        return self.steps - int(self.steps * self.start_time)

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        delta = 1 / self.steps
        z = inverse.standard_normal(posterior, generator)
        x = self.start_time * posterior.pseudo_inverse() + (1 - self.start_time) * z
        for n in range(self.steps - self.total, self.steps):
            t = clipped(posterior, n * delta)
            x1_hat, vjp = destination_with_vjp(posterior, x, t)
            v = (x1_hat - x) / (1 - t)
            r2 = (1 - t) ** 2 / (t**2 + (1 - t) ** 2)
            g = vjp(posterior.A_adjoint(posterior.solve_normal(posterior.residual(x1_hat), r2)))
            gamma = 1.0 if self.gamma == "constant" else (t / (t**2 + (1 - t) ** 2)) ** 0.5
            x = x + delta * (v + (1 - t) / t * gamma * g)
            yield x


@inverse.hookimpl
def inverse_methods():
    return [OTODE]
