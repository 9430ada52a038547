r"""Measure what the rules of `auto` rest on: the error of a few methods over kinds of measurements.

    python bench/method_choice.py --images "$INVERSE_DATA/photographs" --out docs/auto-point
    python bench/method_choice.py --images "$INVERSE_DATA/photographs" --size 64 --samples 4 \
        --methods diffpir ddrm pigdm mmps --out docs/auto-samples
    python bench/method_choice.py --images "$INVERSE_DATA/bsds500/val" --size 48 --count 3 --bf16 \
        --problems hdr "phase retrieval" "saturated motion blur" \
        --methods red-diff:lr=0.1 red-diff red-map dps pnp-flow sitcom daps \
        --out results/tables/method-choice-nonlinear

The images are central crops of every tenth photograph, halved. All images of a problem are solved
in one batch with default options. In phase retrieval an image turned by 180 degrees is as good.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from images import centre_crop, psnr
from options import add_out, new_parser
from output import command_line, in_results, markdown_table, write_json

import inverse
from inverse.io.files import write_text
from inverse.io.images import input_files, read_image
from inverse.metrics.shipped import METRICS
from inverse.registry.discovery import with_settings


class Saturated(inverse.ImageProblem):
    """Motion blur, and a film whose response saturates: y = 1 / (1 + exp(-6 (k * x - 1/2)))."""

    name = "saturated"
    sigma_y = 0.02

    def operator(self, shape: tuple[int, ...]):
        blur = inverse.get_problem("deblur", kernel="motion").operator(shape)

        @inverse.operator(shape=shape, linear=False)
        def film(x):
            return (6 * (blur.A(x) - 0.5)).sigmoid()

        return film


NONLINEAR = {
    "hdr": ("hdr", {}),
    "hdr, gain 4": ("hdr", {"gain": 4.0}),
    "saturated motion blur": (Saturated, {}),
    "phase retrieval": ("phase-retrieval", {}),
}
"""Operators that only gradients know, which only `--problems` names."""
PROBLEMS = {
    "denoise 25/255": ("denoise", {"sigma_y": 25 / 255}),
    "Gaussian blur, noise 0.02": ("deblur", {"kernel": "gaussian"}),
    "motion blur, noise 0.02": ("deblur", {"kernel": "motion"}),
    "motion blur, noise 0.1": ("deblur", {"kernel": "motion", "sigma_y": 0.1}),
    "super-resolution x2": ("super-resolution", {"factor": 2}),
    "super-resolution x4": ("super-resolution", {"factor": 4}),
    "random pixels, half": ("inpainting", {"mask": "random", "missing": 0.5}),
    "random pixels, a tenth": ("inpainting", {"mask": "random", "missing": 0.9}),
    "strokes": ("inpainting", {"mask": "free-form", "missing": 0.2}),
    "hole of 4 pixels": ("inpainting", {"box": 4}),
    "hole of 8 pixels": ("inpainting", {"box": 8}),
    "hole of 12 pixels": ("inpainting", {"box": 12}),
    "hole of 16 pixels": ("inpainting", {"box": 16}),
    "hole of 24 pixels": ("inpainting", {"box": 24}),
    "hole of 32 pixels": ("inpainting", {"box": 32}),
}
"""Label -> problem and its options; `box` in pixels."""
METHODS = ("dpir", "red-map", "diffpir", "tv")


def crops(folder: Path, count: int, size: int) -> torch.Tensor:
    """Central crops (n, 3, size, size) of every tenth photograph of a folder, halved."""
    found = []
    for file in input_files([folder])[::10][:count]:
        pixels = read_image(file).pixels[None]
        half = torch.nn.functional.interpolate(
            pixels, scale_factor=0.5, mode="bicubic", antialias=True
        )[0].clamp(0, 1)
        found.append(centre_crop(half, size))
    return torch.stack(found)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--size", type=int, default=96, help="side of the crops (pixels)")
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--problems", nargs="*", default=list(PROBLEMS))
    parser.add_argument("--prior", default="photo-64")
    parser.add_argument("--bf16", action="store_true", help="run the prior in bf16")
    add_out(parser, required=True)
    given = parser.parse_args()
    truths = crops(given.images, given.count, given.size)
    rows, records = [], []
    for label in given.problems:
        name, options = (PROBLEMS | NONLINEAR)[label]
        if "box" in options:
            options = options | {"box": options["box"] / given.size}
        problem = inverse.get_problem(name, **options) if isinstance(name, str) else name()
        execution = inverse.Execution(autocast="bf16" if given.bf16 else None)
        posterior = problem.posterior(truths, prior=given.prior, execution=execution)
        cells = []
        for method in given.methods:
            start = time.process_time()
            try:
                result = inverse.solve(posterior, with_settings(method), given.samples)
            except inverse.InverseError as error:
                records.append({"problem": label, "method": method, "error": str(error)})
                cells.append("-")
                continue
            scores = psnr(result.mean, truths.to(result.mean))
            if label == "phase retrieval":
                turned = psnr(result.mean.flip(-1, -2), truths.to(result.mean))
                scores = torch.maximum(scores, turned)
            record = {
                "problem": label,
                "method": method,
                "psnr": scores.tolist(),
                "crps": METRICS["crps"](result),
                "misfit": float(result.misfit.mean()),
                "calls": result.cost.nfe + result.cost.vjp,
                "seconds": (time.process_time() - start) / len(truths),
            }
            records.append(record)
            print(label, method, record, flush=True)
            crps = f" ({1e3 * record['crps']:.1f})" if given.samples > 1 else ""
            cells.append(f"{float(scores.mean()):.2f}{crps}")
        rows.append([label, *cells])
        print(*rows[-1], flush=True)
        write_json(
            in_results(given.out.with_suffix(".json")),
            {"command": command_line(), "records": records},
        )
    write_text(given.out.with_suffix(".md"), markdown_table(["problem", *given.methods], rows))


if __name__ == "__main__":
    main()
