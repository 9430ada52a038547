"""A vector-quantised autoencoder: images as grids of codes from a finite codebook, and back.

    z = E(u) (unit root mean square in every patch),    k = argmin_j |e_j - z|,    u ~ G(e_k)

van den Oord, Vinyals, Kavukcuoglu, Neural Discrete Representation Learning, NeurIPS 2017,
https://arxiv.org/abs/1711.00937: gradients pass straight through the choice of a code, and the
codebook is a running mean (appendix A.1). Esser, Rombach, Ommer, CVPR 2021, apply this to
photographs.
Departures: codes have unit size, so that distances and temperatures are comparable between
trainings; the loss is the squared error alone, because no perceptual network can be shipped.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inverse.errors import OptionError
from inverse.priors.card_schema import Blocks, Width
from inverse.priors.networks.unet import MAX_LEVELS, pixel_norm
from inverse.registry.types import Range


@dataclass(frozen=True)
class CodecConfig:
    """Architecture of a `Codec`; stored beside the weights.

    Args:
        channels: channels of the images, which have intensities in [0, 1].
        widths: feature channels of each level, finest first; the finest has half the resolution of
            the image, the coarsest that of the codes.
        blocks: residual blocks of each level, in the encoder and in the decoder.
        codes: number K of codes in the codebook.
        code_width: entries of a code.

    Raises: OptionError for widths and blocks of different lengths, or values out of range.
    """

    channels: Width = 3
    widths: tuple[Width, ...] = (32, 64)
    blocks: tuple[Blocks, ...] = (1, 2)
    codes: Annotated[int, Range(1, 65536)] = 256
    code_width: Width = 8

    def __post_init__(self):
        if (
            not self.widths
            or len(self.widths) != len(self.blocks)
            or min(*self.widths, *self.blocks, self.code_width) < 1
            or len(self.widths) > MAX_LEVELS
            or self.codes < 2
        ):
            raise OptionError(
                "codec: widths and blocks must be equally many positive numbers, codes at least 2, "
                f"got {self}"
            )

    @property
    def factor(self) -> int:
        """Side of the patch of one code (pixels)."""
        return 2 ** len(self.widths)

    def to_dict(self) -> dict:
        """The fields as a card stores them."""
        return asdict(self)


class Residual(nn.Module):
    """x + conv(silu(conv(silu(norm(x))))), initialised as the identity."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        for parameter in self.second.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(pixel_norm(x)))))


class Codec(nn.Module):
    """The autoencoder.

    Images are (B, C, H, W), intensities in [0, 1], with sides that are multiples of f =
    `config.factor`. Codes lie on a grid (H / f, W / f).

    Args:
        config: architecture.
        residual: root mean square error of decoded images, intensities; 0 if not measured.

    Attributes:
        book: the codebook (K, code_width).
    """

    book: Tensor

    def __init__(self, config: CodecConfig, residual: float = 0.0):
        super().__init__()
        self.config, self.residual = config, float(residual)
        widths, pixels = config.widths, 4 * config.channels

        def level(i: int) -> list[nn.Module]:
            return [Residual(widths[i]) for _ in range(config.blocks[i])]

        encoder = [nn.Conv2d(pixels, widths[0], 3, padding=1), *level(0)]
        decoder = [nn.Conv2d(config.code_width, widths[-1], 3, padding=1), *level(-1)]
        for i, (fine, coarse) in enumerate(pairwise(widths)):
            encoder += [nn.Conv2d(fine, coarse, 2, stride=2), *level(i + 1)]
        for i, (coarse, fine) in enumerate(pairwise(reversed(widths))):
            decoder += [nn.ConvTranspose2d(coarse, fine, 2, stride=2), *level(len(widths) - 2 - i)]
        self.encoder = nn.Sequential(*encoder, nn.Conv2d(widths[-1], config.code_width, 1))
        self.decoder = nn.Sequential(*decoder, nn.Conv2d(widths[0], pixels, 3, padding=1))
        codes = torch.randn(config.codes, config.code_width)
        self.register_buffer("book", pixel_norm(codes[..., None, None])[..., 0, 0])

    def features(self, u: Tensor) -> Tensor:
        """Features z of every patch: images -> (B, code_width, H / f, W / f)."""
        return pixel_norm(self.encoder(F.pixel_unshuffle(2 * u - 1, 2)).to(u.dtype))

    def distances(self, z: Tensor) -> Tensor:
        """Root mean square distance to each code: (B, code_width, h, w) -> (B, h, w, K)."""
        flat = z.permute(0, 2, 3, 1)
        norms = flat.square().sum(-1, keepdim=True) + self.book.square().sum(1)
        square = norms - 2 * flat @ self.book.T
        return (square.clamp_min(0) / z.shape[1]).sqrt()

    def encode(self, u: Tensor) -> Tensor:
        """The nearest code of every patch: images -> (B, h, w), integers."""
        return self.distances(self.features(u)).argmin(-1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) -> images (B, C, f h, f w), not clipped."""
        return self.render(self.book[codes].permute(0, 3, 1, 2))

    def render(self, z: Tensor) -> Tensor:
        """Features (B, code_width, h, w) -> images (B, C, f h, f w), not clipped."""
        return (F.pixel_shuffle(self.decoder(z).to(z.dtype), 2) + 1) / 2

    def soft_codes(self, u: Tensor, temperature: Tensor, top: int) -> Tensor:
        """Log-weights of the codes of every patch: (B, h, w, K), zero for the nearest code.

        The `top` nearest codes have -|e_j - z| / temperature, with the root mean square distance;
        the others have 1e-8 of the nearest code's weight.

        Args:
            u: images.
            temperature: of every patch (B, h, w), in units of the features.
            top: number of codes that keep their weight.
        """
        logits = -self.distances(self.features(u)) / temperature[..., None]
        best = logits.topk(min(top, logits.shape[-1]), -1).values
        return torch.where(logits >= best[..., -1:], logits - best[..., :1], FAINT)


FAINT = -18.42068
"""Log-weight of codes that are not among the nearest: log 1e-8."""
