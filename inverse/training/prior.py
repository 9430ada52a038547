"""One run of `inverse train` on images: writes weights, their card and a sheet of samples."""

from __future__ import annotations

import hashlib
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inverse.errors import OptionError
from inverse.io.devices import check_device
from inverse.io.files import strict_json
from inverse.io.fingerprints import write_fingerprints
from inverse.io.image_sets import load_images, refuse_copies
from inverse.io.images import grid, write_png
from inverse.io.region_maps import load_weighted
from inverse.priors.loading import PriorCard, find_card, load_prior, save_prior
from inverse.priors.networks.unet import UNet, UNetConfig
from inverse.priors.prior import NetworkPrior, Prior
from inverse.sampling.samplers import heun
from inverse.sampling.schedules import schedule
from inverse.seeding import Generators, seeded
from inverse.training.loop import Progress, TrainConfig, Training
from inverse.training.progress import check_weights_path, train_to_end, training_facts

LEVELS = (5, 10, 15, 25, 35, 50, 75, 100)
"""Noise levels of the card's denoising table (intensity times 255)."""


def train_prior(
    sources: list[Path],
    out: Path,
    network: UNetConfig,
    config: TrainConfig,
    device: str,
    card_text: dict[str, str],
    validation: Path | None = None,
    start: NetworkPrior | None = None,
    regions: list[Path] | None = None,
) -> bool:
    """Train a prior or resume its training; write `out`, its card and `<name>.samples.png`.

    Args:
        sources: folders or files for `io.image_sets.load_images`, drawn equally often.
        out: file of the weights, `.safetensors`.
        network: architecture of the denoiser.
        config: everything that determines the weights.
        device: name of the device to train on.
        card_text: `licence` and `limits` for the card.
        validation: images for the card's denoising table; by default those of the first source.
        start: see `loop.Training`.
        regions: maps that weigh the pixels of each source, see `io.region_maps`; none by default.

    Returns: whether the training reached its end; False if the user interrupted it.

    Raises: OptionError or InputError for an output or images that cannot be used.
    """
    check_weights_path("train", out)
    torch_device = check_device(device)
    images = _sources(sources, regions, config.size, network.channels)
    for source, found in zip(sources, images, strict=True):
        refuse_copies(found, source)
    held_out = (
        load_images(validation, config.size, network.channels)
        if validation
        else [image[..., : network.channels] for image in images[0]]
    )
    if regions:
        maps = b"".join(np.ascontiguousarray(i[..., -1]).tobytes() for s in images for i in s)
        config = replace(config, regions=hashlib.sha256(maps).hexdigest()[:16])
    print(
        f"{sum(map(len, images))} images from {len(images)} source{'s' * (len(images) > 1)}",
        file=sys.stderr,
    )
    training = Training(
        images, config, out.with_suffix(".checkpoint.safetensors"), torch_device, start=start
    )
    if training.step:
        print(f"resuming at step {training.step} of {config.steps}", file=sys.stderr)
    sheet = out.with_suffix(".samples.png")
    started_at = last_sheet = time.monotonic()

    def update_sheet(_: Progress) -> None:
        nonlocal last_sheet
        if time.monotonic() - last_sheet > 1200:
            write_png(sheet, sample_grid(training.averaged(), config.size))
            last_sheet = time.monotonic()

    if (loss := train_to_end(training, update_sheet)) is None:
        return False
    prior = training.averaged()
    write_png(sheet, sample_grid(prior, config.size))
    facts = {
        "data": ", ".join(path.name for path in sources),
        "images": sum(map(len, images)),
        "crop": config.size,
        **({"regions": ", ".join(path.name for path in regions)} if regions else {}),
        **training_facts(config, loss, time.monotonic() - started_at, torch_device),
    }
    table = {
        "images": validation.name if validation else f"{sources[0].name} (training images)",
        "psnr": denoising_table(prior, held_out, config.size),
    }
    write_fingerprints(out, [i[..., : network.channels] for source in images for i in source])
    card = save_prior(prior, out, training=facts, denoising=table, **card_text)
    print(strict_json({"prior": str(out), "sha256": card.sha256, "denoising": table}))
    return True


def _sources(
    sources: list[Path], regions: list[Path] | None, size: int, channels: int
) -> list[list[np.ndarray]]:
    """The images of each source, with a further channel of weights if there are maps.

    Raises: OptionError unless there is a source of maps for each source of images.
    """
    if not regions:
        return [load_images(path, size, channels) for path in sources]
    if len(regions) != len(sources):
        raise OptionError(
            f"train: give --weights once for each --images, got {len(regions)} for {len(sources)}"
        )
    return [
        load_weighted(source, maps, size, channels)
        for source, maps in zip(sources, regions, strict=True)
    ]


def load_start(name: str) -> tuple[NetworkPrior, str]:
    """Load the prior that a training continues from.

    Args:
        name: name or file of a prior.

    Returns: the prior, and the sha256 of its weights.

    Raises: OptionError unless the prior is a float network of `inverse train`.
    """
    prior, path = load_prior(name), find_card(name)
    if path is None or type(prior) is not NetworkPrior or not isinstance(prior.network, UNet):
        raise OptionError(
            f"train: --start takes a float network of `inverse train` on images; {name} is not one"
        )
    return prior, PriorCard.read(path).sha256


def sample_grid(prior: Prior, size: int, count: int = 32, steps: int = 24, seed: int = 0) -> Tensor:
    """Unconditional samples by Heun's method, tiled to one picture.

    Args:
        size: side of a sample (pixels).
        count: number of samples.

    Returns: (3, H, W), intensities in [0, 1].
    """
    assert prior.shape[0] is not None
    sigmas = schedule("karras", steps, 0.01, min(prior.sigma_max, 80.0)).float()
    generator = Generators.for_samples(seed, count, 1)
    x = sigmas[0] * generator.randn_like(torch.empty(count, prior.shape[0], size, size))
    with torch.no_grad():
        *_, x = heun(prior, x, sigmas, generator)
    return grid(prior.decode(x).clamp(0, 1))


def denoising_table(
    prior: Prior, images: list[np.ndarray], size: int, count: int = 64
) -> dict[str, float]:
    """Mean PSNR (dB) of denoised central crops, by noise level (intensity times 255).

    Args:
        images: uint8 images (H, W, C).
        size: side of the crops (pixels).
        count: number of images to use, spread evenly because a set may be sorted by class.
    """
    chosen = images[:: max(1, len(images) // count)][:count]
    arrays = np.stack([central_crop(image, size) for image in chosen])
    crops = torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 255
    x0, table = prior.encode(crops), {}
    for level in LEVELS:
        sigma = level / 255 / prior.scale
        noise = torch.randn(x0.shape, generator=seeded("denoising", level))
        with torch.no_grad():
            clean = prior.decode(prior(x0 + sigma * noise, torch.tensor(sigma))).clamp(0, 1)
        error = (clean - crops).square().flatten(1).mean(1)
        table[str(level)] = round(float((-10 * error.log10()).mean()), 2)
    return table


def central_crop(image: np.ndarray, size: int) -> np.ndarray:
    """The middle (size, size, C) of an image (H, W, C)."""
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return image[top : top + size, left : left + size]
