"""`inverse mask-like`: masks for other images, at the places that resemble a marked example.

Importing this module does not import torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inverse.errors import OptionError
from inverse.io.command_line import columns, show
from inverse.registry.defaults import default


def mask_like(
    example: Annotated[Path, typer.Argument(help="Picture with the region.")],
    mask: Annotated[Path, typer.Option(help="Picture of its size; white marks the region.")],
    images: Annotated[Path, typer.Option(help="Folder of pictures to find the region in.")],
    out: Annotated[Path, typer.Option(help="Folder for the masks.")] = Path("masks"),
    count: Annotated[int, typer.Option(min=1, help="Number of pictures to mark.")] = 8,
    prior: Annotated[
        str, typer.Option(help="Prior whose network gives the features, of `inverse train`.")
    ] = default("problem", "prior"),
) -> None:
    """Transfer the mask of an example to similar images, by retrieval of images and of patches.

    Each mask is white where the picture stays and black where a lesion or defect is to be painted,
    as `--problem inpainting --problem-option mask=FILE` takes it. Masks and what is painted into
    them are synthetic, and the metadata of the files say so.
    """
    from inverse.checks.retrieval import regions_like
    from inverse.io.files import check_writable
    from inverse.io.images import input_files, read_image, read_mask, write_png
    from inverse.io.picture_notes import SYNTHETIC, write_note
    from inverse.priors.loading import load_prior

    loaded = load_prior(prior)
    channels = loaded.shape[0] or 3
    picture, region = read_image(example, channels).pixels, read_mask(mask)[0]
    if region.shape != picture.shape[-2:]:
        (h, w), (rows, wide) = picture.shape[-2:], region.shape
        raise OptionError(f"mask-like: mask {mask} has {rows}x{wide} pixels, {example} {h}x{w}")
    check_writable(out)
    files = [path for path in input_files([images]) if path.resolve() != example.resolve()]
    others = [read_image(path, channels).pixels for path in files]
    found = regions_like(loaded, picture, region, others, count)
    table = columns("picture", "like the example", "like the region", "mask")
    for match in found:
        path = out / f"{files[match.index].stem}.mask.png"
        write_png(path, (~match.region).float())
        note = f"{SYNTHETIC}mask transferred from {example.name} by inverse mask-like"
        write_note(path, note)
        table.add_row(
            files[match.index].name,
            f"{match.similarity:.3f}",
            f"{match.correlation:.3f}",
            str(path),
        )
    show(table)
