r"""Measure what deblurring without the kernel gains, for several assumed levels of noise.

    python bench/blind_noise.py --images "$INVERSE_DATA/bsds500/train" --count 12 \
        --out results/blind-noise.json

Crops of photographs are blurred by camera shake and given noise of 0.01. The kernel is estimated,
and `dpir` restores the crop for several assumed levels. The record has the PSNR of the blurred
crop, and of the restoration with the true kernel and with the estimated one for each level, all
after alignment, since the estimate of a kernel is free up to a shift.
"""

from __future__ import annotations

from pathlib import Path

import torch
from alignment import aligned_psnr
from options import new_parser
from output import command_line, write_json

import inverse
from inverse.errors import InputError
from inverse.io.image_sets import load_images
from inverse.measurement.operators import fft_blur, motion_kernel
from inverse_problems.deblur.kernel_estimation import estimate_kernel, likeness

LEVELS = (0.015, 0.03, 0.05, 0.08)
NOISE = 0.01
SIDE = 21


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--prior", default="photo")
    parser.add_argument("--size", type=int, default=176, help="side of the blurred crop (pixels)")
    parser.add_argument("--out", type=Path, required=True, help="record to write")
    args = parser.parse_args()
    prior = inverse.load_prior(args.prior)
    side, s, rows = args.size + SIDE - 1, SIDE // 2, []
    for index, image in enumerate(load_images(args.images, side, 3)[: args.count]):
        x = torch.from_numpy(image).permute(2, 0, 1).float()[:, :side, :side] / 255
        inner, kernel = x[:, s:-s, s:-s], motion_kernel(SIDE, index)
        clean = fft_blur(kernel, tuple(x.shape), "valid").A(x[None])
        noise = torch.randn(clean.shape, generator=inverse.seeded(index, "noise"))
        y = clean + NOISE * noise
        try:
            estimate = estimate_kernel(y[0])
        except InputError as refusal:
            print(f"picture {index} is refused: {refusal}", flush=True)
            continue
        row = {"blurred": aligned_psnr(y[0], inner), "sharp": estimate.sharp}
        row |= {"agreement": estimate.agreement, "likeness": likeness(estimate.kernel, kernel)}
        cases = [("true kernel", kernel, NOISE)]
        cases += [(f"{level:g}", estimate.kernel, level) for level in LEVELS]
        for name, k, level in cases:
            shape = (3, *(n + len(k) - 1 for n in y.shape[-2:]))
            noise_model = inverse.GaussianNoise(level)
            posterior = inverse.Posterior(prior, fft_blur(k, shape, "valid"), y, noise_model)
            r = len(k) // 2
            found = inverse.solve(posterior, "dpir").mean[0][:, r:-r, r:-r]
            row[name] = aligned_psnr(found, inner)
        rows.append(row)
        print({k: v and round(float(v), 2) for k, v in row.items()}, flush=True)
    gains = {
        f"{level:g}": sorted(row[f"{level:g}"] - row["blurred"] for row in rows) for level in LEVELS
    }
    summary = {
        level: {
            "median gain": round(values[len(values) // 2], 2),
            "mean gain": round(sum(values) / len(values), 2),
            "worst": round(values[0], 2),
        }
        for level, values in gains.items()
    }
    print(summary)
    about = {"command": command_line(), "prior": args.prior, "torch": torch.__version__}
    write_json(args.out, {"about": about, "summary": summary, "pictures": rows})


if __name__ == "__main__":
    main()
