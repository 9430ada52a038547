"""Choose how the window of an unknown kernel is chosen, on photographs blurred by camera shake.

    python bench/kernel_window.py --images "$INVERSE_DATA/bsds500/train"

Crops of 255 pixels are blurred by trajectories in windows of 9 to 27 pixels with noise of 0.01,
and the kernel is estimated in windows of 15, 21 and 31. For each rule the table has the mean
likeness of the chosen kernel and the true one: the largest normalised correlation over shifts. The
rules take the smallest cartoon objective, the smallest L1/L2 of its gradients, their product, or
one window; "best" is the largest likeness among the three. "product, EM" goes on from the product's
kernel by EM. The last line has the errors of that kernel, over its standard deviations.
"""

from __future__ import annotations

from pathlib import Path

import torch
from options import new_parser
from torch.nn import functional as F

import inverse
from inverse.io.image_sets import load_images
from inverse.measurement.operators import motion_kernel
from inverse_problems.deblur.kernel_estimation import (
    cartoon_objective,
    estimate_in_window,
    likeness,
    refined,
)

WINDOWS = (15, 21, 31)
SIDE = 255


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--count", type=int, default=16)
    args = parser.parse_args()
    images = load_images(args.images, SIDE + 30, 1)[:: 200 // args.count][: args.count]
    chosen: dict[str, list[float]] = {}
    errors: list[float] = []
    for index, image in enumerate(images):
        side = 9 + 2 * (index * 7 % 10)
        kernel = motion_kernel(side, 100 + index)
        x = torch.from_numpy(image.copy()).float()[None, None, ..., 0] / 255
        y = F.conv2d(x, kernel.flip(0, 1)[None, None])[0, 0, :SIDE, :SIDE]
        y = y + 0.01 * torch.randn(y.shape, generator=inverse.seeded(index, "noise"))
        estimates = [estimate_in_window([y], window) for window in WINDOWS]
        found = [each.kernel for each in estimates]
        alike = [likeness(k, kernel) for k in found]
        energy, sparsity = zip(*(cartoon_objective(y, k) for k in found), strict=True)
        rules = {
            "objective": energy,
            "L1/L2": sparsity,
            "product": [e * s for e, s in zip(energy, sparsity, strict=True)],
            "best": [-a for a in alike],
            **{f"window {w}": [float(w != v) for v in WINDOWS] for w in WINDOWS},
        }
        for name, values in rules.items():
            chosen.setdefault(name, []).append(alike[min(range(3), key=values.__getitem__)])
        product = rules["product"]
        last = refined([y], estimates[min(range(3), key=product.__getitem__)])
        chosen.setdefault("product, EM", []).append(likeness(last.kernel, kernel))
        if not last.sharp:
            error = last.kernel - placed(kernel, last.kernel)
            errors.append(float((error / last.std).square().mean().sqrt()))
        print(side, [round(a, 2) for a in alike], round(chosen["product, EM"][-1], 2), flush=True)
    for name, values in chosen.items():
        low = sum(v < 0.6 for v in values)
        print(f"{name:10} {sum(values) / len(values):.3f}, below 0.6: {low} of {len(values)}")
    print("errors over standard deviations:", [round(e, 1) for e in sorted(errors)])


def placed(kernel: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The kernel moved by whole pixels to where it is closest to another, in its window."""
    n = len(like)
    wide = F.pad(kernel, [n] * 4)
    down, right = (
        int(i)
        for i in divmod(
            int(F.conv2d(wide[None, None], like[None, None])[0, 0].argmax()), wide.shape[1] - n + 1
        )
    )
    return wide[down : down + n, right : right + n]


if __name__ == "__main__":
    main()
