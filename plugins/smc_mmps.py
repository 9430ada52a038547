"""SMC-MMPS: moment-matching posterior sampling inside sequential Monte Carlo.

The twist is that of Wu, Trippe, Naesseth, Blei, Cunningham, Practical and Asymptotically Exact
Conditional Sampling in Diffusion Models, NeurIPS 2023, https://arxiv.org/abs/2306.17775, with the
covariance of Rozet, Andry, Lanusse, Louppe, NeurIPS 2024, https://arxiv.org/abs/2405.13712; the
prior's chain is SDE-DPM-Solver++(2M), https://arxiv.org/abs/2211.01095.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch

import inverse
from inverse.particles.cloud import ParticleMethod, in_parts, metropolis
from inverse.rows import row_dot
from inverse.sampling.integrator import Rule
from inverse.sampling.schedules import transitions
from inverse_plugins._moment_matching import solve_moments


@dataclass(frozen=True)
class SMCMMPS(ParticleMethod):
    """Move particles by MMPS, and weight the error of its Gaussian approximation of x0 given x.

    The twist is psi_s(x) = N(y; A x0_hat, S), S = A V A^T + R, where V = sigma^2 J is the
    covariance of x0 given x. It is exact for a Gaussian prior, whose weights are then equal. Prior
    and proposal are the same second-order stochastic chain, with D = x0_hat and with its guided
    counterpart, so that the error of the chain falls as the square of the step. S is built for at
    most `explicit` measurements, which takes as many VJPs a step. For more it is solved by GMRES,
    and the twist omits its determinant: any positive function is a valid twist.

    Args:
        steps: number of noise levels.
        schedule: name of a noise schedule.
        sigma_max: first noise level, model units; by default the prior's, or five root mean squares
            of x0 in the widest direction of an exact law.
        sigma_min: last noise level, model units; by default the prior's, at least 0.002.
        explicit: largest number of measurements for which S is built.
        iterations: largest number of solver iterations for more measurements.
        tolerance: relative residual at which the solver stops.
        power: resample by W^power and keep the rest as weights, in (0, 1].
        final: weights (the cloud with its weights) or metropolis (equal weights, by an independence
            Metropolis chain over the cloud).
    """

    name = "smc-mmps"
    reference = (
        "This library: the twisted sampler of Wu et al., NeurIPS 2023, "
        "https://arxiv.org/abs/2306.17775, with the moments of Rozet et al., NeurIPS 2024"
    )
    equation = (
        "q = p(. | x0_y),  x0_y = x0_hat + V A^T S^-1 (y - A x0_hat);  "
        "w' = w psi_t(x') / psi_s(x) p(x' | x) / q(x' | x)"
    )
    claim = "exact in the limit"
    any_prior = True
    needs: ClassVar[tuple[str, ...]] = ("linear", "gaussian", "noisy")

    steps: inverse.Count = 100
    schedule: str = "log-uniform"
    sigma_max: inverse.Positive | None = None
    sigma_min: inverse.Positive | None = None
    explicit: Annotated[int, inverse.Range(0, 10**6)] = 8
    iterations: inverse.Count = 20
    tolerance: inverse.NonNegative = 1e-3
    power: Annotated[float, inverse.Range(above=0, high=1)] = 1.0
    final: Literal["weights", "metropolis"] = "weights"

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[inverse.Weighted]:
        rows, cloud = self.cloud(posterior, samples, generator)
        sigma_max = self.sigma_max or posterior.prior.covering_level
        sigmas = inverse.noise_levels(
            posterior, self.schedule, self.steps, self.sigma_min, sigma_max
        )[:-1]
        chain, past = Rule(eta=1.0), deque[float](maxlen=2)
        cloud.x = sigmas[0] * cloud.x
        x0, x0_y, log_psi = self.twist(rows, cloud.x, sigmas[0])
        cloud.reweight(log_psi, sigmas[0])
        free, guided = [x0], [x0_y]
        for next_sigma, (_, s, t) in zip(sigmas[1:], transitions(sigmas), strict=True):
            past.appendleft(s)
            ancestor = cloud.resample(self.power)
            log_psi = log_psi[ancestor]
            free = [D[ancestor] for D in free]
            guided = [D[ancestor] for D in guided]
            step = chain.step(s, t, past)
            z = cloud.generator.randn_like(cloud.x)
            drift = (
                sum(w * (g - f) for w, g, f in zip(step.weights, guided, free, strict=True))
                / step.noise
            )
            cloud.x = (
                step.keep * cloud.x
                + sum(w * g for w, g in zip(step.weights, guided, strict=True))
                + step.noise * z
            )
            x0, x0_y, log_psi_t = self.twist(rows, cloud.x, next_sigma)
            log_p_over_q = -row_dot(drift, z + drift / 2)
            cloud.reweight(log_psi_t - log_psi + log_p_over_q, t)
            log_psi, free, guided = log_psi_t, [x0, free[0]], [x0_y, guided[0]]
            yield cloud.weighted(samples)
        cloud.x = x0_y
        if self.final == "metropolis":
            metropolis(cloud)
        yield cloud.weighted(samples)

    def twist(self, posterior, x, sigma):
        """x0_hat, its guided counterpart x0_y, and log psi."""
        few = int(posterior.noise.weights(posterior.y).sum()) <= self.explicit
        return in_parts(
            posterior, lambda part, x: (explicit if few else self.iterative)(part, x, sigma), x
        )

    def iterative(self, posterior, x, sigma):
        """x0_hat, its guided counterpart x0_y, and log psi without the determinant of S."""
        x0, vjp = posterior.tweedie(x, sigma)
        r = posterior.residual(x0)
        v = solve_moments(posterior, r, sigma, vjp, "gmres", self.iterations, self.tolerance)
        return (
            x0,
            x0 + sigma**2 * vjp(posterior.A_adjoint(v)),
            -0.5 * row_dot(r, v) + log_normaliser(posterior),
        )


def explicit(posterior, x, sigma):
    """x0_hat, its guided counterpart x0_y, and log psi, with S built in full.

    S covers the entries of y that are measurements.
    """
    x0, vjp = posterior.tweedie(x, sigma)
    measured = posterior.noise.weights(posterior.y).flatten().nonzero()[:, 0]
    unit = torch.eye(posterior.y[0].numel(), dtype=x.dtype, device=x.device)[measured]
    At = posterior.A_adjoint(unit.reshape(-1, *posterior.y.shape[1:]))
    VAt = torch.stack([sigma**2 * vjp(a.expand_as(x)) for a in At], 1).flatten(2)
    R = posterior.noise.variance(posterior.y).expand(posterior.y.shape[1:]).flatten()[measured]
    S = VAt @ At.flatten(1).T + R.diag()
    values, vectors = torch.linalg.eigh((S + S.mT) / 2)
    values = values.clamp_min(R.min())
    r = posterior.residual(x0).flatten(1)[:, measured]
    c = (vectors.mT @ r[..., None])[..., 0]
    x0_y = x0 + (VAt.mT @ (vectors @ (c / values)[..., None])).reshape(x.shape)
    return x0, x0_y, -0.5 * (c**2 / values + values.log() + math.log(2 * math.pi)).sum(1)


def log_normaliser(posterior):
    """log N(0; 0, R)."""
    return posterior.noise.log_prob(posterior.y[:1], posterior.y[:1])


@inverse.hookimpl
def inverse_methods():
    return [SMCMMPS]
