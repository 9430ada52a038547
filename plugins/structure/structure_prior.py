"""Structure prior: any posterior method, with coarse structure predicted by networks beside y.

The networks are those of Ren, Delbracio, Talebi, Gerig, Milanfar, Multiscale Structure Guided
Diffusion for Image Deblurring, ICCV 2023, https://arxiv.org/abs/2212.01789. In the paper they guide
a diffusion network that is trained with them; here their predictions are measurements beside y.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

import inverse
from inverse.per_image import image_by_image
from inverse.registry.discovery import with_settings
from inverse_plugins.structure.cards import StructureCard, load_structure
from inverse_plugins.structure.pseudo_measurements import with_structure


@dataclass(frozen=True)
class StructurePrior(inverse.Method):
    """Run a linear-Gaussian method on y and pseudo-measurements of the coarse grey picture.

    The pseudo-measurements are z_s = B_s x + e_s of the sharp grey picture at 1/2, 1/4 and 1/8 of
    its size. The networks predict their mean and standard deviation tau_s, pixel by pixel. Both are
    functions of y, so the errors of z_s correlate with the noise of y, across scales and between
    neighbours. The variance is therefore tau_s^2 / beta_s. beta_s is on the card: it calibrates the
    posterior of a Gaussian prior on held-out photographs (`inverse train-structure`).

    blind leaves out y = A x + n, so that no kernel is used. The colours then come from the blurry
    picture at the coarsest scale, whose error was measured on the same photographs. This mode is
    not in the paper.

    Args:
        steps: steps of the base method.
        base: method to run, with settings after a colon: diffpir, mmps:sampler=heun, pigdm; not a
            particle method.
        net: structure networks: a shipped name, or a .safetensors file.
        blind: whether to ignore the operator.
        scales: scales to use, sides of the averaged squares (pixels); by default all.
        beta: tempering of all scales, in (0, 1]; auto takes the card's values.
    """

    name = "structure-prior"
    reference = (
        "Ren, Delbracio, Talebi, Gerig, Milanfar, Multiscale Structure Guided Diffusion for Image "
        "Deblurring, ICCV 2023, https://arxiv.org/abs/2212.01789"
    )
    equation = (
        "p(x) N(y; A x, sigma_y^2) prod_s N(z_s; B_s x, tau_s^2 / beta_s),  (z_s, tau_s) = g_s(y)"
    )
    claim = "none"  # the base's claim is about the posterior given y alone
    units = "it reads y as a picture, in intensities"
    needs = ("linear", "gaussian", "image")

    steps: inverse.Count = 50
    base: str = "diffpir"
    net: str = "structure-blur"
    blind: bool = False
    scales: tuple[int, ...] = ()
    beta: Annotated[float, inverse.Range(above=0, high=1)] | None = None

    def __post_init__(self):
        super().__post_init__()
        _ = self.solver  # raises for an unknown base

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
            return (
                f"structure-prior: base '{self.base}' returns weighted particles; "
                "name one that returns samples"
            )
        size_of_y = tuple(posterior.y.shape[1:])
        if size_of_y != posterior.shape or posterior.noise.observed is not None:
            return (
                "structure-prior reads y as a picture of the size of x, "
                f"{_sizes(posterior.shape)}; this y is {_sizes(size_of_y)}, or has holes"
            )
        if posterior.shape[0] not in (1, 3):
            return (
                f"structure-prior: {self.net} reads pictures of 1 or 3 channels, "
                f"this one has {posterior.shape[0]}"
            )
        trained = StructureCard.read(self.net).config.scales
        if missing := set(self.scales) - set(trained):
            return (
                f"structure-prior: {self.net} was trained for scales "
                f"{', '.join(map(str, trained))}, not for {min(missing)}"
            )
        return None

    def derived(self, posterior):
        return {f"beta_{s}": beta for s, beta in self.tempering().items()}

    def tempering(self):
        """beta of each scale that is used."""
        card = StructureCard.read(self.net)
        fitted = card.beta.get("blind" if self.blind else "known", {})
        return {
            s: fitted.get(str(s), 1.0) if self.beta is None else self.beta
            for s in self.scales or card.config.scales
        }

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor | inverse.Weighted]:
        networks = load_structure(self.net).to(posterior.device)
        dtype = next(networks.parameters()).dtype
        colour = StructureCard.read(self.net).colour if self.blind else None

        def run_image(image, samples, generator):
            estimates = networks(image.y[:1].to(dtype))
            structured = with_structure(image, estimates, self.tempering(), colour)
            yield from self.solver.run(structured, samples, generator)

        yield from image_by_image(posterior, samples, generator, run_image)


def _sizes(shape):
    return " x ".join(map(str, shape))
