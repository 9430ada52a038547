"""`inverse prior distance`: samples of a prior against held-out images.

Importing this module does not import torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inverse.io.command_line import columns, show
from inverse.io.files import strict_json

Folder = Annotated[Path, typer.Option(help="Folder, .npz or .h5 file of images not trained on.")]


def distance(
    name: Annotated[str, typer.Argument(help="Name or file of a prior.")],
    held_out: Folder,
    training: Annotated[
        Path | None,
        typer.Option(help="Training images, to look for memorised ones.", show_default="none"),
    ] = None,
    samples: Annotated[int, typer.Option(min=10, help="Number of samples to draw.")] = 200,
    count: Annotated[
        int, typer.Option(min=20, help="Largest number of images of a folder.")
    ] = 1000,
    side: Annotated[
        int | None,
        typer.Option(min=8, help="Side of samples and crops (pixels).", show_default="the prior's"),
    ] = None,
    steps: Annotated[int, typer.Option(min=2, help="Steps of a sample (Heun).")] = 24,
    seed: Annotated[int, typer.Option(help="Random seed of the samples.")] = 0,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Compare samples of a prior with held-out images by the features of EfficientNet-Lite0.

    Frechet and kernel distance, precision and recall, and memorisation with --training. The values
    compare with each other only: they are neither FID nor LPIPS. Needs the extra `features`.
    """
    import torch

    from inverse.checks.denoiser_identities import clean_images, own_draws
    from inverse.checks.feature_network import feature_network, features
    from inverse.checks.sample_distances import compare, verdict
    from inverse.priors.loading import default_side, load_prior

    feature_network()
    prior = load_prior(name)
    side = side or default_side(prior)

    def read(path: Path) -> torch.Tensor:
        images = clean_images(prior, path, count, side)
        return features(prior.decode(images).clamp(0, 1))

    reference = read(held_out)
    trained = None if training is None else read(training)
    draws = [
        own_draws(prior, min(16, samples - i), side, steps, seed=seed + i)
        for i in range(0, samples, 16)
    ]
    found = compare(features(prior.decode(torch.cat(draws)).clamp(0, 1)), reference, trained)
    if json_:
        print(strict_json(found.to_dict()))
        return
    table = columns("", f"{samples} samples", "two halves of the held-out images")
    for label, key in (
        ("Frechet distance", "frechet"),
        ("kernel distance", "kernel"),
        ("precision", "precision"),
        ("recall", "recall"),
    ):
        floor = f"{found.floor[key]:.4g}" if key in found.floor else ""
        table.add_row(label, f"{getattr(found, key):.4g}", floor)
    if found.memorised is not None:
        table.add_row("nearer to training images", f"{found.memorised:.1%}", "50 %")
    show(table)
    print("\n".join(verdict(found, samples)))
