"""Structure prior: any posterior method, told what trained networks make of the blurry picture's coarse greys; known kernel or none.

The networks are those of Ren, Delbracio, Talebi, Gerig, Milanfar, Multiscale Structure Guided Diffusion for Image Deblurring, ICCV 2023,
https://arxiv.org/abs/2212.01789, which there guide a network that is trained with them; here they are measurements beside y.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

import inverse
from inverse.errors import OptionError
from inverse.per_image import image_by_image
from inverse.registry.discovery import with_settings
from inverse_plugins.structure.card import StructureCard, load_structure
from inverse_plugins.structure.measurements import guided


@dataclass(frozen=True)
class StructurePrior(inverse.Method):
    """Stack y with pseudo-measurements z_s = B_s x + e_s of the sharp grey picture at 1/2, 1/4, 1/8, and run any linear-Gaussian method.

    z_s and tau_s are the networks' mean and standard deviation, pixel by pixel. They are functions of y, so their errors go with its noise,
    with one another's and with their neighbours': the variance is tau_s^2 / beta_s, with the beta that calibrates a Gaussian prior's
    posterior on held-out photographs (`inverse train-structure`, on the card).

    blind leaves out y = A x + n: no kernel is used. What then says the colours is the blurry picture's own at the coarsest scale, whose
    error was measured on the same photographs; this is ours.

    Args:
        steps: of the base method.
        base: the method that is run, settings after a colon: diffpir, mmps:sampler=heun, pigdm; not one with particles.
        net: the networks: a shipped name, or their .safetensors file.
        blind: whether the operator is ignored.
        scales: of the networks, pixels of a side; by default all that they have.
        beta: tempering of all scales; auto is the card's.
    """

    name = "structure-prior"
    reference = "Ren, Delbracio, Talebi, Gerig, Milanfar, Multiscale Structure Guided Diffusion for Image Deblurring, ICCV 2023, https://arxiv.org/abs/2212.01789"
    equation = (
        "p(x) N(y; A x, sigma_y^2) prod_s N(z_s; B_s x, tau_s^2 / beta_s),  (z_s, tau_s) = g_s(y)"
    )
    claim = "none"  # the base's, on a posterior that is not that of y alone
    units = "it reads y as a picture, in intensities"
    needs = ("linear", "gaussian", "image")

    steps: int = 50
    base: str = "diffpir"
    net: str = "structure-blur"
    blind: bool = False
    scales: tuple[int, ...] = ()
    beta: float | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.beta is not None and not 0 < self.beta <= 1:
            raise OptionError(f"structure-prior: beta must lie in (0, 1], got {self.beta:g}")
        _ = self.solver

    @property
    def solver(self):
        """The base method."""
        return with_settings(self.base, steps=self.steps)

    @property
    def total(self):
        return self.solver.total

    def unsupported(self, posterior):
        if reason := super().unsupported(posterior) or self.solver.unsupported(posterior):
            return reason
        if isinstance(self.solver, inverse.ParticleMethod):
            return f"structure-prior: base '{self.base}' returns weighted particles; name one that returns samples"
        if tuple(posterior.y.shape[1:]) != posterior.shape or posterior.noise.observed is not None:
            return f"structure-prior reads y as a picture of the size of x, {_sizes(posterior.shape)}; this y is {_sizes(posterior.y.shape[1:])}, or has holes"
        if posterior.shape[0] not in (1, 3):
            return f"structure-prior: {self.net} reads pictures of 1 or 3 channels, this one has {posterior.shape[0]}"
        known = StructureCard.read(self.net).config.scales
        if missing := set(self.scales) - set(known):
            return f"structure-prior: {self.net} was trained for scales {', '.join(map(str, known))}, not for {min(missing)}"
        return None

    def derived(self, posterior):
        return {f"beta_{s}": beta for s, beta in self.tempering().items()}

    def tempering(self):
        """beta by scale."""
        card = StructureCard.read(self.net)
        fitted = card.beta.get("blind" if self.blind else "known", {})
        return {
            s: fitted.get(str(s), 1.0) if self.beta is None else self.beta
            for s in self.scales or card.config.scales
        }

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor | inverse.Weighted]:
        net, colour = (
            load_structure(self.net).to(posterior.device),
            StructureCard.read(self.net).colour if self.blind else None,
        )

        def run(one, samples, generator):
            estimates = net(one.y[:1].to(next(net.parameters()).dtype))
            yield from self.solver.run(
                guided(one, estimates, self.tempering(), colour), samples, generator
            )

        yield from image_by_image(posterior, samples, generator, run)


def _sizes(shape):
    return " x ".join(map(str, shape))
