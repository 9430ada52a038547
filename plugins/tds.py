"""TDS: the twisted diffusion sampler.

Wu, Trippe, Naesseth, Blei, Cunningham, Practical and Asymptotically Exact Conditional Sampling in
Diffusion Models, NeurIPS 2023, https://arxiv.org/abs/2306.17775 (algorithm 1).

    p~_s(y | x) the twist, p(x' | x) the prior's ancestral kernel, s -> t a step of the noise level
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

import inverse
from inverse.particles.cloud import in_parts
from inverse.particles.twisted_chain import twisted_chain
from inverse.rows import row_dot

DEFAULT_ENTRIES, MAX_ENTRIES = 16, 256
"""Largest y for which the moment twist is the default, and for which it is allowed.

The twist takes a VJP for each entry of y.
"""


@dataclass(frozen=True)
class TDS(inverse.ParticleMethod):
    """Guide particles by the gradient of a twist, an estimate of p(y | x), and weight its error.

    The only remaining error is that of the prior's chain, whatever the twist; a good twist needs
    few particles. The evidence is that of the chain, too, and with few steps it is high. For an
    image whose pixels are measured (A A^T = I), `pigdm` is the paper's twist of the same variance.
    Departures: sigma_y enters the covariance of the twist (the paper's y has no noise); x0_hat is
    not clipped; the twist without the likelihood's covariance is a power of the likelihood, so that
    it applies to every operator and noise.

    Args:
        steps: number of noise levels.
        schedule: name of a noise schedule.
        sigma_max: first noise level, model units; by default the prior's.
        sigma_min: last noise level before 0, model units; by default the prior's, at least 0.002.
        twist: pigdm, N(y; A x0_hat, r^2 A A^T + R); moment, N(y; A x0_hat, A V A^T + R) with
            V = sigma^2 J, exact for a Gaussian prior, one VJP for each entry of y; dps,
            p(y | x0_hat)^b with 1 / b = 1 + (|A| r / sigma_y)^2, for any operator and noise; by
            default the first that fits of moment (y of at most 16 entries), pigdm and dps.
        tau: standard deviation of the prior in 1 / r^2 = 1 / sigma^2 + 1 / tau^2, model units; 0
            uses x0_hat without a spread.
    """

    name = "tds"
    reference = (
        "Wu, Trippe, Naesseth, Blei, Cunningham, Practical and Asymptotically Exact Conditional "
        "Sampling in Diffusion Models, NeurIPS 2023, "
        "https://arxiv.org/abs/2306.17775"
    )
    equation = (
        "x' ~ q = N(mu + (s^2 - t^2) grad log p~_s(y|x), c^2);  "
        "w *= p~_t(y|x') p(x'|x) / (p~_s(y|x) q(x'|x))"
    )
    claim = "exact in the limit"
    any_prior = True
    limit = {"steps": 1.0, "particles": 1.0}

    steps: inverse.Count = 100
    schedule: str = "karras"
    sigma_max: inverse.Positive | None = None
    sigma_min: inverse.Positive | None = None
    twist: Literal["pigdm", "moment", "dps"] | None = None
    tau: inverse.NonNegative = 1.0

    def unsupported(self, posterior):
        entries = posterior.y[0].numel()
        found = f"{type(posterior.operator).__name__} with {posterior.noise!r}"
        if self.twist in ("pigdm", "moment") and not (posterior.linear and posterior.gaussian):
            return (
                f"tds: twist={self.twist} needs a linear operator and Gaussian noise, "
                f"found {found}; use twist=dps"
            )
        if self.twist == "moment" and entries > MAX_ENTRIES:
            return (
                f"tds: twist=moment takes a VJP for each entry of y, at most {MAX_ENTRIES}, "
                f"found {entries}; use twist=pigdm"
            )
        return super().unsupported(posterior)

    def derived(self, posterior):
        return {"twist": self._chosen(posterior)}

    def notes(self, posterior):
        if self.steps >= 100:
            return []
        return [
            f"tds: the log-evidence is that of a chain of {self.steps} steps, and tends to be "
            "high; try 200 steps or more"
        ]

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[inverse.Weighted]:
        posterior, cloud = self.cloud(posterior, samples, generator)
        levels = inverse.noise_levels(
            posterior, self.schedule, self.steps, self.sigma_min, self.sigma_max
        ).tolist()
        for moved in twisted_chain(
            posterior, cloud, levels, lambda x, s: self._twist(posterior, x, s)
        ):
            yield moved.weighted(samples)

    def _chosen(self, posterior):
        fits = (
            "dps"
            if not (posterior.linear and posterior.gaussian)
            else "moment"
            if posterior.y[0].numel() <= DEFAULT_ENTRIES
            else "pigdm"
        )
        return self.twist or fits

    def _twist(self, posterior, x, s):
        """x0_hat, grad log p~_s(y | x), and log p~_s(y | x) up to a constant, which cancels."""
        r2 = 1 / (1 / s**2 + 1 / self.tau**2) if self.tau > 0 else 0.0
        twist = TWISTS[self._chosen(posterior)]
        return in_parts(posterior, lambda part, x: twist(part, *part.tweedie(x, s), r2, s), x)


def _pigdm(posterior, x0_hat, vjp, r2, s):
    r = posterior.residual(x0_hat)
    v = posterior.solve_normal(r, r2)
    return x0_hat, vjp(posterior.A_adjoint(v)), -row_dot(r, v).double() / 2


def _moment(posterior, x0_hat, vjp, r2, s):
    """The moment twist; its gradient takes V to be constant.

    A negative eigenvalue of A V A^T, which the Jacobian of a network may have, counts as 0.
    """
    y = posterior.y
    white = posterior.noise.variance(y).expand(y.shape[1:]).flatten().sqrt()
    r = posterior.residual(x0_hat).flatten(1) / white
    rows = posterior.A_adjoint(torch.diag(1 / white).reshape(-1, *y.shape[1:]))
    JAt = torch.stack([vjp(a.expand_as(x0_hat)) for a in rows], 1)
    AVAt = s**2 * JAt.flatten(2) @ rows.flatten(1).T
    h, Q = torch.linalg.eigh((AVAt + AVAt.mT) / 2)
    h, r = h.clamp_min(0), (r[:, None] @ Q)[:, 0]
    v = (Q @ (r / (1 + h))[..., None])[..., 0]
    return (
        x0_hat,
        (v[:, None] @ JAt.flatten(2)).reshape(x0_hat.shape),
        -(r.square() / (1 + h) + h.log1p()).sum(1).double() / 2,
    )


def _dps(posterior, x0_hat, vjp, r2, s):
    gain = posterior.norm_squared
    power = 1 / (1 + gain * r2 / posterior.sigma_y**2) if posterior.gaussian else 1.0
    return (
        x0_hat,
        power * vjp(posterior.likelihood_score(x0_hat)),
        power * posterior.log_likelihood(x0_hat).double(),
    )


TWISTS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "pigdm": _pigdm,
    "moment": _moment,
    "dps": _dps,
}


@inverse.hookimpl
def inverse_methods():
    return [TDS]
