"""Tractable SMC: what a probabilistic circuit says of y given the noisy image is the twist of a particle sampler.

Liu, Niepert, Van den Broeck, Image Inpainting via Tractable Steering of Diffusion Models, ICLR 2024, https://arxiv.org/abs/2401.03349, in the
place of whose geometric mean stands algorithm 1 of Wu, Trippe, Naesseth, Blei, Cunningham, NeurIPS 2023, https://arxiv.org/abs/2306.17775.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

import inverse
from inverse.errors import OptionError
from inverse.particles.twisted_chain import twisted_chain
from inverse_plugins.circuits.guide import PixelGuide, load_guide, pixels_seen
from inverse_plugins.circuits.pixels import looks


@dataclass(frozen=True)
class TractableSMC(inverse.ParticleMethod):
    """Particles follow the prior's chain, drawn towards what a circuit expects of them, and weights undo what the circuit gets wrong.

    Under the circuit, p_PC(y | x) = p_PC(x, y) / p_PC(x) is exact at every noise level, both by one pass with soft evidence N(x_i; v, s^2), with
    and without N(y_i; v, sigma_y^2); its gradient is the difference of two conditional means. No gradient of the prior is taken. The
    samples are the prior's posterior, whatever the circuit, as particles and steps grow; a circuit that is the prior's law needs the fewest.

    Args:
        steps: of the noise level.
        schedule: name of a noise schedule.
        sigma_max: first noise level, model units; by default the prior's, at most 80.
        sigma_min: last noise level before 0, model units; by default the prior's, at least 0.002.
        circuit: over pixels: a shipped circuit's name, or its .safetensors file; images must be made of blocks of its size.
        power: of the twist, in (0, 1]: less trusts the circuit less.
    """

    name = "tractable-smc"
    reference = "This library: the twist of Wu et al., NeurIPS 2023, https://arxiv.org/abs/2306.17775, by the circuits of Liu et al., ICLR 2024"
    equation = "p~_s(y | x) = p_PC(y | x)^power,  s^2 grad log p~_s = power (E_PC[x0 | x, y] - E_PC[x0 | x])"
    claim = "none"  # exact in the limit of steps and particles, but the referee has no posterior that a circuit fits: tests enumerate one
    needs = ("linear", "gaussian", "noisy", "image")

    steps: int = 100
    schedule: str = "karras"
    sigma_max: float | None = None
    sigma_min: float | None = None
    circuit: str = "circuit-photo-8"
    power: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.power <= 1:
            raise OptionError(f"tractable-smc: power must lie in (0, 1], got {self.power:g}")

    def unsupported(self, posterior):
        if reason := super().unsupported(posterior):
            return reason
        if not isinstance(posterior.operator, inverse.physics.Inpainting):
            return "tractable-smc needs an inpainting operator: it must know which pixels were seen"
        guide = load_guide(self.circuit)
        if not isinstance(guide, PixelGuide):
            return f"tractable-smc: circuit {self.circuit} is over codes, which have no law given a noisy image; take one over pixels, e.g. circuit-photo-8"
        reason = guide.unfit(posterior.shape)
        return reason and f"tractable-smc: circuit {self.circuit} does not fit, {reason}"

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[inverse.Weighted]:
        posterior, cloud = self.cloud(posterior, samples, generator)
        circuit = load_guide(self.circuit).to(posterior.device, posterior.dtype).circuit
        known, noise = pixels_seen(posterior)
        scale, nothing = posterior.prior.scale, noise.new_full((), torch.inf)

        def twist(x, s):
            u, variance = posterior.prior.decode(x), noise.new_full((), (scale * s) ** 2)
            given, alone = (
                looks(circuit, u, variance, known, noise),
                looks(circuit, u, variance, known, nothing),
            )
            gradient = self.power * (given.mean - alone.mean) / scale / s**2
            return (
                posterior.denoise(x, s),
                gradient,
                self.power * (given.log_likelihood - alone.log_likelihood).double(),
            )

        levels = inverse.noise_levels(
            posterior, self.schedule, self.steps, self.sigma_min, self.sigma_max
        ).tolist()
        for moved in twisted_chain(posterior, cloud, levels, twist):
            yield moved.weighted(samples)
