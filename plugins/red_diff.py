"""RED-diff: variational posterior sampling with regularisation by denoising.

Mardani, Song, Kautz, Vahdat, A Variational Perspective on Solving Inverse Problems with Diffusion
Models, ICLR 2024, https://arxiv.org/abs/2305.04391 (algorithm 1).

    s = sqrt((1 - alpha_bar) / alpha_bar), the noise level of x_t / sqrt(alpha_bar)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

import inverse
from inverse.errors import OptionError
from inverse.sampling.schedules import vp_levels

WEIGHTS = {
    "linear": lambda s: s,
    "sqrt": lambda s: s**0.5,
    "square": lambda s: s**2,
    "log": lambda s: (1 + s).log(),
    "trunc-linear": lambda s: s.clamp(max=1),
    "power2over3": lambda s: s ** (2 / 3),
    "const": torch.ones_like,
}


@dataclass(frozen=True)
class REDDiff(inverse.Method):
    """Fit a Dirac at mu, by Adam, to the data misfit and the mismatch of the predicted noise.

    The gradient drops the Jacobian of the network. Different seeds give the noise of the
    optimiser, not posterior samples.

    Departures: the level t = 999 (s = 157) is clipped to the prior's range; mu starts from the
    pseudo-inverse damped at the noise level, which equals A^+ y without noise.

    Args:
        steps: levels visited, evenly spaced in t of the 1000-step VP process; one prior evaluation
            each.
        lr: Adam's step, model units; auto is the authors' 0.1, and their 0.5 for a nonlinear
            operator.
        lambda_: weight of the prior term; auto follows the rule `auto`.
        auto: noise is 0.25 max(1, (sigma_y / 0.05)^2) with sigma_y in model units: the authors'
            0.25 without noise, and 1 at sigma_y = 0.1. gain multiplies it by the fourth root of the
            mean over the largest squared gain of A, which is 1 for masks and 0.4 to 0.6 for blurs;
            docs/methods.md has the calibration.
        weight: function of the level s that weights the prior term.
        order: order in which the levels are visited.
        normalise: mean divides the data term by the number of measurements and the prior term by
            that of pixels, as the authors' code does; sum divides neither.
        sigma_x0: dispersion of x0 around mu.
        optimizer: adam, or sgd for analysis.
        beta1, beta2: Adam's decay rates of the first and second moment.
    """

    name = "red-diff"
    reference = (
        "Mardani, Song, Kautz, Vahdat, A Variational Perspective on Solving Inverse Problems "
        "with Diffusion Models, ICLR 2024, https://arxiv.org/abs/2305.04391"
    )
    equation = "min_mu |y - A(mu)|^2 / 2 + lambda E_t[ w(s_t) <sg(eps_hat(x_t) - eps), mu> ]"
    claim = "point estimate"
    units = "lambda weighs |y - A x|^2 as it is, without 1 / sigma_y^2, as in the paper"
    needs = ("gaussian",)

    steps: inverse.Count = 100
    lr: inverse.Positive | None = None
    lambda_: inverse.NonNegative | None = None
    auto: Literal["noise", "gain"] = "gain"
    weight: Literal[tuple(WEIGHTS)] = "linear"  # type: ignore[valid-type]
    order: Literal["descending", "ascending", "random"] = "descending"
    normalise: Literal["mean", "sum"] = "mean"
    sigma_x0: Annotated[float, inverse.Range(0, 1e9)] = 0.0
    optimizer: Literal["adam", "sgd"] = "adam"
    beta1: Annotated[float, inverse.Range(0, below=1)] = 0.9
    beta2: Annotated[float, inverse.Range(0, below=1)] = 0.99

    def __post_init__(self):
        super().__post_init__()
        if self.steps > 1000 and self.order != "random":
            raise OptionError(
                f"red-diff: at most 1000 steps in {self.order} order, got {self.steps}"
            )

    def derived(self, posterior):
        """The step, lambda, and the equivalent value of lambda without normalisation."""
        m, n = posterior.y[0].numel(), torch.Size(posterior.shape).numel()
        lam = self._lambda(posterior)
        lambda_eff = lam * m / n if self.normalise == "mean" else lam
        return {"lr": self._lr(posterior), "lambda": lam, "lambda_eff": lambda_eff}

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        w, lam, lr = WEIGHTS[self.weight], self._lambda(posterior), self._lr(posterior)
        m, n = posterior.y[0].numel(), torch.Size(posterior.shape).numel()
        data = (n / m if self.normalise == "mean" else 1.0) / posterior.prior.scale**2
        levels = (
            vp_levels()
            .clamp(posterior.prior.sigma_min, posterior.prior.sigma_max)
            .to(posterior.device, posterior.dtype)
        )
        priority = lam * w(levels)
        mu = posterior.pseudo_inverse()
        update = self._adam(mu, lr) if self.optimizer == "adam" else lambda mu, g: mu - lr * g
        for t in self._order(generator):
            s = levels[t].reshape(-1, *[1] * (mu.ndim - 1))
            eps = generator.randn_like(mu)
            x0 = mu + self.sigma_x0 * generator.randn_like(mu) if self.sigma_x0 else mu
            x_t = x0 + s * eps
            eps_hat = (x_t - posterior.denoise(x_t, levels[t])) / s
            misfit = posterior.A_vjp(x0, posterior.residual(x0))
            mu = update(mu, priority[t].reshape(s.shape) * (eps_hat - eps) - data * misfit)
            yield mu

    def _order(self, generator):
        """Indices of the levels: a number for each step; in random order (B,) for each step."""
        if self.order == "random":
            return [
                torch.cat(
                    [
                        torch.randint(0, 1000, (1,), generator=g, device=g.device)
                        for g in generator.rows
                    ]
                )
                for _ in range(self.steps)
            ]
        descending = [999 - 1000 * i // self.steps for i in range(self.steps)]
        return descending if self.order == "descending" else descending[::-1]

    def _adam(self, mu, lr):
        first, second, count = torch.zeros_like(mu), torch.zeros_like(mu), 0

        def update(mu, g):
            nonlocal count
            count += 1
            first.lerp_(g, 1 - self.beta1)
            second.mul_(self.beta2).addcmul_(g, g, value=1 - self.beta2)
            scale = (second / (1 - self.beta2**count)).sqrt_().add_(1e-8)
            return torch.addcdiv(mu, first, scale, value=-lr / (1 - self.beta1**count))

        return update

    def _lr(self, posterior):
        return self.lr or (0.1 if posterior.linear else 0.5)

    def _lambda(self, posterior):
        if self.lambda_ is not None:
            return self.lambda_
        lam = 0.25 * max(1.0, (posterior.sigma_y / posterior.prior.scale / 0.05) ** 2)
        return lam * mean_gain(posterior) ** 0.25 if self.auto == "gain" else lam


def mean_gain(posterior: inverse.Posterior) -> float:
    """Mean over largest squared gain of A, from one random measurement; 1 if A is not linear."""
    if not posterior.linear:
        return 1.0
    assert isinstance(posterior.noise, inverse.GaussianNoise)
    v = torch.randn(posterior.y[:1].shape, generator=torch.Generator().manual_seed(0))
    v = v.to(posterior.y) * posterior.noise.weights(posterior.y)
    back = posterior.prior.decode_adjoint(posterior.operator.A_adjoint(v))
    return float(back.square().sum() / v.square().sum()) / posterior.norm**2


@inverse.hookimpl
def inverse_methods():
    return [REDDiff]
