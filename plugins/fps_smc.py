"""FPS-SMC: filtering posterior sampling.

Dou, Song, Diffusion Posterior Sampling for Linear Inverse Problem Solving: A Filtering
Perspective, ICLR 2024, https://openreview.net/forum?id=tplXNcHZs1 (algorithm 2), in the VE
coordinate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import inverse
from inverse.particles.tempered_likelihood import TemperedLikelihood
from inverse.sampling.schedules import transitions


@dataclass(frozen=True)
class FPSSMC(inverse.ParticleMethod):
    """Diffuse the measurement too, y_t = y + A n_t, and filter x_t through y_t = A x_t + noise.

    The path of y_t is drawn once for each image. A step is an exact draw from (step of the
    sampler) p(y_t | x_t), weighted by the likelihood of y_t before it. The noise of y_t is the
    same at all levels, but the filter treats it as new at each of them. With sigma_y > 0 the
    answer is therefore too narrow, the more so the more levels lie below sigma_y / s. It gives no
    evidence: the product of its weights estimates the density of the path of y_t under new noise
    at every level, not p(y).

    Departures: the levels are cut to the prior's range; a cloud is resampled only when its
    effective size is small; the last step, too, is a draw given y.

    Args:
        steps: number of noise levels.
        schedule: name of a noise schedule.
        sigma_max: first noise level, model units; by default the prior's.
        sigma_min: last noise level before 0, model units; by default the prior's, at least 0.002.
        c: share of fresh noise in the variance at each level, in (0, 1]; by default DDPM's, 1 -
            t^2 / s^2. A fixed number, as in the authors' code, uses the mean instead of a draw in
            every step, which makes the prior itself too narrow when there are many steps.
    """

    name = "fps-smc"
    reference = (
        "Dou, Song, Diffusion Posterior Sampling for Linear Inverse Problem Solving: A "
        "Filtering Perspective, ICLR 2024, https://openreview.net/forum?id=tplXNcHZs1"
    )
    equation = (
        "y_t = y + sqrt(1-c) t/s (y_s - y) + sqrt(c) t A z;  x' ~ N(m_t(x), c t^2) p(y_t|x'),  "
        "w *= p(y_t|m_t(x))"
    )
    claim = "biased"
    bias: ClassVar[dict[str, float]] = {  # ends narrow
        "marginal W2": 1.5,
        "unseen spread": 1.25,
        "excess": 1.5,
    }
    needs = ("linear", "gaussian", "noisy")

    steps: inverse.Count = 100
    schedule: str = "vp"
    sigma_max: inverse.Positive | None = None
    sigma_min: inverse.Positive | None = None
    c: Annotated[float, inverse.Range(above=0, high=1)] | None = None

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[inverse.Weighted]:
        posterior, cloud = self.cloud(posterior, samples, generator)
        sigmas = inverse.noise_levels(
            posterior, self.schedule, self.steps, self.sigma_min, self.sigma_max
        )
        first, every = float(sigmas[0]), len(posterior) // len(cloud.generator)
        images, step = posterior.replaced(y=posterior.y[::every]), posterior.replaced()
        noise, tempered = self._noise(images, first, cloud), TemperedLikelihood(posterior)
        tempered.posterior = step

        def observe(t):
            """Make p(y_t | x_t) the likelihood of the tempered."""
            step.y = posterior.y + t * noise.repeat_interleave(len(posterior) // len(noise), 0)

        observe(first)
        cloud.x = tempered.draw(0 * cloud.x, first**2, 1.0, cloud.generator)
        for sigma, s, t in transitions(sigmas):
            x0_hat = posterior.denoise(cloud.x, sigma)
            c = 1 - (t / s) ** 2 if self.c is None else self.c
            m = x0_hat + math.sqrt(1 - c) * t / s * (cloud.x - x0_hat)
            noise = math.sqrt(1 - c) * noise + math.sqrt(c) * self._noise(images, t, cloud)
            observe(t)
            cloud.reweight(tempered.log_mass(m, c * t * t, 1.0), t)
            cloud.x = (
                tempered.draw(m[cloud.resample()], c * t * t, 1.0, cloud.generator) if t > 0 else m
            )
            yield replace(cloud.weighted(samples), log_evidence=None, trace=_trace(cloud))

    def _noise(self, images, t, cloud):
        """A z for each image, z standard normal from the stream of its cloud."""
        z = inverse.Generators(cloud.generator.rows).randn_like(
            cloud.x[:: len(cloud.x) // len(images)]
        )
        return images.A(z) - images.A(0 * z)


def _trace(cloud):
    """The trace of the cloud without the evidence."""
    return [{k: v for k, v in step.items() if k != "log_evidence"} for step in cloud.trace]


@inverse.hookimpl
def inverse_methods():
    return [FPSSMC]
