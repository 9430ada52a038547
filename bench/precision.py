r"""Measure what bf16 costs in PSNR, beside the effect of small errors of the prior.

    python bench/precision.py --images "$INVERSE_DATA/bsds500/test" --count 24 --steps 20 \
        --methods diffpir red-diff --runs bf16 --out results/tables/precision
    python bench/precision.py --images "$INVERSE_DATA/bsds500/test" --count 48 --steps 60 \
        --methods dps --runs bf16 --out results/tables/precision-dps
    python bench/precision.py --images "$INVERSE_DATA/bsds500/test" --count 48 --steps 60 \
        --methods pigdm --runs bf16 --out results/tables/precision-pigdm
    python bench/precision.py --images "$INVERSE_DATA/bsds500/test" --count 4 --steps 60 \
        --methods pigdm --runs throughout noise --out results/tables/precision-unstable
    python bench/precision.py --images "$INVERSE_DATA/bsds500/test" --count 6 --steps 10 \
        --methods mmps --runs bf16 --out results/tables/precision-mmps

The run "bf16" keeps gradients at high noise in float32, as the engine does; "throughout" uses bf16
at every noise level. The run "noise" multiplies each channel of an estimate and of a VJP by
1 +- 0.001, about the part of bfloat16's rounding that does not average out over an image. It shows
how far solves that differ by rounding move apart. Photographs are central crops. The 95 % intervals
(Student's t) are over photographs, each the mean of its seeds. Times are processor times.
"""

from __future__ import annotations

from typing import Any

import torch
from images import photographs, psnr
from options import add_images, add_out, new_parser
from output import markdown_table, write_table
from timing import timed
from torch import Tensor

import inverse
import inverse.priors.evaluation.evaluator

RUNS = {
    "bf16": ("in bf16", "bf16"),
    "throughout": ("in bf16 throughout", "bf16"),
    "noise": ("under noise of 1e-3", None),
}
FULL_PRECISION_SIGMA = inverse.priors.evaluation.evaluator.FULL_PRECISION_SIGMA
PROBLEMS = {"deblur": {}, "super-resolution": {"factor": 4}, "inpainting": {"mask": "box"}}


class Noisy(inverse.Prior):
    """A prior whose estimates and gradients have an error of 0.1 %, constant over each channel."""

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
            x.register_hook(self._perturbed)
        x0_hat = self.prior(x, sigma)
        return x0_hat + (self._perturbed(x0_hat) - x0_hat).detach()

    def _perturbed(self, z: Tensor) -> Tensor:
        return z * (1 + 1e-3 * torch.randn(*z.shape[:2], 1, 1, generator=self.generator))


def psnr_and_seconds(
    problem: inverse.Problem,
    truths: Tensor,
    method: inverse.Method,
    prior: inverse.Prior,
    autocast: str | None,
    seeds: int,
) -> tuple[Tensor, float]:
    """PSNR (photographs, seeds) in dB and the seconds of the solves, at most 16 rows at a time."""
    execution = inverse.Execution(autocast=autocast)

    def solve_all() -> Tensor:
        scores = []
        for i, part in enumerate(truths.split(max(1, 16 // seeds))):
            posterior = problem.posterior(part, prior=prior, seed=i, execution=execution)
            samples = inverse.solve(posterior, method, samples=seeds).samples
            scores.append(psnr(samples.clamp(0, 1), part[:, None]))
        return torch.cat(scores)

    return timed(solve_all)


def interval(change: Tensor) -> tuple[float, float, float]:
    """Mean change, half width of its 95 % interval, and standard deviation of a single solve.

    Args:
        change: (photographs, seeds), dB.
    """
    from scipy.stats import t

    by_photograph = change.mean(1)
    count = len(by_photograph)
    half_width = t.ppf(0.975, count - 1) * by_photograph.std() / count**0.5
    return float(change.mean()), float(half_width), float(change.std())


def main() -> None:
    parser = new_parser(__doc__)
    add_images(parser, count=24, size=64)
    parser.add_argument("--seeds", type=int, default=1, help="solves of each photograph")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--methods", nargs="*", default=["diffpir", "red-diff", "pigdm"])
    parser.add_argument(
        "--runs",
        nargs="*",
        default=["bf16", "noise"],
        choices=list(RUNS),
        help="runs to compare with float32",
    )
    add_out(parser)
    arguments = parser.parse_args()

    prior, rows = inverse.load_prior("photo-64"), []
    truths = torch.stack(photographs(arguments.images, arguments.count, arguments.size))
    for name, options in PROBLEMS.items():
        problem = inverse.get_problem(name, **options)
        for method in (inverse.get_method(m, steps=arguments.steps) for m in arguments.methods):
            plain, seconds = psnr_and_seconds(problem, truths, method, prior, None, arguments.seeds)
            row = {
                "problem": name,
                "method": method.name,
                "float32": float(plain.mean()),
                "seconds": {"float32": seconds},
            }
            for run in arguments.runs:
                inverse.priors.evaluation.evaluator.FULL_PRECISION_SIGMA = (
                    float("inf") if run == "throughout" else FULL_PRECISION_SIGMA
                )
                changed, row["seconds"][run] = psnr_and_seconds(
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
    print(table(rows, arguments.runs))
    if arguments.out:
        about = {name: getattr(arguments, name) for name in ("size", "count", "seeds", "steps")}
        about["torch"] = torch.__version__
        write_table(arguments.out, table(rows, arguments.runs), {"about": about, "rows": rows})


def table(rows: list[dict[str, Any]], runs: list[str]) -> str:
    names = [RUNS[run][0] for run in runs]
    heads = ["problem", "method", "PSNR in float32 (dB)", *(f"change {name}" for name in names)]
    heads += [*(f"spread of one solve, {name}" for name in names), "speed in bf16"]
    lines = []
    for row in rows:
        seconds = row["seconds"]
        bf16 = seconds.get("bf16", seconds.get("throughout", float("nan")))
        lines.append(
            [
                row["problem"],
                row["method"],
                f"{row['float32']:.2f}",
                *("{:+.3f} ± {:.3f}".format(*row[run]) for run in runs),
                *(f"{row[run][2]:.3f}" for run in runs),
                f"{seconds['float32'] / bf16:.2f}",
            ]
        )
    return markdown_table(heads, lines)


if __name__ == "__main__":
    main()
