"""Guides: mean and variance of every pixel of a partly denoised image, according to a circuit.

A pixel guide is exact. The token guide, over the codes of an autoencoder, is section 3.2 of Liu,
Niepert, Van den Broeck, Image Inpainting via Tractable Steering of Diffusion Models, ICLR 2024,
https://arxiv.org/abs/2401.03349, and its authors' code. With w_i the codec's soft code of patch i
and f_i the known fraction of its pixels,

    temperature_i = hot + f_i (cold - hot),
    p(k_i = c) ~ p_PC(c | w)^(1 - f_i) w_i(c)^f_i,    u ~ decode(k).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from inverse.errors import PriorError
from inverse.posterior import Posterior
from inverse.seeding import Generators
from inverse_plugins.circuits.cards import CircuitCard, CodecCard, load_circuit, load_codec
from inverse_plugins.circuits.circuit import Circuit
from inverse_plugins.circuits.codec import Codec
from inverse_plugins.circuits.pixel_circuit import pixel_moments, unsupported_shape

DrawMode = Literal["independent", "joint"]


@dataclass(frozen=True)
class ImageEvidence:
    """What is known of images at one noise level: (B, C, H, W), physical units.

    Args:
        x: noisy images.
        variance: variance of their noise.
        x0_hat: denoised images.
        y: measurement of every pixel.
        noise: its variance, infinite at pixels that were not measured; y and noise broadcast to x.
    """

    x: Tensor
    variance: Tensor
    x0_hat: Tensor
    y: Tensor
    noise: Tensor

    @property
    def measured(self) -> Tensor:
        """Which pixels were measured: (B, C, H, W), boolean."""
        return self.noise.isfinite().expand_as(self.x)


@dataclass(frozen=True)
class PixelGuide:
    """A circuit over the pixels of blocks of its size, with independent channels.

    Args:
        circuit: its levels are physical units.
    """

    circuit: Circuit

    def to(self, device: torch.device, dtype: torch.dtype) -> PixelGuide:
        """The guide on a device, with cached parameters."""
        return PixelGuide(self.circuit.to(device, dtype).frozen())

    def unsupported_shape(self, shape: tuple[int, ...]) -> str | None:
        """Why the circuit does not tile an image (C, H, W), or None if it does."""
        return unsupported_shape(self.circuit, shape)

    def moments(self, evidence: ImageEvidence, generator: Generators) -> tuple[Tensor, Tensor]:
        """Exact mean and variance of every pixel, given y where measured and x elsewhere.

        Both are (B, C, H, W), physical units. No random numbers are drawn.
        """
        variance = torch.where(evidence.measured, torch.inf, evidence.variance)
        exact = pixel_moments(self.circuit, evidence.x, variance, evidence.y, evidence.noise)
        return exact.mean, exact.variance.clamp_min(self.circuit.floor)


@dataclass(frozen=True)
class TokenGuide:
    """A circuit over the codes of an autoencoder, one grid of its size at a time.

    Args:
        circuit: a law of codes.
        codec: the autoencoder of these codes.
        draws: number of maps of codes to decode, at least 2.
        drawn: "independent" draws each code from its own conditional, as published: the predictive
            law (see `Beliefs`) mixed with the evidence on the patch. "joint" draws whole maps from
            the circuit given the evidence.
        hot, cold: temperatures of a patch without known pixels and of a known patch.
        top: number of codes of a patch that keep their weight.
    """

    circuit: Circuit
    codec: Codec
    draws: int = 8
    drawn: DrawMode = "independent"
    hot: float = 0.1
    cold: float = 0.01
    top: int = 20

    def to(self, device: torch.device, dtype: torch.dtype) -> TokenGuide:
        """The guide on a device, with cached parameters."""
        circuit = self.circuit.to(device, dtype).frozen()
        return replace(self, circuit=circuit, codec=self.codec.to(device, dtype))

    def unsupported_shape(self, shape: tuple[int, ...]) -> str | None:
        """Why the circuit does not tile an image (C, H, W), or None if it does."""
        height, width = (n * self.codec.config.factor for n in self.circuit.shape)
        channels = self.codec.config.channels
        tiled = len(shape) == 3 and shape[1] % height == 0 and shape[2] % width == 0
        if tiled and shape[0] == channels:
            return None
        return (
            f"its {self.circuit.graph.size} variables are codes of blocks of {height} x {width} "
            f"pixels in {channels} channels, but the image is {' x '.join(map(str, shape))}"
        )

    def moments(self, evidence: ImageEvidence, generator: Generators) -> tuple[Tensor, Tensor]:
        """Mean and variance of every pixel over decoded draws: (B, C, H, W), physical units.

        The variance includes the codec's own error. Measured pixels have the mean x0_hat.
        """
        measured, factor = evidence.measured, self.codec.config.factor
        fraction = F.avg_pool2d(measured.to(evidence.x).amin(1, keepdim=True), factor)[:, 0]
        y = evidence.y.expand_as(evidence.x)
        filled = torch.where(measured, y, evidence.x0_hat).clamp(0, 1)
        temperature = self.hot + fraction * (self.cold - self.hot)
        soft_codes = self.blocks(self.codec.soft_codes(filled, temperature, self.top))
        known = self.blocks(fraction[..., None])[..., 0]
        codes = self.unblocks(self.draw_codes(soft_codes, known, generator), fraction.shape)
        decoded = self.codec.decode(codes.flatten(0, 1)).unflatten(0, codes.shape[:2]).clamp(0, 1)
        mean, variance = decoded.mean(1), decoded.var(1) + self.codec.residual**2
        return torch.where(measured, evidence.x0_hat, mean), variance

    def draw_codes(self, evidence: Tensor, fraction: Tensor, generator: Generators) -> Tensor:
        """Maps of codes: (rows, draws, n).

        Args:
            evidence: log-weights of the codes (rows, n, K).
            fraction: known fraction of each patch (rows, n).
            generator: one stream for equally many successive rows.
        """
        if self.drawn == "joint":
            maps = self.circuit.sample(evidence, generator, self.draws)
            return maps.unflatten(0, (-1, self.draws))
        known, own = fraction[..., None], torch.log_softmax(evidence, -1)
        log_p = (1 - known) * self.circuit.beliefs(evidence).predictive.log() + known * own
        cumulative = log_p.softmax(-1).cumsum(-1)
        rows = len(evidence) // len(generator)
        size = (len(generator), rows, *fraction.shape[1:], self.draws)
        u = generator.rand_like(cumulative.new_empty(size)).flatten(0, 1)
        codes = torch.searchsorted(cumulative, u * cumulative[..., -1:], right=True)
        return codes.clamp_max(self.circuit.categories - 1).transpose(1, 2)

    def blocks(self, grid: Tensor) -> Tensor:
        """Grids (B, H, W, K) -> rows of the circuit's variables (B blocks, n, K)."""
        h, w = self.circuit.shape
        B, H, W, K = grid.shape
        return grid.reshape(B, H // h, h, W // w, w, K).transpose(2, 3).reshape(-1, h * w, K)

    def unblocks(self, codes: Tensor, shape: torch.Size) -> Tensor:
        """Draws (B blocks, draws, n) -> (B, draws, H, W), for grids of this shape (B, H, W)."""
        h, w = self.circuit.shape
        B, H, W = shape
        grid = codes.reshape(B, H // h, W // w, -1, h, w).permute(0, 3, 1, 4, 2, 5)
        return grid.reshape(B, -1, H, W)


def measured_pixels(posterior: Posterior) -> tuple[Tensor, Tensor]:
    """Pixels of an inpainting posterior as measured, and the variance of their noise.

    Both broadcast to (B, C, H, W), physical units; the variance is infinite at pixels that were not
    measured.
    """
    mask = posterior.operator.mask
    gain = torch.where(mask != 0, mask, 1)
    variance = posterior.noise.variance(posterior.y) / gain**2  # type: ignore[attr-defined]
    measured = (mask != 0).expand(posterior.y.shape)
    return posterior.y / gain, torch.where(measured, variance, torch.inf)


Guide = PixelGuide | TokenGuide


def load_guide(name: str | Path, **settings: object) -> Guide:
    """The guide of a circuit, by name or path.

    Args:
        settings: arguments of `TokenGuide`; ignored for a circuit over pixels.

    Raises: PriorError for a circuit or codec that cannot be read, or a codec other than the one
        whose codes the circuit was trained on.
    """
    card, circuit = CircuitCard.read(name), load_circuit(name)
    if not card.codec:
        return PixelGuide(circuit)
    trained_on, sha256 = card.codec["name"], card.codec["sha256"]
    beside = CircuitCard.find(name).with_name(trained_on + ".json")
    codec = beside if beside.is_file() else trained_on
    if codec is not beside and codec not in CodecCard.known():
        raise PriorError(
            f"circuit {card.name} was trained on codes of {codec}, whose card {beside} is missing; "
            "put that codec and its card there"
        )
    if (found := CodecCard.read(codec).sha256) != sha256:
        raise PriorError(
            f"circuit {card.name} was trained on codes of {trained_on} with sha256 "
            f"{sha256[:12]}..., but the codec found has {found[:12]}...; "
            "train the circuit again on this codec"
        )
    return TokenGuide(circuit, load_codec(codec), **settings)  # type: ignore[arg-type]
