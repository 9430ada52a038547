r"""What bf16 costs in PSNR: the same solves with the prior in float32, in bfloat16, and in float32 with a little noise in its answers.

    python bench/precision.py --images ../shared/data/bsds500/test --count 24 --steps 20 --methods diffpir red-diff --runs bf16 --out docs/tables/precision
    python bench/precision.py --images ../shared/data/bsds500/test --count 48 --steps 60 --methods dps --runs bf16 --out docs/tables/precision-dps
    python bench/precision.py --images ../shared/data/bsds500/test --count 48 --steps 60 --methods pigdm --runs bf16 --out docs/tables/precision-pigdm
    python bench/precision.py --images ../shared/data/bsds500/test --count 4 --steps 60 --methods pigdm --runs throughout noise \
        --out docs/tables/precision-unstable
    python bench/precision.py --images ../shared/data/bsds500/test --count 6 --steps 10 --methods mmps --runs bf16 --out docs/tables/precision-mmps

"throughout" is bf16 at every noise level, where the engine keeps gradients at high noise in float32. The noise is a factor of 1 +- 0.001 for each channel of
an answer and of a VJP, about what bfloat16 does to them that does not average out over an image; what it moves is how far two solves part that
differ by rounding. Photographs are central crops; intervals are of 95 % (Student's t) over the photographs, each the mean of its seeds. Times
are of the processor.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from photo import photographs
from torch import Tensor

import inverse
import inverse.priors.evaluation.evaluator
from inverse.io.files import write_text

RUNS = {
    "bf16": ("in bf16", "bf16"),
    "throughout": ("in bf16 throughout", "bf16"),
    "noise": ("under noise of 1e-3", None),
}
STEEP = inverse.priors.evaluation.evaluator.STEEP
PROBLEMS = {"deblur": {}, "super-resolution": {"factor": 4}, "inpainting": {"mask": "box"}}


class Noisy(inverse.Prior):
    """A prior whose answers and gradients are off by a part in a thousand, the same at every pixel, from a stream of its own."""

    def __init__(self, prior: inverse.Prior):
        super().__init__(
            prior.shape,
            shift=prior.shift,
            scale=prior.scale,
            sigma_min=prior.sigma_min,
            sigma_max=prior.sigma_max,
        )
        self.prior, self.generator = prior, inverse.seeded("noisy")

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        if x.requires_grad:
            x = x.view_as(x)
            x.register_hook(self._off)
        x0_hat = self.prior(x, sigma)
        return x0_hat + (self._off(x0_hat) - x0_hat).detach()

    def _off(self, z: Tensor) -> Tensor:
        return z * (1 + 1e-3 * torch.randn(*z.shape[:2], 1, 1, generator=self.generator))


def scores(
    problem: inverse.Problem,
    truths: Tensor,
    method: inverse.Method,
    prior: inverse.Prior,
    half: str | None,
    seeds: int,
) -> tuple[Tensor, float]:
    """PSNR (photographs, seeds), of at most 16 rows at a time, and the seconds that the solves took."""
    found, start = [], time.process_time()
    for i, part in enumerate(truths.split(max(1, 16 // seeds))):
        posterior = problem.posterior(
            part, prior=prior, seed=i, execution=inverse.Execution(autocast=half)
        )
        samples = inverse.solve(posterior, method, samples=seeds).samples
        found.append(
            -10 * (samples.clamp(0, 1) - part[:, None]).square().flatten(2).mean(2).log10()
        )
    return torch.cat(found), time.process_time() - start


def interval(change: Tensor) -> tuple[float, float, float]:
    """Mean over photographs, half the width of its 95 % interval, and the standard deviation of a single solve."""
    from scipy.stats import t

    each = change.mean(1)
    return (
        float(change.mean()),
        float(t.ppf(0.975, len(each) - 1) * each.std() / len(each) ** 0.5),
        float(change.std()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--size", type=int, default=64, help="side of the central crop (pixels)")
    parser.add_argument("--count", type=int, default=24, help="photographs")
    parser.add_argument("--seeds", type=int, default=1, help="solves of each")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--methods", nargs="*", default=["diffpir", "red-diff", "pigdm"])
    parser.add_argument(
        "--runs",
        nargs="*",
        default=["bf16", "noise"],
        choices=list(RUNS),
        help="what is compared with float32",
    )
    parser.add_argument("--out", type=Path, help="stem of the .md and .json to write")
    arguments = parser.parse_args()

    prior, truths, rows = (
        inverse.load_prior("photo-64"),
        torch.stack(photographs(arguments.images, arguments.count, arguments.size)),
        [],
    )
    for name, options in PROBLEMS.items():
        problem = inverse.get_problem(name, **options)
        for method in (inverse.get_method(m, steps=arguments.steps) for m in arguments.methods):
            plain, seconds = scores(problem, truths, method, prior, None, arguments.seeds)
            row = {
                "problem": name,
                "method": method.name,
                "float32": float(plain.mean()),
                "seconds": {"float32": seconds},
            }
            for run in arguments.runs:
                inverse.priors.evaluation.evaluator.STEEP = (
                    float("inf") if run == "throughout" else STEEP
                )
                changed, row["seconds"][run] = scores(
                    problem,
                    truths,
                    method,
                    Noisy(prior) if run == "noise" else prior,
                    RUNS[run][1],
                    arguments.seeds,
                )
                row[run] = interval(changed - plain)
            rows.append(row)
            print(row, flush=True)
    names = [RUNS[run][0] for run in arguments.runs]
    heads = [
        "problem",
        "method",
        "PSNR in float32 (dB)",
        *(f"change {n}" for n in names),
        *(f"spread of one solve, {n}" for n in names),
        "speed in bf16",
    ]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for r in rows:
        cells = [
            r["problem"],
            r["method"],
            f"{r['float32']:.2f}",
            *("{:+.3f} ± {:.3f}".format(*r[run]) for run in arguments.runs),
        ]
        seconds = r["seconds"]
        cells += [f"{r[run][2]:.3f}" for run in arguments.runs] + [
            f"{seconds['float32'] / seconds.get('bf16', seconds.get('throughout', float('nan'))):.2f}"
        ]
        lines.append(f"| {' | '.join(cells)} |")
    print("\n".join(lines))
    if arguments.out:
        about = {name: getattr(arguments, name) for name in ("size", "count", "seeds", "steps")} | {
            "torch": torch.__version__
        }
        write_text(
            arguments.out.with_suffix(".json"),
            json.dumps({"about": about, "rows": rows}, indent=1) + "\n",
        )
        write_text(arguments.out.with_suffix(".md"), "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
