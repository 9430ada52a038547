"""Measure a prior as a denoiser against BM3D on held-out images. Needs `pip install bm3d`.

    python bench/denoise.py --images ../shared/data/bsds500/test --count 20 --out docs/tables/denoising
    python bench/denoise.py --images ../shared/data/bsds500/test --count 20 --size 128 --levels TEN --out docs/tables/denoising-photo-64
    python bench/denoise.py --prior mri-96 --images out/mri/held-out.npz --count 12 --every 25 --size 96 --levels TEN --out OUT-mri-96
    python bench/denoise.py --prior digits-28 --images ../shared/data/mnist_test.npz --count 20 --every 500 --size 28 --levels TEN --out OUT-digits-28

TEN stands for 2 5 10 15 25 35 50 75 100 150, OUT for docs/tables/denoising.
Noise is white Gaussian, not clipped; both denoisers are told its level; estimates are clipped to [0, 1] before scoring.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from photo import photographs

import inverse
from inverse.io.image_sets import load_images


def psnr(estimate: torch.Tensor, truth: torch.Tensor) -> float:
    return float(-10 * (estimate.clamp(0, 1) - truth).square().mean().log10())


def by_prior(prior: inverse.Prior, noisy: torch.Tensor, sigma: float) -> torch.Tensor:
    with torch.no_grad():
        return prior.decode(prior(prior.encode(noisy[None]), torch.tensor(sigma / prior.scale)))[0]


def by_bm3d(noisy: torch.Tensor, sigma: float) -> torch.Tensor:
    from bm3d import bm3d, bm3d_rgb

    if len(noisy) == 1:
        return (
            torch.from_numpy(np.asarray(bm3d(noisy[0].double().numpy(), sigma)))
            .reshape(noisy.shape)
            .float()
        )
    return (
        torch.from_numpy(np.asarray(bm3d_rgb(noisy.permute(1, 2, 0).double().numpy(), sigma)))
        .permute(2, 0, 1)
        .float()
    )


def held_out(source: Path, count: int, size: int, channels: int, every: int) -> list[torch.Tensor]:
    """Central crops (C, size, size): of a folder's first photographs, or of every so many images of an .npz."""
    if source.is_dir():
        return photographs(source, count, size)
    images = load_images(source, size, channels)[::every][:count]
    corner = [((image.shape[0] - size) // 2, (image.shape[1] - size) // 2) for image in images]
    crops = [
        image[top : top + size, left : left + size]
        for image, (top, left) in zip(images, corner, strict=True)
    ]
    return [torch.from_numpy(crop.copy()).permute(2, 0, 1).float() / 255 for crop in crops]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        help="folder of held-out photographs, or an .npz of images",
    )
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--size", type=int, default=256, help="side of the central crop (pixels)")
    parser.add_argument("--every", type=int, default=1, help="of an .npz: take one of so many")
    parser.add_argument(
        "--levels", type=int, nargs="*", default=[15, 25, 50], help="noise levels of 255"
    )
    parser.add_argument("--prior", default="photo-64")
    parser.add_argument("--out", type=Path, help="stem of the .md and .json to write")
    arguments = parser.parse_args()

    prior = inverse.load_prior(arguments.prior)
    truths = held_out(
        arguments.images, arguments.count, arguments.size, prior.shape[0] or 3, arguments.every
    )
    rows = []
    for level in arguments.levels:
        ours, theirs = [], []
        for index, truth in enumerate(truths):
            noisy = truth + level / 255 * torch.randn(
                truth.shape, generator=inverse.seeded("bm3d", level, index)
            )
            ours.append(psnr(by_prior(prior, noisy, level / 255), truth))
            theirs.append(psnr(by_bm3d(noisy, level / 255), truth))
        gain = np.array(ours) - np.array(theirs)
        row = {
            "level": level,
            "prior": np.mean(ours),
            "bm3d": np.mean(theirs),
            "gain": gain.mean(),
            "standard_error": gain.std(ddof=1) / len(gain) ** 0.5,
        }
        rows.append({k: round(float(v), 3) for k, v in row.items()})
        print(rows[-1], flush=True)
    if arguments.out:
        about = {
            "images": len(truths),
            "size": arguments.size,
            "prior": arguments.prior,
            "torch": torch.__version__,
        }
        arguments.out.with_suffix(".json").write_text(
            json.dumps({"about": about, "rows": rows}, indent=1) + "\n"
        )
        lines = [
            f"| noise (of 255) | {arguments.prior} (dB) | BM3D (dB) | difference (dB, ± standard error over images) |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {r['level']:.0f} | {r['prior']:.2f} | {r['bm3d']:.2f} | {r['gain']:+.2f} ± {r['standard_error']:.2f} |"
            for r in rows
        ]
        arguments.out.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
