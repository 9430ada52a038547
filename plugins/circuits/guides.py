"""What a circuit says of an image that is half denoised: mean and variance of every pixel, by its pixels or by the codes of an autoencoder.

The token guide is section 3.2 of Liu, Niepert, Van den Broeck, Image Inpainting via Tractable Steering of Diffusion Models, ICLR 2024,
https://arxiv.org/abs/2401.03349, and its authors' code. With w_i the codec's soft code of patch i and f_i the known fraction of its pixels,

    temperature_i = hot + f_i (cold - hot),    p(k_i = c) ~ p_PC(c | w)^(1 - f_i) w_i(c)^f_i,    u ~ decode(k).
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
from inverse_plugins.circuits.pixels import looks, unfit

Drawn = Literal["independent", "joint"]


@dataclass(frozen=True)
class Look:
    """What is known at one noise level, images (B, C, H, W) in physical units.

    Args:
        x: the noisy image.
        variance: of its noise.
        x0_hat: as the denoiser has it.
        y: the measurement of every pixel.
        noise: its variance, infinite where there is none; both broadcast to x.
    """

    x: Tensor
    variance: Tensor
    x0_hat: Tensor
    y: Tensor
    noise: Tensor

    @property
    def seen(self) -> Tensor:
        return self.noise.isfinite().expand_as(self.x)


@dataclass(frozen=True)
class PixelGuide:
    """A circuit over the pixels of blocks of its size, every channel by itself."""

    circuit: Circuit

    def to(self, device: torch.device, dtype: torch.dtype) -> PixelGuide:
        return PixelGuide(self.circuit.to(device, dtype).frozen())

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        """Why it does not cover an image (C, H, W), or None if it does."""
        return unfit(self.circuit, shape)

    def moments(self, look: Look, generator: Generators) -> tuple[Tensor, Tensor]:
        """Exact mean and variance of every pixel given x where y says nothing, and y elsewhere."""
        variance = torch.where(look.seen, torch.inf, look.variance)
        found = looks(self.circuit, look.x, variance, look.y, look.noise)
        return found.mean, found.variance.clamp_min(self.circuit.floor)


@dataclass(frozen=True)
class TokenGuide:
    """A circuit over the codes of an autoencoder, a grid of its size at a time.

    Args:
        circuit: of codes.
        codec: whose codes they are.
        draws: maps of codes that are decoded, at least 2.
        drawn: independent draws each code from its own conditional, as published: that of the code drawn a second time from its leaf, mixed
            with the patch's evidence; joint draws whole maps from the circuit given the evidence.
        hot, cold: temperature of a patch of which nothing is known, and of one that is known.
        top: codes of a patch that keep their weight.
    """

    circuit: Circuit
    codec: Codec
    draws: int = 8
    drawn: Drawn = "independent"
    hot: float = 0.1
    cold: float = 0.01
    top: int = 20

    def to(self, device: torch.device, dtype: torch.dtype) -> TokenGuide:
        return replace(
            self,
            circuit=self.circuit.to(device, dtype).frozen(),
            codec=self.codec.to(device, dtype),
        )

    def unfit(self, shape: tuple[int, ...]) -> str | None:
        """Why it does not cover an image (C, H, W), or None if it does."""
        height, width = (n * self.codec.config.factor for n in self.circuit.shape)
        if (
            len(shape) == 3
            and shape[0] == self.codec.config.channels
            and shape[1] % height == 0
            and shape[2] % width == 0
        ):
            return None
        blocks = f"blocks of {height} x {width} pixels in {self.codec.config.channels} channels"
        return f"its {self.circuit.graph.size} variables are codes of {blocks}, and the unknown is {' x '.join(map(str, shape))}"

    def moments(self, look: Look, generator: Generators) -> tuple[Tensor, Tensor]:
        """Mean and variance over decoded draws, of which the codec's own error is a part; pixels that were seen are as x0_hat has them."""
        seen, factor = look.seen, self.codec.config.factor
        fraction = F.avg_pool2d(seen.to(look.x).amin(1, keepdim=True), factor)[:, 0]
        filled = torch.where(seen, look.y.expand_as(look.x), look.x0_hat).clamp(0, 1)
        evidence = self.codec.soft_codes(
            filled, self.hot + fraction * (self.cold - self.hot), self.top
        )
        codes = self.unblocked(
            self.sampled(
                self.blocked(evidence), self.blocked(fraction[..., None])[..., 0], generator
            ),
            fraction.shape,
        )
        decoded = self.codec.decode(codes.flatten(0, 1)).unflatten(0, codes.shape[:2]).clamp(0, 1)
        mean, variance = decoded.mean(1), decoded.var(1) + self.codec.residual**2
        return torch.where(seen, look.x0_hat, mean), variance

    def sampled(self, evidence: Tensor, fraction: Tensor, generator: Generators) -> Tensor:
        """Maps of codes: evidence (rows, n, K), known fraction (rows, n) -> (rows, draws, n)."""
        if self.drawn == "joint":
            return self.circuit.sample(evidence, generator, self.draws).unflatten(
                0, (-1, self.draws)
            )
        own = torch.log_softmax(evidence, -1)
        log_p = (1 - fraction[..., None]) * self.circuit.beliefs(
            evidence
        ).predictive.log() + fraction[..., None] * own
        cumulative = log_p.softmax(-1).cumsum(-1)
        u = generator.rand_like(
            cumulative.new_empty(
                len(generator), len(evidence) // len(generator), *fraction.shape[1:], self.draws
            )
        ).flatten(0, 1)
        found = torch.searchsorted(cumulative, u * cumulative[..., -1:], right=True)
        return found.clamp_max(self.circuit.categories - 1).transpose(1, 2)

    def blocked(self, grid: Tensor) -> Tensor:
        """(B, H, W, K) -> (B blocks, n, K)."""
        h, w = self.circuit.shape
        B, H, W, K = grid.shape
        return grid.reshape(B, H // h, h, W // w, w, K).transpose(2, 3).reshape(-1, h * w, K)

    def unblocked(self, codes: Tensor, shape: torch.Size) -> Tensor:
        """Draws (B blocks, draws, n) -> (B, draws, H, W)."""
        h, w = self.circuit.shape
        B, H, W = shape
        return (
            codes.reshape(B, H // h, W // w, -1, h, w)
            .permute(0, 3, 1, 4, 2, 5)
            .reshape(B, -1, H, W)
        )


def pixels_seen(posterior: Posterior) -> tuple[Tensor, Tensor]:
    """Of an inpainting posterior: the pixels as y has them, and the variance of its noise, infinite where there is no measurement."""
    mask = posterior.operator.mask
    gain = torch.where(mask != 0, mask, 1)
    variance = posterior.noise.variance(posterior.y) / gain**2  # type: ignore[attr-defined]
    return posterior.y / gain, torch.where(
        (mask != 0).expand(posterior.y.shape), variance, torch.inf
    )


Guide = PixelGuide | TokenGuide


def load_guide(name: str | Path, **settings: object) -> Guide:
    """What a circuit, by name or path, steers with.

    Args:
        settings: of `TokenGuide`; without effect for a circuit over pixels.

    Raises: PriorError for a circuit or codec that cannot be read, or a codec that is not the one whose codes the circuit was trained on.
    """
    card, circuit = CircuitCard.read(name), load_circuit(name)
    if not card.codec:
        return PixelGuide(circuit)
    beside = CircuitCard.find(name).with_name(card.codec["name"] + ".json")
    codec = beside if beside.is_file() else card.codec["name"]
    if codec is not beside and codec not in CodecCard.known():
        raise PriorError(
            f"circuit {card.name}: was trained on codes of {codec}, whose card {beside} is missing; put that codec and its card there"
        )
    if (found := CodecCard.read(codec).sha256) != card.codec["sha256"]:
        wanted = f"{card.codec['name']} of sha256 {card.codec['sha256'][:12]}..."
        raise PriorError(
            f"circuit {card.name}: was trained on codes of {wanted}, the codec found is {found[:12]}...; train the circuit again on this one"
        )
    return TokenGuide(circuit, load_codec(codec), **settings)  # type: ignore[arg-type]
