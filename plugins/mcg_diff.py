"""MCG-diff: Monte Carlo guided diffusion.

Cardoso, Janati, Le Corff, Moulines, Monte Carlo guided Diffusion for Bayesian linear inverse
problems, ICLR 2024, https://arxiv.org/abs/2308.07983 (algorithm 1, and section 3 for noisy
measurements), in the VE coordinate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import torch

import inverse
from inverse.particles.tempered_likelihood import TemperedLikelihood
from inverse.rows import row_dot


@dataclass(frozen=True)
class MCGDiff(inverse.ParticleMethod):
    """Take a coordinate measured with noise tau = sigma_y / s for its diffusion at level tau.

    In the singular basis of A, a step above tau draws a coordinate from the product of the
    sampler's step and g_t = N(seen, t^2 - tau^2 + kappa (1 + tau^2)), the forward process from the
    measured value. Below tau, and for unmeasured coordinates, the sampler alone draws. The weights
    precede the draw. All terms are functions of A^T A applied to real images. The paper's limit of
    many steps and particles is not claimed: its error does not fall up to four times the default
    effort (`inverse verify mcg-diff`).

    Departures:
    - The levels are those of a named schedule; the paper's are uniform in sqrt(alpha_bar).
    - The first particles are drawn from N(0, sigma_max^2) g and their evidence is counted, as the
      division by g in the first step requires.
    - x at tau keeps its g, as in the paper. The authors' code divides it out and weights by p(y |
      x) at the end; the variance of those weights is infinite as kappa goes to 0.
    - A cloud is resampled only when its effective size is small.

    Args:
        steps: number of noise levels, including those at tau.
        schedule: name of a noise schedule. The levels tau are inserted if they are at most a
            quarter of the steps; otherwise the nearest level represents each tau.
        sigma_max: first noise level, model units; by default the prior's.
        sigma_min: last noise level before 0, model units; by default the prior's, at least 0.002.
        eta: fraction of fresh noise in a step of the sampler, in (0, 1]; the paper's mixtures use
            0.6 for 20 steps and 0.85 for 100.
        kappa: variance of g at tau in units of 1 + tau^2.
    """

    name = "mcg-diff"
    reference = (
        "Cardoso, Janati, Le Corff, Moulines, Monte Carlo guided Diffusion for Bayesian linear "
        "inverse problems, ICLR 2024, https://arxiv.org/abs/2308.07983"
    )
    equation = (
        "w *= int g_t(x') N(x'; m_t(x), c^2) dx' / g_s(x),  "
        "x'_i ~ N((1 - K) m_i + K y_i / s_i, K v_t) where t >= tau_i,  K = c^2 / (c^2 + v_t)"
    )
    claim = "biased"
    bias = inverse.Method.bias | {
        "marginal W2": 1.5,  # few particles for many measurements
        "excess": 0.5,  # of a cloud without spread
    }
    limit = {"steps": 1.0, "particles": 1.0}
    needs = ("decomposable", "gaussian", "noisy")

    steps: inverse.Count = 100
    schedule: str = "karras"
    sigma_max: inverse.Positive | None = None
    sigma_min: inverse.Positive | None = None
    eta: Annotated[float, inverse.Range(above=0, high=1)] = 0.85
    kappa: inverse.Positive = 1e-4

    def unsupported(self, posterior):
        return super().unsupported(posterior) or (
            None
            if posterior.noise.sigma.ndim == 0
            else "mcg-diff needs one sigma_y for all measurements"
        )

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[inverse.Weighted]:
        posterior, cloud = self.cloud(posterior, samples, generator)
        levels, taus = self._levels(posterior)
        seen = posterior.A_dagger(posterior.residual(0 * cloud.x))
        tempered = TemperedLikelihood(posterior)
        filtered = posterior.filter

        def variance(lam, s, t):
            """v_s of the coordinates seen at level t, else infinity; lam: eigenvalues of A^T A."""
            own = posterior.sigma_y / lam.sqrt()
            tau = torch.where(
                own <= levels[0],
                taus.to(lam)[own[..., None].log().sub(taus.log()).abs().argmin(-1)],
                math.inf,
            )
            return torch.where(tau <= t, s * s - tau**2 + self.kappa * (1 + tau**2), math.inf)

        def log_g(x, s, t, extra=0.0):
            """log prod_i N(x_i; seen_i, v_s + extra) over the coordinates that are seen at t."""

            def log_2pi_v(h):
                v = variance(posterior.sigma_y**2 * h, s, t) + extra
                return torch.where(v.isfinite(), (2 * math.pi * v).log(), 0.0)

            distance = row_dot(
                x - seen, filtered(x - seen, lambda lam: 1 / (variance(lam, s, t) + extra))
            )
            return -0.5 * (distance.double() + tempered.trace(log_2pi_v))

        def draw(m, c2, t, z):
            """x' ~ N(m, c2) g_t from a standard normal z."""
            fresh = (z, lambda lam: (c2 / (1 + c2 / variance(lam, t, t))).sqrt())
            return m + filtered(seen - m, lambda lam: c2 / (c2 + variance(lam, t, t)), fresh)

        cloud.reweight(log_g(0 * cloud.x, levels[0], levels[0], levels[0] ** 2), levels[0])
        log_det = tempered.trace(
            lambda h: torch.where(
                variance(posterior.sigma_y**2 * h, levels[0], levels[0]).isfinite(),
                (2 * math.pi / h).log(),
                0.0,
            )
        )
        cloud.log_evidence += (
            posterior.log_likelihood(seen).view_as(cloud.log_weights)[:, 0].double() + 0.5 * log_det
        )  # p(y | x) over that of seen
        cloud.x = draw(0 * cloud.x, levels[0] ** 2, levels[0], cloud.x)
        for s, t in pairwise(levels):
            x0_hat, c = posterior.denoise(cloud.x, s), self.eta * t * math.sqrt(1 - (t / s) ** 2)
            m = x0_hat + math.sqrt(t * t - c * c) / s * (cloud.x - x0_hat)
            cloud.reweight(log_g(m, t, t, c * c) - log_g(cloud.x, s, t), t)
            cloud.x = (
                m if t == 0 else draw(m[cloud.resample()], c * c, t, cloud.generator.randn_like(m))
            )
            yield cloud.weighted(samples)

    def _levels(self, posterior):
        """Noise levels, ending in 0, and the levels (k,) that represent a tau."""
        lam = (posterior.prior.scale * torch.as_tensor(posterior.operator.mask).abs().double()) ** 2
        *sigmas, low, _ = inverse.noise_levels(
            posterior, self.schedule, self.steps, self.sigma_min, self.sigma_max
        ).tolist()
        tau = (posterior.sigma_y / lam[lam > 1e-10 * lam.max()].sqrt()).unique()
        tau = tau[(tau > low) & (tau < max(sigmas, default=0.0))]
        if len(tau) <= self.steps // 4:
            grid = inverse.noise_levels(
                posterior, self.schedule, self.steps - len(tau), self.sigma_min, self.sigma_max
            ).double()
            grid = torch.cat([grid[:-1], tau]).sort(descending=True).values
        else:
            grid = torch.tensor([*sigmas, low], dtype=torch.float64)
        return [*grid.tolist(), 0.0], grid


@inverse.hookimpl
def inverse_methods():
    return [MCGDiff]
