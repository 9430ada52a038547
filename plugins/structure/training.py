"""One `inverse train-structure`: photographs in, networks and their card out."""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inverse.errors import OptionError
from inverse.io.devices import check_device
from inverse.io.image_sets import load_images
from inverse.priors.loading import load_prior
from inverse.seeding import seeded
from inverse.training.loop import TrainConfig, Training
from inverse.training.progress import check_weights_path, train_to_end, training_facts
from inverse_plugins.structure.blurs import MARGIN, BlurCorpus
from inverse_plugins.structure.card import save_structure
from inverse_plugins.structure.conditional import Conditional, ConditionalConfig, kept
from inverse_plugins.structure.network import (
    Structure,
    StructureConfig,
    averaged,
    grey_of,
    structure_loss,
)
from inverse_plugins.structure.tempering import calibrate, coarse_colour_error


@dataclass(frozen=True)
class StructureTrainConfig(TrainConfig):
    """How `inverse train-structure` trains; its network is a `StructureConfig`, or a `ConditionalConfig` for a diffusion network, too.

    Args:
        corpus: of blurs.
        dropout: share of the crops whose structure does not guide the diffusion network, so that it learns to do without.
    """

    network: Any = StructureConfig()
    corpus: BlurCorpus = BlurCorpus()
    dropout: float = 0.2

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.dropout <= 1:
            raise OptionError(f"train-structure: dropout must be from 0 to 1, got {self.dropout:g}")


class StructureTraining(Training):
    """Training of structure networks, on grey images."""

    config: StructureTrainConfig

    def initial_model(self) -> nn.Module:
        return Structure(self.config.network)

    def batch_loss(self, generator: torch.Generator) -> Tensor:
        sharp, y = self._pair(generator)
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"
        ):
            return structure_loss(self.prior(y), sharp)

    def _pair(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Sharp crops and their blurry pictures."""
        pair = self.config.corpus.batch(
            self.sources, self.config.size, self.config.batch, generator
        )
        sharp, y = (x.contiguous(memory_format=torch.channels_last).to(self.device) for x in pair)
        return sharp, y


class ConditionalTraining(StructureTraining):
    """Training of a diffusion network and its structure networks by the sum of their losses, on images of its channels."""

    def initial_model(self) -> nn.Module:
        config = self.config
        sharp, y = config.corpus.batch(
            self.sources, config.size, 256, seeded(config.seed, "sigma_data")
        )
        return Conditional(config.network, 2 * float((sharp - y).square().mean().sqrt()))

    def batch_loss(self, generator: torch.Generator) -> Tensor:
        model, (sharp, y) = self.prior, self._pair(generator)
        sigma = model.noise_levels(len(y), generator).to(self.device)
        noise = torch.randn(y.shape, generator=generator).to(self.device)
        keep = (torch.rand(len(y), 1, 1, 1, generator=generator) >= self.config.dropout).to(y)
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"
        ):
            estimates = model.estimates(y)
            guide = kept(model.guide(estimates), keep)
            return model.loss(2 * sharp - 1, sigma, noise, 2 * y - 1, guide) + structure_loss(
                estimates, sharp
            )


def train_structure(
    sources: list[Path],
    out: Path,
    config: StructureTrainConfig,
    device: str,
    about: dict[str, Any],
    validation: Path,
    prior: str = "photo-64",
) -> bool:
    """Train, or resume, and write `out` and its card; false if the user interrupted.

    Args:
        sources: see `io.image_sets.load_images`; all are drawn equally often.
        out: the weights, `.safetensors`.
        about: `licence` and `limits` for the card.
        validation: colour photographs that are in none of the sources, for what the card says and the fit of beta.
        prior: whose Gaussian beta is fitted with.
    """
    check_weights_path("train-structure", out)
    where, gaussian = check_device(device), load_prior(prior)
    joint, wide = isinstance(config.network, ConditionalConfig), config.size + 2 * MARGIN
    images = [
        load_images(path, wide, config.network.unet.channels if joint else 1) for path in sources
    ]
    held_out = load_images(validation, wide, 3)
    training = (ConditionalTraining if joint else StructureTraining)(
        images, config, out.with_suffix(".checkpoint.safetensors"), where
    )
    print(
        f"{sum(map(len, images))} images from {len(images)} source{'s' * (len(images) > 1)}, from step {training.step} of {config.steps}",
        file=sys.stderr,
    )
    start, loss = time.monotonic(), train_to_end(training)
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
            calibrate(model, about["colour"], config.corpus, held_out, config.size, gaussian)
        )
    facts = {
        "data": ", ".join(map(short, sources)),
        "images": sum(map(len, images)),
        "held_out": short(validation),
        "crop": config.size,
    }
    card = save_structure(
        model,
        out,
        asdict(config.corpus),
        training=facts | training_facts(config, loss, time.monotonic() - start, where),
        **about,
    )
    print(
        json.dumps(
            {
                "structure": str(out),
                "sha256": card.sha256,
                "errors": card.errors,
                "beta": card.beta,
                "denoising": card.denoising,
            }
        )
    )
    return True


def short(path: Path) -> str:
    """The last two parts of a path: a folder called "train" says little by itself."""
    return "/".join(path.absolute().parts[-2:])


def structure_errors(
    model: Structure, corpus: BlurCorpus, images: list[np.ndarray], size: int, count: int = 256
) -> dict[str, dict[str, float]]:
    """The card's table, from `count` crops and blurs of a seed of their own."""
    sharp, y = corpus.batch([images], size, count, seeded("structure errors"))
    with torch.no_grad():
        estimates = model(y)
    table = {}
    for s, (mean, log_tau, _) in estimates.items():
        truth, before = averaged(grey_of(sharp), s), averaged(grey_of(y), s)
        error, unguided = (
            float((truth - guess).square().mean().sqrt()) for guess in (mean, before)
        )
        chi = float(((truth - mean) * (-log_tau).exp()).square().mean().sqrt())
        table[str(s)] = {
            "rmse": error,
            "blurry": unguided,
            "gain_db": 20 * math.log10(unguided / error),
            "chi": chi,
        }
    return {s: {k: float(f"{v:.4g}") for k, v in row.items()} for s, row in table.items()}


def denoising_losses(
    model: Conditional, corpus: BlurCorpus, images: list[np.ndarray], size: int, count: int = 256
) -> dict[str, float]:
    """The card's losses, all with the same crops, blurs and noise; "shuffled" is guided by the next crop's structure."""
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
