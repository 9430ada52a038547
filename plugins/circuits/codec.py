"""A vector-quantised autoencoder: an image as a grid of codes out of a finite book, and back.

    z = E(u) (unit root mean square in every patch),    k = argmin_j |e_j - z|,    u ~ G(e_k)

van den Oord, Vinyals, Kavukcuoglu, Neural Discrete Representation Learning, NeurIPS 2017, https://arxiv.org/abs/1711.00937: gradients
pass straight through the choice, the book is a running mean (appendix A.1). Esser, Rombach, Ommer, CVPR 2021, for autoencoders of photographs.
Departures: codes have unit size, so that distances between them, and temperatures on those, do not depend on the run; and the loss is the
squared error alone, for want of a perceptual network that could be shipped.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inverse.errors import OptionError
from inverse.priors.networks.unet import pixel_norm


@dataclass(frozen=True)
class CodecConfig:
    """Architecture of a `Codec`; stored beside the weights.

    Args:
        channels: of the images, which have intensities in [0, 1].
        widths: feature channels of each level, finest first; the finest works at half resolution, and codes stand on the coarsest.
        blocks: residual blocks of each level, in the encoder as in the decoder.
        codes: K, in the book.
        code_width: length of a code.
    """

    channels: int = 3
    widths: tuple[int, ...] = (32, 64)
    blocks: tuple[int, ...] = (1, 2)
    codes: int = 256
    code_width: int = 8

    def __post_init__(self):
        if (
            not self.widths
            or len(self.widths) != len(self.blocks)
            or min(*self.widths, *self.blocks, self.code_width) < 1
            or self.codes < 2
        ):
            raise OptionError(
                f"codec: widths and blocks must be as many positive numbers, codes at least 2, got {self}"
            )

    @property
    def factor(self) -> int:
        """Side of the patch (pixels) that a code stands for."""
        return 2 ** len(self.widths)

    def to_dict(self) -> dict:
        return asdict(self)


class Residual(nn.Module):
    """x + conv(silu(conv(silu(norm(x))))), the identity at first."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = (
            nn.Conv2d(width, width, 3, padding=1),
            nn.Conv2d(width, width, 3, padding=1),
        )
        for parameter in self.second.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(pixel_norm(x)))))


class Codec(nn.Module):
    """The autoencoder. Images are (B, C, H, W), intensities in [0, 1], sides multiples of `config.factor` f; codes lie on a grid (H / f, W / f).

    Attributes:
        book: the codes (K, code_width).
        residual: root mean square error of decoded images (intensities), where it was measured.
    """

    book: Tensor

    def __init__(self, config: CodecConfig, residual: float = 0.0):
        super().__init__()
        self.config, self.residual = config, float(residual)
        widths, pixels = config.widths, 4 * config.channels

        def level(i: int) -> list[nn.Module]:
            return [Residual(widths[i]) for _ in range(config.blocks[i])]

        encoder, decoder = (
            [nn.Conv2d(pixels, widths[0], 3, padding=1), *level(0)],
            [nn.Conv2d(config.code_width, widths[-1], 3, padding=1), *level(-1)],
        )
        for i, (fine, coarse) in enumerate(pairwise(widths)):
            encoder += [nn.Conv2d(fine, coarse, 2, stride=2), *level(i + 1)]
        for i, (coarse, fine) in enumerate(pairwise(reversed(widths))):
            decoder += [nn.ConvTranspose2d(coarse, fine, 2, stride=2), *level(len(widths) - 2 - i)]
        self.encoder = nn.Sequential(*encoder, nn.Conv2d(widths[-1], config.code_width, 1))
        self.decoder = nn.Sequential(*decoder, nn.Conv2d(widths[0], pixels, 3, padding=1))
        self.register_buffer(
            "book",
            pixel_norm(torch.randn(config.codes, config.code_width)[..., None, None])[..., 0, 0],
        )

    def features(self, u: Tensor) -> Tensor:
        """z of every patch: images -> (B, code_width, H / f, W / f)."""
        return pixel_norm(self.encoder(F.pixel_unshuffle(2 * u - 1, 2)).to(u.dtype))

    def distances(self, z: Tensor) -> Tensor:
        """Root mean square distance of features to every code: (B, code_width, h, w) -> (B, h, w, K)."""
        flat = z.permute(0, 2, 3, 1)
        square = (
            flat.square().sum(-1, keepdim=True) + self.book.square().sum(1) - 2 * flat @ self.book.T
        )
        return (square.clamp_min(0) / z.shape[1]).sqrt()

    def encode(self, u: Tensor) -> Tensor:
        """The nearest code of every patch: images -> (B, h, w), integers."""
        return self.distances(self.features(u)).argmin(-1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) -> images (B, C, f h, f w), not clipped."""
        return self.render(self.book[codes].permute(0, 3, 1, 2))

    def render(self, z: Tensor) -> Tensor:
        """Features (B, code_width, h, w) -> images."""
        return (F.pixel_shuffle(self.decoder(z).to(z.dtype), 2) + 1) / 2

    def soft_codes(self, u: Tensor, temperature: Tensor, top: int) -> Tensor:
        """Log-weights of the codes of every patch: images, temperature (B, h, w) -> (B, h, w, K).

        -|e_j - z| / temperature with the root mean square distance, for the `top` nearest codes; the others weigh 1e-8 of the nearest.
        """
        logits = -self.distances(self.features(u)) / temperature[..., None]
        best = logits.topk(min(top, logits.shape[-1]), -1).values
        return torch.where(logits >= best[..., -1:], logits - best[..., :1], FAINT)


FAINT = -18.42068  # log 1e-8
