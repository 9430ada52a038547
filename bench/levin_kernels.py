"""Estimate the kernels of the 32 camera-shake pictures of Levin et al., and compare with the truth.

    python bench/levin_kernels.py --folder "$INVERSE_DATA"/instruments/levin --out OUT.json

The error ratio is the protocol of Levin, Weiss, Durand, Freeman, CVPR 2009 and CVPR 2011: the sum
of squared differences to the sharp picture, after the best shift, of the deconvolution with the
estimated kernel, over that with the measured one. Both use the sparse deconvolution that the
authors released (weight 0.0068; first derivatives, and second ones at a quarter of the weight;
exponent 0.8; two reweightings). The files store some of the measured kernels turned by 180 degrees;
each is used as it fits the sharp pictures better.

The window of the kernel is found, since a user does not know its size; the published results know
it. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import torch
from alignment import FARTHEST, aligned_ssd
from options import new_parser
from output import command_line
from torch import Tensor
from torch.nn import functional as F

import inverse
from inverse.execution import CG
from inverse.io.files import atomic_write
from inverse.measurement.linalg import conjugate_gradient
from inverse.measurement.operators import clone, fft_blur
from inverse_problems.deblur.kernel_estimation import estimate_kernel

BORDER = 30
WEIGHT = 0.0068
DERIVATIVES = (
    ([[1.0, -1.0]], 1.0),
    ([[1.0], [-1.0]], 1.0),
    ([[-1.0, 2.0, -1.0]], 0.25),
    ([[-1.0], [2.0], [-1.0]], 0.25),
    ([[-1.0, 1.0], [1.0, -1.0]], 0.25),
)


def sparse_deconvolution(y: Tensor, kernel: Tensor) -> Tensor:
    """x for y = k * x inside the frame, cropped to y: (H, W) -> (H, W)."""
    r = len(kernel) // 2
    shape = (1, y.shape[0] + 2 * r, y.shape[1] + 2 * r)
    blur = clone(fft_blur(kernel, shape, "valid"), "cpu", y.dtype)
    filters = [(torch.tensor(f)[None, None], share) for f, share in DERIVATIVES]
    weights: list[Tensor] = [torch.ones(())] * len(filters)
    x = F.pad(y[None, None], [r] * 4, mode="replicate")
    target = blur.A_adjoint(y[None, None])

    def normal(v: Tensor) -> Tensor:
        smooth = sum(
            F.conv_transpose2d(w * F.conv2d(v, f), f)
            for (f, _), w in zip(filters, weights, strict=True)
        )
        return blur.A_adjoint(blur.A(v)) + WEIGHT * smooth

    for _ in range(3):
        x = conjugate_gradient(normal, target, x, CG(max_iter=70, tolerance=1e-4))
        weights = [
            0.1 * share * F.conv2d(x, f).abs().clamp_min(0.01) ** (0.8 - 2) for f, share in filters
        ]
    return x[0, 0, r:-r, r:-r]


def measured_kernel(folder: Path, number: int) -> Tensor:
    """A kernel of the files, turned so that it fits the sharp pictures."""
    stored = grey(folder / f"gt-kernel{number}.png")
    stored = stored / stored.sum()
    errors = []
    for kernel in (stored, stored.flip(0, 1)):
        error = 0.0
        for picture in (1, 3):
            sharp = grey(folder / f"gt-im{picture}.png")
            y = grey(folder / f"im{picture}_kernel{number}_img.png")
            fit = F.conv2d(sharp[None, None], kernel.flip(0, 1)[None, None])[0, 0]
            r = len(kernel) // 2
            error += aligned_ssd(fit, y[r:-r, r:-r], FARTHEST + 1)
        errors.append(error)
    return stored if errors[0] < errors[1] else stored.flip(0, 1)


def grey(file: Path) -> Tensor:
    return inverse.read_image(file, channels=1).pixels[0]


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--side", type=int, help="window of the kernel (pixels)")
    args = parser.parse_args()
    rows: list[dict[str, float]] = []
    if args.out.exists():
        rows = json.loads(args.out.read_text())["rows"]
    done = {(row["picture"], row["kernel"]) for row in rows}
    for number in range(1, 9):
        missing = [p for p in range(1, 5) if (p, number) not in done]
        if not missing:
            continue
        true = measured_kernel(args.folder, number)
        for picture in missing:
            y = grey(args.folder / f"im{picture}_kernel{number}_img.png")
            sharp = grey(args.folder / f"gt-im{picture}.png")
            start = time.process_time()
            estimate = estimate_kernel(y[None], args.side)
            seconds = time.process_time() - start
            best, found = (
                aligned_ssd(sparse_deconvolution(y, k), sharp, BORDER)
                for k in (true, estimate.kernel)
            )
            pixels = (sharp.shape[0] - 2 * BORDER) * (sharp.shape[1] - 2 * BORDER)
            rows.append(
                {
                    "picture": picture,
                    "kernel": number,
                    "error_ratio": round(found / best, 3),
                    "psnr_measured": round(10 * math.log10(pixels / best), 2),
                    "psnr_estimated": round(10 * math.log10(pixels / found), 2),
                    "processor_seconds": round(seconds, 1),
                }
            )
            print(rows[-1], flush=True)
            record = {"command": command_line(), "rows": rows}
            with atomic_write(args.out) as file:
                file.write_text(json.dumps(record, indent=1))
    ratios = torch.tensor([row["error_ratio"] for row in rows])
    for limit in (1.5, 2, 3, 5):
        print(f"at most {limit:g}: {float((ratios <= limit).float().mean()):.1%} of {len(ratios)}")


if __name__ == "__main__":
    main()
