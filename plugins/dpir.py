"""DPIR: plug-and-play restoration with a deep denoiser prior, by half-quadratic splitting.

Zhang, Li, Zuo, Zhang, Van Gool, Timofte, Plug-and-Play Image Restoration with Deep Denoiser Prior,
IEEE TPAMI 2021, https://arxiv.org/abs/2008.13751 (algorithm 1).

    z_k denoised, x_k data-consistent, sigma_k the level of step k, lambda the trade-off
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

import inverse
from inverse.errors import OptionError
from inverse.execution import CG
from inverse.measurement.finite_differences import smooth_least_squares
from inverse.sampling.schedules import transitions


@dataclass(frozen=True)
class DPIR(inverse.Method):
    """Solve the data problem near the last denoised image, then denoise at a falling noise level.

    With alpha_k = lambda sigma_y^2 / sigma_k^2 in the paper's |y - A x|^2 + alpha_k |x - z|^2, x_k
    is the proximal point of variance sigma_k^2 / lambda. No step adds noise.

    Departures: the iteration starts from a smooth least-squares solution, which fills holes (the
    paper starts from y for deblurring and from bicubic interpolation for super-resolution, and has
    no inpainting). Images are not rotated or flipped between the steps, which helps denoisers that
    are not equivariant.

    Args:
        steps: number of iterations; the paper's 8 for deblurring, 24 for super-resolution.
        sigma_max: first level, model units; the paper's 49 of 255.
        sigma_min: last level, model units; auto is sigma_y / |A|, at least 0.255 of 255, which for
            a blur is the paper's sigma_y.
        lambda_: trade-off; the paper's 0.23.
    """

    name = "dpir"
    reference = (
        "Zhang, Li, Zuo, Zhang, Van Gool, Timofte, Plug-and-Play Image Restoration with Deep "
        "Denoiser Prior, IEEE TPAMI 2021, https://arxiv.org/abs/2008.13751"
    )
    equation = "x_k = prox_{-log p(y|.)}(z_{k-1}; sigma_k^2 / lambda);  z_k = x0_hat(x_k, sigma_k)"
    claim = "point estimate"
    bias = inverse.Method.bias | {"excess": 1.0}  # where y says little
    needs = ("linear", "gaussian")

    steps: inverse.Count = 24
    sigma_max: inverse.Positive = 2 * 49 / 255
    sigma_min: inverse.Positive | None = None
    lambda_: inverse.Positive = 0.23

    def __post_init__(self):
        super().__post_init__()
        if self.sigma_min is not None and not 0 < self.sigma_min < self.sigma_max:
            raise OptionError(
                "dpir: need 0 < sigma_min < sigma_max, "
                f"got {self.sigma_min:g} and {self.sigma_max:g}"
            )

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        sigma_y = posterior.sigma_y / posterior.norm
        last = (
            min(max(sigma_y, 2 * 0.255 / 255), self.sigma_max / 2)
            if self.sigma_min is None
            else self.sigma_min
        )
        z = smooth_start(posterior)
        sigmas = inverse.noise_levels(posterior, "log-uniform", self.steps, last, self.sigma_max)
        for sigma, s, _ in transitions(sigmas):
            x = posterior.prox(z, s**2 / self.lambda_)
            z = posterior.denoise(x, sigma)
            yield z


def smooth_start(posterior: inverse.Posterior) -> Tensor:
    """argmin |y - A x|^2 + 10 sigma_y^2 |grad x|^2 of an image, model units: (B, *shape).

    It is the pseudo-inverse, damped at the noise level, if x is not an image.
    """
    if len(posterior.shape) != 3:
        return posterior.pseudo_inverse()
    sigma_y = max(posterior.sigma_y / posterior.prior.scale, 1e-3)
    weight = 10 * (sigma_y * posterior.prior.scale**2) ** 2
    return smooth_least_squares(posterior, weight, CG(1e-6, 100))


@inverse.hookimpl
def inverse_methods():
    return [DPIR]
