"""The work of `inverse train-structure`: photographs in, networks and their card out."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

import inverse
from inverse.io.devices import check_device
from inverse.io.files import strict_json
from inverse.io.image_sets import load_images
from inverse.priors.loading import load_prior
from inverse.seeding import seeded
from inverse.training.loop import TrainConfig, Training
from inverse.training.progress import check_weights_path, train_to_end, training_facts
from inverse_plugins.structure.blurs import MARGIN, BlurCorpus
from inverse_plugins.structure.cards import save_structure
from inverse_plugins.structure.coarse_pictures import averaged, grey_of
from inverse_plugins.structure.diffusion_network import (
    ConditionalConfig,
    ConditionalNetwork,
    kept,
)
from inverse_plugins.structure.structure_network import (
    StructureConfig,
    StructureNetworks,
    structure_loss,
)
from inverse_plugins.structure.tempering import coarse_colour_error, fit_tempering


@dataclass(frozen=True)
class StructureTrainConfig(TrainConfig):
    """Settings of `inverse train-structure`.

    The network is a `StructureConfig`, or a `ConditionalConfig` to train a diffusion network too.

    Args:
        corpus: blurs and noise of the training pictures.
        dropout: share of the crops whose structure does not guide the diffusion network, which
            thereby also learns to denoise without structure.

    Raises: OptionError for a value out of range.
    """

    network: Any = StructureConfig()
    corpus: BlurCorpus = BlurCorpus()
    dropout: inverse.Fraction = 0.2

    name: ClassVar[str] = "train-structure"


class StructureTraining(Training):
    """Training of structure networks, on grey images."""

    config: StructureTrainConfig

    def initial_model(self) -> nn.Module:
        return StructureNetworks(self.config.network)

    def batch_loss(self, generator: torch.Generator) -> Tensor:
        sharp, y = self._pair(generator)
        with self._autocast():
            return structure_loss(self.prior(y), sharp)

    def _autocast(self) -> torch.autocast:
        """Evaluation of the networks in the precision of the config."""
        enabled = self.config.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def _pair(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Sharp crops and their blurry pictures, on the device."""
        pair = self.config.corpus.batch(
            self.sources, self.config.size, self.config.batch, generator
        )
        sharp, y = (x.contiguous(memory_format=torch.channels_last).to(self.device) for x in pair)
        return sharp, y


class ConditionalTraining(StructureTraining):
    """Joint training of a diffusion network and its structure networks by their summed losses."""

    def initial_model(self) -> nn.Module:
        config = self.config
        sharp, y = config.corpus.batch(
            self.sources, config.size, 256, seeded(config.seed, "sigma_data")
        )
        sigma_data = 2 * float((sharp - y).square().mean().sqrt())
        return ConditionalNetwork(config.network, sigma_data)

    def batch_loss(self, generator: torch.Generator) -> Tensor:
        model, (sharp, y) = self.prior, self._pair(generator)
        sigma = model.noise_levels(len(y), generator).to(self.device)
        noise = torch.randn(y.shape, generator=generator).to(self.device)
        keep = (torch.rand(len(y), 1, 1, 1, generator=generator) >= self.config.dropout).to(y)
        with self._autocast():
            estimates = model.estimates(y)
            guide = kept(model.guide(estimates), keep)
            denoising = model.loss(2 * sharp - 1, sigma, noise, 2 * y - 1, guide)
            return denoising + structure_loss(estimates, sharp)


