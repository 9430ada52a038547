"""D-Flow: the source of a flow is optimised through its ODE.

Ben-Hamu, Puny, Gat, Karrer, Singer, Lipman, D-Flow: Differentiating through Flows for Controlled
Generation, ICML 2024, https://arxiv.org/abs/2402.14017 (algorithm 1).

    x0 the source, x(1) = T(x0) the end of its path, R(x0) = -log p(|x0|) for x0 ~ N(0, I)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Literal

from torch import Tensor

import inverse
from inverse.rows import per_row, row_dot
from inverse.sampling.lbfgs import lbfgs
from inverse_plugins._flow import clipped, destination, destination_with_vjp


@dataclass(frozen=True)
class DFlow(inverse.Method):
    """Minimise |y - A T(x0)|^2 + lambda R(x0) over the source x0 by L-BFGS.

    T is the midpoint rule on the ODE of the flow. Its gradient is the exact adjoint of the discrete
    steps: the states are kept, and one evaluation of the prior at a time is differentiated, so that
    the memory does not grow with steps. For a Gaussian prior T is affine, and with R = |x0|^2 / 2
    and lambda = 2 sigma_y^2 the result tends to the mean of the posterior as steps grow.

    Departures: the source starts from T^-1 of the damped pseudo-inverse, by the same midpoint rule,
    blended with noise. The line search of L-BFGS backtracks, row by row. R has the sign of the
    paper; its sign in the benchmark of PnP-Flow, whose settings these are, pushes |x0| away from
    sqrt(n).

    Args:
        steps: midpoint steps; two prior evaluations each, and as many VJPs in a gradient.
        lbfgs_steps: iterations of L-BFGS, of one gradient each or a few; the benchmark has 60 for
            denoising, 140 for deblurring, 200 for super-resolution, 180 for box inpainting and 400
            for random inpainting.
        lambda_: weight of R, images and measurements in model units; the benchmark's 0.001 to 0.01.
        alpha: share of T^-1(A^+ y) in the variance of the first source, in [0, 1).
        start_time: time of the source, in [0, 1).
        regulariser: R: chi, the density of |x0|, as in the paper; gaussian, that of x0.
    """

    name = "d-flow"
    reference = (
        "Ben-Hamu, Puny, Gat, Karrer, Singer, Lipman, D-Flow: Differentiating through Flows for "
        "Controlled Generation, ICML 2024, https://arxiv.org/abs/2402.14017"
    )
    equation = "x0 = argmin |y - A T(x0)|^2 + lambda (|x0|^2 / 2 - (n - 1) log |x0|);  x = T(x0)"
    claim = "point estimate"
    bias = inverse.Method.bias | {"excess": 45.0}  # lambda does not grow with sigma_y
    units = "lambda weighs R against |y - A x|^2 as it is, without 1 / sigma_y^2, as in the paper"
    needs = ("gaussian",)

    steps: inverse.Count = 6
    lbfgs_steps: inverse.Count = 400
    lambda_: inverse.NonNegative = 0.01
    alpha: Annotated[float, inverse.Range(0, below=1)] = 0.1
    start_time: Annotated[float, inverse.Range(0, below=1)] = 0.0
    regulariser: Literal["chi", "gaussian"] = "chi"

    @property
    def total(self):
        return None

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        z = inverse.standard_normal(posterior, generator)
        source = self._flow(posterior, posterior.pseudo_inverse(), backward=True)[0]
        start = self.alpha**0.5 * source + (1 - self.alpha) ** 0.5 * z

        def loss(x0):
            x, vjp = self._flow(posterior, x0)
            r = posterior.residual(x) / posterior.prior.scale
            square, n = row_dot(x0, x0), x0[0].numel() - 1
            n = n if self.regulariser == "chi" else 0
            R = square / 2 - n / 2 * square.log()
            gradient = vjp(-2 / posterior.prior.scale * posterior.A_vjp(x, r))
            gradient = gradient + self.lambda_ * per_row(1 - n / square, x0) * x0
            return row_dot(r, r) + self.lambda_ * R, gradient

        x0 = start
        for step, x0 in enumerate(islice(lbfgs(loss, start), self.lbfgs_steps), 1):
            if step % 20 == 0:
                yield self._flow(posterior, x0)[0]
        yield self._flow(posterior, x0)[0]

    def _flow(
        self, posterior: inverse.Posterior, x: Tensor, backward: bool = False
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """T(x), or T^-1(x), and v -> (dT / dx)^T v."""
        delta = (1 - self.start_time) / self.steps
        times = [self.start_time + delta * i for i in range(self.steps + 1)]
        if backward:
            times, delta = times[::-1], -delta
        path = []
        for t in times[:-1]:
            middle = x + delta / 2 * velocity(posterior, x, t)
            path.append((x, t, middle, t + delta / 2))
            x = x + delta * velocity(posterior, middle, t + delta / 2)

        def vjp(v):
            for x, t, middle, half in reversed(path):
                u = delta * velocity_vjp(posterior, middle, half, v)
                v = v + u + delta / 2 * velocity_vjp(posterior, x, t, u)
            return v

        return x, vjp


def velocity(posterior: inverse.Posterior, x: Tensor, t: float) -> Tensor:
    """E[x1 - x0 | x_t = x] = (x1_hat - x) / (1 - t)."""
    t = clipped(posterior, t)
    return (destination(posterior, x, t) - x) / (1 - t)


def velocity_vjp(posterior: inverse.Posterior, x: Tensor, t: float, v: Tensor) -> Tensor:
    """(dvelocity / dx)^T v."""
    t = clipped(posterior, t)
    return (destination_with_vjp(posterior, x, t)[1](v) - v) / (1 - t)


@inverse.hookimpl
def inverse_methods():
    return [DFlow]
