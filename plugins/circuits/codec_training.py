"""The work of `inverse train-codec`: images in, a codec, its card and reconstructions out."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inverse.errors import OptionError
from inverse.io.devices import check_device
from inverse.io.files import strict_json
from inverse.io.image_sets import load_images
from inverse.io.images import grid, write_png
from inverse.seeding import seeded
from inverse.training.crops import random_crops
from inverse.training.loop import TrainConfig, Training, pixel_std
from inverse.training.progress import check_weights_path, train_to_end, training_facts
from inverse_plugins.circuits.cards import save_codec
from inverse_plugins.circuits.codec import Codec

COMMITMENT = 0.25
"""Weight of |z - sg e|^2 in the loss."""
DECAY = 0.99
"""Decay of the running means of the codebook."""
RARE = 0.05
"""Mean uses per batch below which a code restarts at a feature of the batch."""


class CodecTraining(Training):
    """Training of a codec by the reconstruction error over the pixel variance, and commitment.

    The codebook follows the features by running means.
    """

    def initial_model(self) -> nn.Module:
        codec = Codec(self.config.network)
        self.variance = pixel_std(self.sources) ** 2 / 4  # of intensities
        self.counts, self.sums = torch.ones(len(codec.book)), codec.book.clone()
        return codec

    def extra_state(self) -> dict[str, Tensor]:
        return {"book": self.prior.book, "counts": self.counts, "sums": self.sums}

    def batch_loss(self, generator: torch.Generator) -> Tensor:
        codec, u = self.prior, self.draw_batch(generator)
        u = u.contiguous(memory_format=torch.channels_last).to(self.device)
        bf16 = self.config.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            z = codec.features(u)
            if self.step == 0:
                self._start_book(z.detach(), generator)
            chosen = codec.distances(z.detach()).argmin(-1)
            e = codec.book[chosen].permute(0, 3, 1, 2)
            error = (codec.render(z + (e - z).detach()) - u).square().mean() / self.variance
        self._update_book(z.detach(), chosen, generator)
        return error + COMMITMENT * (z - e.detach()).square().mean()

    def _start_book(self, z: Tensor, generator: torch.Generator) -> None:
        """Place the codes at random features of the first batch."""
        flat = z.permute(0, 2, 3, 1).flatten(0, 2)
        rows = torch.randint(len(flat), (len(self.counts),), generator=generator)
        self.prior.book.copy_(flat[rows])
        self.sums.copy_(self.prior.book)

    def _update_book(self, z: Tensor, chosen: Tensor, generator: torch.Generator) -> None:
        """Running means of the features of each code; a rare code restarts at a random feature."""
        flat, k = z.permute(0, 2, 3, 1).flatten(0, 2), chosen.flatten()
        self.counts.lerp_(torch.bincount(k, minlength=len(self.counts)).to(self.counts), 1 - DECAY)
        self.sums.lerp_(torch.zeros_like(self.sums).index_add_(0, k, flat), 1 - DECAY)
        rare = self.counts < RARE
        self.sums[rare] = flat[torch.randint(len(flat), (int(rare.sum()),), generator=generator)]
        self.counts[rare] = 1.0
        self.prior.book.copy_(self.sums / self.counts[:, None])


def train_codec(
    sources: list[Path],
    out: Path,
    config: TrainConfig,
    device: str,
    about: dict[str, str],
    validation: Path | None = None,
) -> bool:
    """Train, or resume training, and write the weights, their card and `<name>.samples.png`.

    The picture shows images above their reconstructions.

    Args:
        sources: folders or files of training images, see `io.image_sets.load_images`; all are drawn
            equally often.
        out: the weights, .safetensors.
        config: settings; its network is a `CodecConfig`.
        device: cpu, cuda, ...
        about: licence and limits for the card.
        validation: images for the card's error; by default the first source.

    Returns: False after an interruption by the user.
    Raises: OptionError for another suffix, a size that is no multiple of the patch, or a device
        that does not exist; InputError for images that are missing or too small.
    """
    check_weights_path("train-codec", out)
    if config.size % config.network.factor:
        raise OptionError(
            f"train-codec: --size must be a multiple of {config.network.factor} for these widths, "
            f"got {config.size}"
        )
    target, channels = check_device(device), config.network.channels
    images = [load_images(path, config.size, channels) for path in sources]
    held_out = load_images(validation, config.size, channels) if validation else images[0]
    training = CodecTraining(images, config, out.with_suffix(".checkpoint.safetensors"), target)
    total, plural = sum(map(len, images)), "s" * (len(images) > 1)
    print(
        f"{total} images from {len(images)} source{plural}, "
        f"from step {training.step} of {config.steps}",
        file=sys.stderr,
    )
    started_at, loss = time.monotonic(), train_to_end(training)
    if loss is None:
        return False
    codec: Any = training.averaged()
    u = random_crops([held_out], config.size, 256, seeded("codec"), mirror=False)
    decoded, fidelity = evaluate(codec, u)
    codec.residual = round(float((decoded - u).square().mean().sqrt()), 5)
    write_png(out.with_suffix(".samples.png"), grid(torch.cat([u[:16], decoded[:16]]), columns=16))
    facts = {
        "data": ", ".join(path.name for path in sources),
        "images": total,
        "crop": config.size,
    }
    facts |= training_facts(config, loss, time.monotonic() - started_at, target)
    card = save_codec(codec, out, training=facts, fidelity=fidelity, **about)
    report = {"codec": str(out), "sha256": card.sha256}
    print(strict_json(report | {"residual": codec.residual, "fidelity": fidelity}))
    return True


def evaluate(codec: Codec, u: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Images (B, C, H, W) after encoding and decoding, clipped to [0, 1]; and their fidelity.

    The fidelity is the mean "psnr" (dB) and the "perplexity" of the codes.
    """
    with torch.no_grad():
        codes = codec.encode(u)
        decoded = codec.decode(codes).clamp(0, 1)
    share = torch.bincount(codes.flatten(), minlength=codec.config.codes) / codes.numel()
    perplexity = float(torch.special.entr(share).sum().exp())
    psnr = float((-10 * (decoded - u).square().flatten(1).mean(1).log10()).mean())
    return decoded, {"psnr": round(psnr, 2), "perplexity": round(perplexity, 1)}
