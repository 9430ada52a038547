"""AFDPS: weighted particles that follow the reverse diffusion of a tempered posterior.

Chen, Ren, Min, Ying, Izzo, Solving Inverse Problems via Diffusion-Based Priors: An
Approximation-Free Ensemble Sampling Approach, TMLR 2026, https://arxiv.org/abs/2506.03979
(algorithms 2 to 4).

    s -> t is a step of the noise level, a -> b of the power;
    mu = -log p(y | x), and phi is the score of p_s
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from torch import Tensor

import inverse
from inverse.particles.tempered_likelihood import TemperedLikelihood
from inverse.rows import row_dot
from inverse.sampling.langevin import adjusted_langevin, langevin
from inverse.sampling.schedules import karras

FEW = 1024
"""Number of unknowns up to which a cloud is taken to represent the posterior."""


@dataclass(frozen=True)
class AFDPS(inverse.ParticleMethod):
    """Move particles through q_s ~ p_s(x) p(y | x)^a(s) and weight them for the error of the moves.

    `sde` follows the reverse SDE, guided by a grad log p(y | x). `ode` follows the probability flow
    without guidance and then takes Langevin steps on q_t.

    Departures:
    - By default the weights compare the simulated proposal with the prior's step and the
      likelihoods before and after it. The only remaining error is that of the prior's chain. `pde`
      is the paper's Euler step of the reaction term.
    - The prior's step is exact for a fixed x0_hat.
    - For a linear operator with Gaussian noise the guided step is drawn exactly from (step of the
      prior) p(y | x)^b. This is the implicit form of the guided SDE: stable, and of least variance,
      at any step size.
    - Resampling precedes the Langevin steps. Their size is proportional to the step of the noise
      level, so that their bias vanishes with it.
    - MALA approximates the difference of log p_t between two points by the trapezoid of the score,
      which is exact for a Gaussian prior.

    Args:
        steps: number of noise levels.
        rho: exponent of the Karras schedule.
        sigma_max: first noise level, model units; by default the prior's.
        sigma_min: last noise level before 0, model units; by default the prior's, at least 0.002.
        variant: ode or sde; auto is ode up to 1024 unknowns, and sde above, where it is better and
            a step costs half.
        anneal: a(s), the power of the likelihood: 1 (none, the paper's first version),
            1 - s / sigma_max (linear, TMLR) or sigma_y^2 / (sigma_y^2 + gamma^2 s^2) (noise-aware);
            auto is noise-aware up to 1024 unknowns, and none above, where one particle survives in
            any case, and full guidance makes the better path.
        gamma: factor of s in noise-aware annealing; by default the norm of A, or for a nonlinear A
            that of the map to physical units.
        weights: girsanov (exact for the discrete chain) or pde.
        substep: guidance of `sde`: exact where that is possible, or euler as in the paper.
        corrector: Langevin steps of `ode`: ula, mala or none.
        corrector_steps: Langevin steps at each level.
        corrector_rate: size of a Langevin step in units of log(s / t) / (largest curvature of
            -log q_t).
        mode: smc, or paper-shortcut, which never resamples and returns the heaviest particle, as in
            the paper's experiments on images.
    """

    name = "afdps"
    reference = (
        "Chen, Ren, Min, Ying, Izzo, Solving Inverse Problems via Diffusion-Based Priors: An "
        "Approximation-Free Ensemble Sampling Approach, "
        "TMLR 2026, https://arxiv.org/abs/2506.03979"
    )
    equation = (
        "dx = (v^2 + g^2)/2 phi - v^2 a grad mu + v dW;  "
        "log w += log K(x'|x) / Q(x'|x) + a mu(x) - b mu(x')"
    )
    claim = "exact in the limit"
    any_prior = True
    bias = inverse.Method.bias | {"excess": 0.5}  # of a cloud without spread
    limit = {"steps": 1.0, "particles": 1.0}

    steps: inverse.Count = 100
    rho: Annotated[float, inverse.Range(0.1, 100)] = 7.0
    sigma_max: inverse.Positive | None = None
    sigma_min: inverse.Positive | None = None
    variant: Literal["auto", "sde", "ode"] = "auto"
    anneal: Literal["auto", "none", "linear", "noise-aware"] = "auto"
    gamma: inverse.Positive | None = None
    weights: Literal["girsanov", "pde"] = "girsanov"
    substep: Literal["exact", "euler"] = "exact"
    corrector: Literal["none", "ula", "mala"] = "ula"
    corrector_steps: inverse.Count = 1
    corrector_rate: Annotated[float, inverse.Range(above=0, high=1e6)] = 1.0
    mode: Literal["smc", "paper-shortcut"] = "smc"

    def unsupported(self, posterior):
        noise_aware = self._chosen(posterior)[1] == "noise-aware" and not posterior.gaussian
        return super().unsupported(posterior) or (
            "afdps: anneal=noise-aware needs Gaussian noise; use anneal=linear"
            if noise_aware
            else None
        )

    def derived(self, posterior):
        variant, anneal = self._chosen(posterior)
        gamma = {"gamma": self._gamma(posterior)} if anneal == "noise-aware" else {}
        return {"variant": variant, "anneal": anneal, **gamma}

    def _chosen(self, posterior):
        """The variant and the annealing."""
        low = math.prod(posterior.shape) <= FEW
        variant, anneal = ("ode", "noise-aware") if low else ("sde", "none")
        return (
            variant if self.variant == "auto" else self.variant,
            anneal if self.anneal == "auto" else self.anneal,
        )

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor | inverse.Weighted]:
        posterior, cloud = self.cloud(posterior, samples, generator)
        cloud.ess_threshold *= self.mode == "smc"
        sigmas = self._sigmas(posterior)
        powers = [self._power(posterior, s, sigmas[0]) for s in sigmas]
        tempered = (
            TemperedLikelihood(posterior) if posterior.linear and posterior.gaussian else None
        )
        self._initialise(posterior, cloud, tempered, sigmas[0], powers[0])
        for s, t, a, b in zip(sigmas, sigmas[1:], powers, powers[1:], strict=False):
            cloud.x, log_increments = self._move(posterior, cloud, tempered, s, t, a, b)
            cloud.reweight(log_increments, t)
            if t > 0:
                cloud.resample()
                self._correct(posterior, cloud, tempered, s, t, b)
            yield (
                cloud.weighted(samples)
                if self.mode == "smc"
                else cloud.best.repeat_interleave(samples, 0)
            )

    def _initialise(self, posterior, cloud, tempered, s, a):
        """Draw from q at the first level, p_s = N(0, s^2 I), or from p_s with weights."""
        z = 0 * cloud.x
        cloud.x = s * cloud.x if tempered is None else tempered.draw(z, s * s, a, cloud.generator)
        cloud.reweight(
            a * posterior.log_likelihood(cloud.x)
            if tempered is None
            else tempered.log_mass(z, s * s, a),
            s,
        )
        cloud.resample()

    def _move(self, posterior, cloud, tempered, s, t, a, b):
        """Return x' and the increments of the log-weights of one step."""
        x, x0_hat = cloud.x, posterior.denoise(cloud.x, s)
        sde = self._chosen(posterior)[0] == "sde"
        mean, v2 = x0_hat + (t / s) ** (1 + sde) * (x - x0_hat), sde * t * t * (1 - (t / s) ** 2)
        before = posterior.log_likelihood(x).double()
        exact = sde and tempered is not None and self.substep == "exact"
        if exact:
            new = tempered.draw(mean, v2, b, cloud.generator)
            log_ratio = 0
        else:
            shift = v2 * a * posterior.likelihood_score(x) if v2 > 0 else 0 * x
            z = cloud.generator.randn_like(x)
            new = mean + shift + v2**0.5 * z
            log_ratio = -row_dot(shift, shift / 2 + v2**0.5 * z).double() / v2 if v2 > 0 else 0
        if self.weights == "pde":
            return new, self._reaction(posterior, cloud, tempered, x0_hat, before, s, t, a, b)
        after = (
            tempered.log_mass(mean, v2, b) if exact else b * posterior.log_likelihood(new).double()
        )
        return new, log_ratio + after - a * before

    def _reaction(self, posterior, cloud, tempered, x0_hat, log_likelihood, s, t, a, b):
        """Integrate the reaction term over the step, with H = (g^2 + v^2) / 2 phi and g^2 = 2 s:

        r dtau = (v^2/2)(a^2 |grad mu|^2 - a Lap mu) - a H . grad mu - (da/dtau) mu.
        """
        x, dtau, sde = cloud.x, s - t, self._chosen(posterior)[0] == "sde"
        grad, g2 = -posterior.likelihood_score(x), 2 * s
        v2, H = sde * g2, (1 + sde) * g2 / 2 * (x0_hat - x) / s**2
        r = -a * row_dot(H, grad).double()
        if sde:
            r = r + v2 / 2 * (
                a * a * row_dot(grad, grad).double()
                - a * self._laplacian(posterior, cloud, tempered)
            )
        return dtau * r + (b - a) * log_likelihood

    def _laplacian(self, posterior, cloud, tempered, eps=1e-3):
        """Lap mu, a constant if A is linear.

        Otherwise it is Hutchinson's estimate from the gradients at x +- eps z, with random signs z.
        """
        if tempered is not None:
            return tempered.trace(lambda h: h)
        x, z = cloud.x, cloud.generator.randn_like(cloud.x).sign()
        change = posterior.likelihood_score(x - eps * z) - posterior.likelihood_score(x + eps * z)
        return row_dot(z, change).double() / (2 * eps)

    def _correct(self, posterior, cloud, tempered, s, t, b):
        """Take Langevin steps that leave q_t invariant."""
        if self._chosen(posterior)[0] == "sde" or self.corrector == "none":
            return
        h = self.corrector_rate * math.log(s / t) / (1 / t**2 + b * _curvature(posterior, tempered))

        def score(x):
            return (posterior.denoise(x, t) - x) / t**2

        def gradient(x):
            return b * posterior.likelihood_score(x)

        if self.corrector == "ula":
            cloud.x = langevin(cloud.x, h, self.corrector_steps, score, gradient, cloud.generator)
        else:
            cloud.x = adjusted_langevin(
                cloud.x,
                h,
                self.corrector_steps,
                score,
                gradient,
                lambda x: b * posterior.log_likelihood(x),
                cloud.generator,
            )

    def _sigmas(self, posterior):
        """Noise levels: the Karras schedule of exponent rho, then 0."""
        *_, low, _ = sigmas = inverse.noise_levels(
            posterior, "karras", self.steps, self.sigma_min, self.sigma_max
        ).tolist()
        return [*karras(self.steps, low, sigmas[0], self.rho).tolist(), 0.0]

    def _power(self, posterior, s, sigma_max):
        """a(s)."""
        _, anneal = self._chosen(posterior)
        if anneal == "noise-aware":
            return 1 / (1 + (self._gamma(posterior) * s / posterior.sigma_y) ** 2)
        return 1.0 if anneal == "none" else 1 - s / sigma_max

    def _gamma(self, posterior):
        return self.gamma or posterior.norm_squared**0.5


def _curvature(posterior, tempered):
    """Largest curvature of mu: known if A is linear, otherwise that of an operator of norm 1.

    It is 1e4 for noise without sigma_y.
    """
    if tempered is not None:
        return tempered.curvature
    return (posterior.prior.scale / posterior.sigma_y) ** 2 if posterior.gaussian else 1e4


@inverse.hookimpl
def inverse_methods():
    return [AFDPS]
