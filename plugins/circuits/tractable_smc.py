"""Tractable SMC: a circuit's probability of y given the noisy image twists a particle sampler.

Algorithm 1 of Wu, Trippe, Naesseth, Blei, Cunningham, NeurIPS 2023,
https://arxiv.org/abs/2306.17775, replaces the geometric mean of Liu, Niepert, Van den Broeck, Image
Inpainting via Tractable Steering of Diffusion Models, ICLR 2024, https://arxiv.org/abs/2401.03349.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch

import inverse
from inverse.particles.twisted_chain import twisted_chain
from inverse_plugins.circuits.guides import PixelGuide, load_guide, measured_pixels
from inverse_plugins.circuits.pixel_circuit import pixel_moments


@dataclass(frozen=True)
class TractableSMC(inverse.ParticleMethod):
    """Guide the particles of the prior's chain by a circuit, and correct its errors by weights.

    Under the circuit, p_PC(y | x) = p_PC(x, y) / p_PC(x) is exact at every noise level. One pass
    with soft evidence N(x_i; v, s^2) gives each probability, with and without N(y_i; v, sigma_y^2);
    the gradient is the difference of two conditional means. No gradient of the prior is taken. As
    particles and steps grow, the samples converge to the prior's posterior for every circuit; the
    closer the circuit is to the law of the prior, the fewer are needed.

    Args:
        steps: steps of the noise level.
        schedule: name of a noise schedule.
        sigma_max: first noise level, model units; by default the prior's, at most 80.
        sigma_min: last noise level before 0, model units; by default the prior's, at least 0.002.
        circuit: shipped circuit over pixels, or a .safetensors file; image sides must be multiples
            of its block sides.
        power: exponent of the twist, in (0, 1]; less gives the circuit less influence.
    """

    name = "tractable-smc"
    reference = (
        "This library: the twist of Wu et al., NeurIPS 2023, https://arxiv.org/abs/2306.17775, "
        "by the circuits of Liu et al., ICLR 2024"
    )
    equation = (
        "p~_s(y | x) = p_PC(y | x)^power,  "
        "s^2 grad log p~_s = power (E_PC[x0 | x, y] - E_PC[x0 | x])"
    )
    # Exact in the limit of steps and particles, which the tests check by enumeration; the referee
    # has no posterior that a circuit fits.
    claim = "none"
    needs = ("linear", "gaussian", "noisy", "image")

    steps: inverse.Count = 100
    schedule: str = "karras"
    sigma_max: inverse.Positive | None = None
    sigma_min: inverse.Positive | None = None
    circuit: str = "circuit-photo-8"
    power: Annotated[float, inverse.Range(above=0, high=1)] = 1.0

    def unsupported(self, posterior):
        if reason := super().unsupported(posterior):
            return reason
        if not isinstance(posterior.operator, inverse.physics.Inpainting):
            return "tractable-smc needs an inpainting operator, which tells the known pixels"
        guide = load_guide(self.circuit)
        if not isinstance(guide, PixelGuide):
            return (
                f"tractable-smc: circuit {self.circuit} is over codes, which have no law given a "
                "noisy image; take one over pixels, e.g. circuit-photo-8"
            )
        reason = guide.unsupported_shape(posterior.shape)
        return reason and f"tractable-smc: circuit {self.circuit} does not fit, {reason}"

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[inverse.Weighted]:
        posterior, cloud = self.cloud(posterior, samples, generator)
        circuit = load_guide(self.circuit).to(posterior.device, posterior.dtype).circuit
        known, noise = measured_pixels(posterior)
        scale, infinity = posterior.prior.scale, noise.new_full((), torch.inf)

        def twist(x, s):
            u, variance = posterior.prior.decode(x), noise.new_full((), (scale * s) ** 2)
            given_y = pixel_moments(circuit, u, variance, known, noise)
            without_y = pixel_moments(circuit, u, variance, known, infinity)
            gradient = self.power * (given_y.mean - without_y.mean) / scale / s**2
            log_twist = self.power * (given_y.log_likelihood - without_y.log_likelihood).double()
            return posterior.denoise(x, s), gradient, log_twist

        levels = inverse.noise_levels(
            posterior, self.schedule, self.steps, self.sigma_min, self.sigma_max
        ).tolist()
        for particles in twisted_chain(posterior, cloud, levels, twist):
            yield particles.weighted(samples)
