r"""Compare methods on photographs: deblurring, super-resolution x4 and box inpainting.

    python bench/photo_restoration.py --images "$INVERSE_DATA/bsds500/test" --count 10 \
        --size 128 --out docs/photo

Every method receives the same measurement of each photograph; the index of the photograph seeds the
noise. Metrics are computed outside the timed region, and no method has access to the truth.
"""

from __future__ import annotations

import math
import platform
from functools import partial
from pathlib import Path

import torch
from images import photographs
from options import add_images, new_parser
from output import in_results, markdown_table, write_json
from timing import timed

import inverse
from inverse.io.files import write_text
from inverse.metrics.shipped import METRICS

PROBLEMS = {
    "deblur": ("deblur", {}),
    "super-resolution x4": ("super-resolution", {"factor": 4}),
    "box inpainting": ("inpainting", {"mask": "box"}),
}
MORE = {
    "denoise": ("denoise", {}),
    "motion deblur": ("deblur", {"kernel": "motion"}),
    "circular deblur": ("deblur", {"boundary": "circular"}),
    "random inpainting": ("inpainting", {"mask": "random"}),
    "hdr": ("hdr", {}),
    "phase retrieval": ("phase-retrieval", {}),
}
"""Problems that only `--problems` names."""
METHODS = ("pseudo-inverse", "tikhonov", "tv", "diffpir", "dpir", "dps", "red-diff", "red-map")
COLUMNS = ("psnr", "ssim", "misfit", "nfe", "vjp", "seconds")


def solve_each(
    problem: inverse.Problem,
    method: inverse.Method,
    truths: list[torch.Tensor],
    prior: inverse.Prior,
    execution: inverse.Execution | None = None,
) -> list[dict]:
    """Solve every image by itself; return a record of metrics and cost for each."""
    records = []
    for index, truth in enumerate(truths):
        posterior = problem.posterior(truth, prior=prior, seed=index, execution=execution)
        solve = partial(inverse.solve, posterior, method, seed=0, first_image=index)
        result, seconds = timed(solve)
        scores = {name: METRICS[name](result) for name in ("psnr", "ssim", "misfit")}
        cost = {"nfe": result.cost.nfe, "vjp": result.cost.vjp, "seconds": seconds}
        records.append({"photograph": index, **scores, **cost})
    return records


def summary(records: list[dict]) -> dict[str, float]:
    """Means over the photographs."""
    return {k: sum(r[k] for r in records) / len(records) for k in COLUMNS}


def standard_error(records: list[dict], key: str = "psnr") -> float:
    mean, count = summary(records)[key], len(records)
    return math.sqrt(sum((r[key] - mean) ** 2 for r in records) / max(1, count - 1) / count)


def table(results: dict[str, dict[str, list[dict]]]) -> str:
    heads = ["problem", "method", "PSNR (dB)", "SSIM", "residual chi2"]
    heads += ["prior evaluations", "vjps", "seconds"]
    rows = []
    for problem, methods in results.items():
        for method, records in methods.items():
            mean = summary(records)
            rows.append(
                [
                    problem,
                    method,
                    f"{mean['psnr']:.2f} ± {standard_error(records):.2f}",
                    f"{mean['ssim']:.3f}",
                    f"{mean['misfit']:.3f}",
                    f"{mean['nfe']:.0f}",
                    f"{mean['vjp']:.0f}",
                    f"{mean['seconds']:.1f}",
                ]
            )
    return markdown_table(heads, rows) + "\n"


def page(about: dict, results: dict[str, dict[str, list[dict]]]) -> str:
    """The page: settings, command and table."""
    size, count = about["size"], about["photographs"]
    note = f"\n{about['note']}\n" if "note" in about else ""
    return f"""# Three restorations of held-out photographs

This page compares methods on photographs, for users who restore pictures.

The images are central {size}-pixel squares of {count} photographs of the BSDS500 test set, measured
with `sigma_y = {about["sigma_y"]}`. Each method draws one sample with its default options and the
prior `{about["prior"]}`. The table gives the mean ± standard error over the photographs; most of it
is due to differences between photographs. Seconds are processor time per image; compare their
ratios only. More methods and problems under one budget, on fewer photographs:
[leaderboard.md](leaderboard.md).

```
python bench/photo_restoration.py --images "$INVERSE_DATA/bsds500/test" \\
    --count {count} --size {size} --out docs/photo
```
{note}
{table(results)}"""


def main() -> None:
    parser = new_parser(__doc__)
    add_images(parser, count=10, size=128, text="folder of held-out photographs")
    parser.add_argument("--prior", default="photo-64")
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--problems", nargs="*", default=list(PROBLEMS))
    parser.add_argument("--sigma-y", type=float, default=0.02)
    parser.add_argument("--set", nargs="*", default=[], help="options (name=value) of every method")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="run the prior in bf16")
    parser.add_argument("--out", type=Path, help="stem of the .md and .json to write")
    arguments = parser.parse_args()

    prior = inverse.load_prior(arguments.prior, arguments.device)
    execution = inverse.Execution(autocast="bf16" if arguments.bf16 else None)
    truths = photographs(arguments.images, arguments.count, arguments.size)
    options = dict(pair.split("=", 1) for pair in arguments.set)
    results: dict[str, dict[str, list[dict]]] = {}
    for label in arguments.problems:
        name, settings = (PROBLEMS | MORE)[label]
        problem = inverse.get_problem(name, sigma_y=arguments.sigma_y, **settings)
        for method_name in arguments.methods:
            method = inverse.get_method(method_name, **options)
            records = solve_each(problem, method, truths, prior, execution)
            results.setdefault(label, {})[method_name] = records
            print(label, method_name, summary(records), flush=True)
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
        record = {"about": about, "records": results}
        write_json(in_results(arguments.out.with_suffix(".json")), record)
        write_text(arguments.out.with_suffix(".md"), page(about, results))


if __name__ == "__main__":
    main()
