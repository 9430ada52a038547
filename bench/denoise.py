r"""Measure a prior as a denoiser against BM3D on held-out images. Needs `pip install bm3d`.

    python bench/denoise.py --images "$INVERSE_DATA/bsds500/test" --count 20 \
        --out results/tables/denoising
    python bench/denoise.py --images "$INVERSE_DATA/bsds500/test" --count 20 --size 128 \
        --levels TEN --out results/tables/denoising-photo-64
    python bench/denoise.py --prior mri-96 --images out/mri/held-out.npz --count 12 \
        --every 25 --size 96 --levels TEN --out OUT-mri-96
    python bench/denoise.py --prior digits-28 --images "$INVERSE_DATA/mnist_test.npz" \
        --count 20 --every 500 --size 28 --levels TEN --out OUT-digits-28

TEN stands for 2 5 10 15 25 35 50 75 100 150, OUT for results/tables/denoising.
The noise is white, Gaussian and not clipped. Both denoisers know its level. Estimates are clipped
to [0, 1] before scoring.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from images import held_out, psnr
from options import add_out, new_parser
from output import markdown_table, write_table

import inverse


def with_noise(truth: torch.Tensor, level: int, index: int) -> torch.Tensor:
    """The image of this index with white noise of standard deviation level / 255."""
    generator = inverse.seeded("bm3d", level, index)
    return truth + level / 255 * torch.randn(truth.shape, generator=generator)


def denoise_by_prior(prior: inverse.Prior, noisy: torch.Tensor, sigma: float) -> torch.Tensor:
    """The prior's estimate of an image (C, H, W) whose noise has standard deviation sigma."""
    with torch.no_grad():
        return prior.decode(prior(prior.encode(noisy[None]), torch.tensor(sigma / prior.scale)))[0]


def denoise_by_bm3d(noisy: torch.Tensor, sigma: float) -> torch.Tensor:
    """BM3D's estimate of an image (C, H, W) whose noise has standard deviation sigma."""
    from bm3d import bm3d, bm3d_rgb

    if len(noisy) == 1:
        estimate = torch.from_numpy(np.asarray(bm3d(noisy[0].double().numpy(), sigma)))
        return estimate.reshape(noisy.shape).float()
    estimate = torch.from_numpy(
        np.asarray(bm3d_rgb(noisy.permute(1, 2, 0).double().numpy(), sigma))
    )
    return estimate.permute(2, 0, 1).float()


def clipped_psnr(estimate: torch.Tensor, truth: torch.Tensor) -> float:
    return float(psnr(estimate.clamp(0, 1), truth))


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        help="folder of held-out photographs, or .npz of images",
    )
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--size", type=int, default=256, help="side of the central crop (pixels)")
    parser.add_argument(
        "--every", type=int, default=1, help="step between the images taken from an .npz"
    )
    parser.add_argument(
        "--levels",
        type=int,
        nargs="*",
        default=[15, 25, 50],
        help="noise levels, in units of 1/255",
    )
    parser.add_argument("--prior", default="photo-64")
    add_out(parser)
    arguments = parser.parse_args()

    prior = inverse.load_prior(arguments.prior)
    truths = held_out(
        arguments.images, arguments.count, arguments.size, prior.shape[0] or 3, arguments.every
    )
    rows = []
    for level in arguments.levels:
        ours, bm3d = [], []
        for index, truth in enumerate(truths):
            noisy = with_noise(truth, level, index)
            ours.append(clipped_psnr(denoise_by_prior(prior, noisy, level / 255), truth))
            bm3d.append(clipped_psnr(denoise_by_bm3d(noisy, level / 255), truth))
        gain = np.array(ours) - np.array(bm3d)
        row = {
            "level": level,
            "prior": np.mean(ours),
            "bm3d": np.mean(bm3d),
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
        write_table(arguments.out, table(arguments.prior, rows), {"about": about, "rows": rows})


def table(prior: str, rows: list[dict[str, float]]) -> str:
    heads = ["noise (of 255)", f"{prior} (dB)", "BM3D (dB)"]
    heads += ["difference (dB, ± standard error over images)"]
    cells = [
        [
            f"{row['level']:.0f}",
            f"{row['prior']:.2f}",
            f"{row['bm3d']:.2f}",
            f"{row['gain']:+.2f} ± {row['standard_error']:.2f}",
        ]
        for row in rows
    ]
    return markdown_table(heads, cells)


if __name__ == "__main__":
    main()