def train_structure(
    sources: list[Path],
    out: Path,
    config: StructureTrainConfig,
    device: str,
    about: dict[str, Any],
    validation: Path,
    prior: str = "photo-64",
) -> bool:
    """Train, or resume training, and write the weights and their card.

    Args:
        sources: folders or files of training images, see `io.image_sets.load_images`; all are drawn
            equally often.
        out: the weights, .safetensors.
        config: settings of the training.
        device: cpu, cuda, ...
        about: licence and limits for the card.
        validation: colour photographs that are in no source, for the card's errors and the fit of
            beta.
        prior: prior whose mean and covariance are used to fit beta.

    Returns: False after an interruption by the user.
    Raises: OptionError for another suffix or a device that does not exist; InputError for images
        that are missing or too small.
    """
    check_weights_path("train-structure", out)
    target, gaussian = check_device(device), load_prior(prior)
    joint, wide = isinstance(config.network, ConditionalConfig), config.size + 2 * MARGIN
    channels = config.network.unet.channels if joint else 1
    images = [load_images(path, wide, channels) for path in sources]
    held_out = load_images(validation, wide, 3)
    loop = ConditionalTraining if joint else StructureTraining
    training = loop(images, config, out.with_suffix(".checkpoint.safetensors"), target)
    total, plural = sum(map(len, images)), "s" * (len(images) > 1)
    print(
        f"{total} images from {len(images)} source{plural}, "
        f"from step {training.step} of {config.steps}",
        file=sys.stderr,
    )
    started_at, loss = time.monotonic(), train_to_end(training)
    if loss is None:
        return False
    model: Any = training.averaged().requires_grad_(False)
    about["errors"] = structure_errors(
        model.structure if joint else model, config.corpus, held_out, config.size
    )
    if joint:
        about["denoising"] = denoising_losses(model, config.corpus, held_out, config.size)
    else:
        about["colour"] = coarse_colour_error(
            config.corpus, held_out, config.size, max(config.network.scales)
        )
        about |= asdict(
            fit_tempering(model, about["colour"], config.corpus, held_out, config.size, gaussian)
        )
    facts = {
        "data": ", ".join(map(short, sources)),
        "images": total,
        "held_out": short(validation),
        "crop": config.size,
    }
    card = save_structure(
        model,
        out,
        asdict(config.corpus),
        training=facts | training_facts(config, loss, time.monotonic() - started_at, target),
        **about,
    )
    report = {"structure": str(out)}
    report |= {key: getattr(card, key) for key in ("sha256", "errors", "beta", "denoising")}
    print(strict_json(report))
    return True


def short(path: Path) -> str:
    """The last two parts of a path: the name of a folder such as "train" is not enough."""
    return "/".join(path.absolute().parts[-2:])


def structure_errors(
    model: StructureNetworks,
    corpus: BlurCorpus,
    images: list[np.ndarray],
    size: int,
    count: int = 256,
) -> dict[str, dict[str, float]]:
    """Errors by scale for the card, see `StructureCard.errors`.

    Args:
        model: structure networks.
        corpus: blurs and noise.
        images: held-out colour photographs, uint8.
        size: side of the crops (pixels).
        count: number of crops, drawn with a fixed seed.
    """
    sharp, y = corpus.batch([images], size, count, seeded("structure errors"))
    with torch.no_grad():
        estimates = model(y)
    table = {}
    for s, (mean, log_tau, _) in estimates.items():
        truth = averaged(grey_of(sharp), s)
        error, blurry = (
            float((truth - picture).square().mean().sqrt())
            for picture in (mean, averaged(grey_of(y), s))
        )
        chi = float(((truth - mean) * (-log_tau).exp()).square().mean().sqrt())
        table[str(s)] = {
            "rmse": error,
            "blurry": blurry,
            "gain_db": 20 * math.log10(blurry / error),
            "chi": chi,
        }
    return {s: {k: float(f"{v:.4g}") for k, v in row.items()} for s, row in table.items()}


def denoising_losses(
    model: ConditionalNetwork,
    corpus: BlurCorpus,
    images: list[np.ndarray],
    size: int,
    count: int = 256,
) -> dict[str, float]:
    """Denoising losses for the card: guided, unguided, and guided by another crop ("shuffled").

    All use the same crops, blurs and noise, drawn with a fixed seed.

    Args:
        model: diffusion network with its structure networks.
        corpus: blurs and noise of the pictures.
        images: held-out photographs of the network's channels, uint8.
        size: side of the crops (pixels).
        count: number of crops.
    """
    generator = seeded("denoising losses")
    sharp, y = corpus.batch([images], size, count, generator)
    sigma, noise = model.noise_levels(count, generator), torch.randn(y.shape, generator=generator)
    with torch.no_grad():
        guide = model.guide(model.estimates(y))
        shuffled = [[g if g is None else g.roll(1, 0) for g in level] for level in guide]
        guides = {"guided": guide, "unguided": None, "shuffled": shuffled}
        return {
            name: round(float(model.loss(2 * sharp - 1, sigma, noise, 2 * y - 1, g)), 5)
            for name, g in guides.items()
        }
