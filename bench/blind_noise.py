"""Choose the noise level that a reconstruction with an estimated kernel assumes.

    python bench/blind_noise.py --images "$INVERSE_DATA/bsds500/train"

Crops of photographs are blurred by camera shake and given noise of 0.01. The kernel is estimated,
and `dpir` restores the crop for several assumed levels. The table has the mean PSNR after alignment
(the estimate of a kernel is free up to a shift), for each level and for the true kernel.
"""

from __future__ import annotations

from pathlib import Path

import torch
from alignment import aligned_psnr
from options import new_parser

import inverse
from inverse.io.image_sets import load_images
from inverse.measurement.operators import motion_kernel
from inverse_problems.deblur.kernel_estimation import estimate_kernel

LEVELS = (0.005, 0.01, 0.015, 0.02, 0.03)
NOISE = 0.01
SIDE = 21


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--prior", default="photo")
    parser.add_argument("--size", type=int, default=176, help="side of the blurred crop (pixels)")
    args = parser.parse_args()
    prior = inverse.load_prior(args.prior)
    rows: dict[str, list[float]] = {}
    for index, image in enumerate(load_images(args.images, args.size + SIDE - 1, 3)[: args.count]):
        x = torch.from_numpy(image).permute(2, 0, 1).float() / 255
        x = x[:, : args.size + SIDE - 1, : args.size + SIDE - 1]
        kernel = motion_kernel(SIDE, index)
        blur = inverse.measurement.operators.fft_blur(kernel, tuple(x.shape), "valid")
        noise = inverse.seeded(index, "noise")
        y = blur.A(x[None])
        y = y + NOISE * torch.randn(y.shape, generator=noise)
        estimate = estimate_kernel(y[0], 31)
        cases = [("true kernel", kernel, NOISE)]
        cases += [(f"{level:g}", estimate.kernel, level) for level in LEVELS]
        for name, k, level in cases:
            shape = tuple(n + len(k) - 1 for n in y.shape[-2:])
            operator = inverse.measurement.operators.fft_blur(k, (3, *shape), "valid")
            posterior = inverse.Posterior(prior, operator, y, inverse.GaussianNoise(level))
            found = inverse.solve(posterior, "dpir").mean[0]
            r, s = len(k) // 2, SIDE // 2
            value = aligned_psnr(found[:, r:-r, r:-r], x[:, s:-s, s:-s])
            rows.setdefault(name, []).append(value)
            print(index, name, f"{value:.2f}", flush=True)
    for name, values in rows.items():
        print(f"{name:12} {sum(values) / len(values):.2f} dB over {len(values)}")


if __name__ == "__main__":
    main()
