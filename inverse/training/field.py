"""`inverse train --steps 0` on images: a Gaussian field with their mean and power spectrum."""

from __future__ import annotations

from pathlib import Path

import torch

from inverse.io.files import strict_json
from inverse.io.fingerprints import write_fingerprints
from inverse.io.image_sets import load_images, refuse_copies
from inverse.priors.field import fit_power_law, power_law_field
from inverse.priors.loading import PriorCard
from inverse.training.prior import central_crop, denoising_table
from inverse.training.progress import check_weights_path

FITTED = 256
"""Largest number of images whose spectrum is fitted, spread evenly over the sources."""

UNITS = {"shift": 0.5, "scale": 0.5, "sigma_min": 0.002, "sigma_max": 80.0}


def fit_field(
    sources: list[Path],
    out: Path,
    size: int,
    channels: int,
    card_text: dict[str, str],
    validation: Path | None = None,
) -> None:
    """Fit a stationary field to central crops of images; write `out` and its card.

    Args:
        sources: folders or files for `io.image_sets.load_images`.
        out: file of the weights, `.safetensors`; the law itself is in the card.
        size: side of the crops (pixels).
        channels: of the images, 1 or 3.
        card_text: `licence` and `limits` for the card.
        validation: images for the card's denoising table; by default those of the first source.

    Raises: OptionError or InputError for an output or images that cannot be used.
    """
    check_weights_path("train", out)
    images = [load_images(path, size, channels) for path in sources]
    for source, found in zip(sources, images, strict=True):
        refuse_copies(found, source)
    every = [image for found in images for image in found]
    chosen = every[:: max(1, len(every) // FITTED)][:FITTED]
    crops = [
        (torch.from_numpy(central_crop(image, size)).double().movedim(-1, 0) / 255 - 0.5) / 0.5
        for image in chosen
    ]
    law = fit_power_law(crops)
    field = power_law_field(law, **UNITS)
    held_out = load_images(validation, size, channels) if validation else images[0]
    table = {
        "images": validation.name if validation else f"{sources[0].name} (training images)",
        "psnr": denoising_table(field, held_out, size),
    }
    facts = {
        "data": ", ".join(path.name for path in sources),
        "images": len(every),
        "crop": size,
        "torch": torch.__version__,
    }
    write_fingerprints(out, every)
    card = PriorCard.save(
        out,
        {"mean": field.mean.float()},
        network={},
        power_law=law,
        sigma_data=float(torch.stack(crops).std()),
        units="intensity in [0, 1]",
        training=facts,
        denoising=table,
        **UNITS,
        **card_text,
    )
    print(strict_json({"prior": str(out), "sha256": card.sha256, "denoising": table}))
