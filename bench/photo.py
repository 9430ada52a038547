"""Compare methods on photographs: deblurring, super-resolution x4, box inpainting. Writes a Markdown table and JSON records.

    python bench/photo.py --images ../shared/data/bsds500/test --count 10 --size 128 --out docs/photo

Every method sees the same measurement of every photograph (the noise is seeded by the photograph's index), the metrics
are computed outside the timed region, and no method sees the truth.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from pathlib import Path

import torch

import inverse
from inverse.io.images import input_files, read_image
from inverse.metrics.standard import METRICS

PROBLEMS = {
    "deblur": ("deblur", {}),
    "super-resolution x4": ("super-resolution", {"factor": 4}),
    "box inpainting": ("inpainting", {"mask": "box"}),
}
METHODS = ("pseudo-inverse", "tikhonov", "tv", "diffpir", "dpir", "dps", "red-diff", "red-map")
COLUMNS = ("psnr", "ssim", "misfit", "nfe", "vjp", "seconds")


def photographs(folder: Path, count: int, size: int) -> list[torch.Tensor]:
    """Central crops (3, size, size) of the first `count` photographs that are large enough."""
    crops = []
    for file in input_files([folder]):
        pixels = read_image(file).pixels
        if min(pixels.shape[-2:]) >= size and len(crops) < count:
            top, left = ((n - size) // 2 for n in pixels.shape[-2:])
            crops.append(pixels[:, top : top + size, left : left + size])
    return crops


def cell(
    problem: inverse.Problem,
    method: inverse.Method,
    truths: list[torch.Tensor],
    prior: inverse.Prior,
) -> list[dict]:
    """One record a photograph."""
    records = []
    for index, truth in enumerate(truths):
        posterior = problem.posterior(truth, prior=prior, seed=index)
        start = time.process_time()
        result = inverse.solve(posterior, method, seed=0, first_image=index)
        cost = {
            "nfe": result.cost.nfe,
            "vjp": result.cost.vjp,
            "seconds": time.process_time() - start,
        }
        records.append(
            {
                "photograph": index,
                **{k: METRICS[k](result) for k in ("psnr", "ssim", "misfit")},
                **cost,
            }
        )
    return records


def summary(records: list[dict]) -> dict[str, float]:
    return {k: sum(r[k] for r in records) / len(records) for k in COLUMNS}


def standard_error(records: list[dict], key: str = "psnr") -> float:
    mean = summary(records)[key]
    return math.sqrt(
        sum((r[key] - mean) ** 2 for r in records) / max(1, len(records) - 1) / len(records)
    )


def table(results: dict[str, dict[str, list[dict]]]) -> str:
    lines = [
        "| problem | method | PSNR (dB) | SSIM | residual chi2 | prior evaluations | vjps | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for problem, methods in results.items():
        for method, records in methods.items():
            s = summary(records)
            psnr = f"{s['psnr']:.2f} ± {standard_error(records):.2f}"
            lines.append(
                f"| {problem} | {method} | {psnr} | {s['ssim']:.3f} | {s['misfit']:.3f} | {s['nfe']:.0f} | {s['vjp']:.0f} | {s['seconds']:.1f} |"
            )
    return "\n".join(lines) + "\n"


def page(about: dict, results: dict[str, dict[str, list[dict]]]) -> str:
    """The table with what it is of."""
    return f"""# Three restorations of held-out photographs

Central {about["size"]}-pixel squares of {about["photographs"]} photographs of the BSDS500 test set, `sigma_y = {about["sigma_y"]}`, one sample,
default options, prior `{about["prior"]}`; mean ± standard error over the photographs, of which most is the difference between photographs.
Seconds are the processor's for one image: read them as ratios. More methods and problems under one budget, on fewer
photographs: [leaderboard.md](leaderboard.md).

```
python bench/photo.py --images ../shared/data/bsds500/test --count {about["photographs"]} --size {about["size"]} --out docs/photo
```

{table(results)}"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of held-out photographs")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--size", type=int, default=128, help="side of the central crop (pixels)")
    parser.add_argument("--prior", default="photo-64")
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--problems", nargs="*", default=list(PROBLEMS))
    parser.add_argument("--sigma-y", type=float, default=0.02)
    parser.add_argument(
        "--set", nargs="*", default=[], help="method options, for every method that has them"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="stem of the .md and .json to write")
    arguments = parser.parse_args()

    prior = inverse.load_prior(arguments.prior, arguments.device)
    truths = photographs(arguments.images, arguments.count, arguments.size)
    options = dict(pair.split("=", 1) for pair in arguments.set)
    results: dict[str, dict[str, list[dict]]] = {}
    for label in arguments.problems:
        name, settings = PROBLEMS[label]
        problem = inverse.get_problem(name, sigma_y=arguments.sigma_y, **settings)
        for method in arguments.methods:
            results.setdefault(label, {})[method] = cell(
                problem, inverse.get_method(method, **options), truths, prior
            )
            s = summary(results[label][method])
            print(
                f"{label:22s} {method:15s} {s['psnr']:6.2f} dB  {s['ssim']:.3f}  chi2 {s['misfit']:.3f}  {s['seconds']:.1f} s",
                flush=True,
            )
    if arguments.out:
        about = {
            "photographs": len(truths),
            "size": arguments.size,
            "sigma_y": arguments.sigma_y,
            "prior": arguments.prior,
        }
        about |= {
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "torch": torch.__version__,
            "device": arguments.device,
        }
        arguments.out.with_suffix(".json").write_text(
            json.dumps({"about": about, "records": results}, indent=1) + "\n"
        )
        arguments.out.with_suffix(".md").write_text(page(about, results))


if __name__ == "__main__":
    main()
