"""What bf16 costs in PSNR: the same solves with the prior in float32, in bfloat16, and in float32 with a little noise in its answers.

    python bench/precision.py --images ../shared/data/bsds500/test --count 24 --steps 20 --methods diffpir red-diff --out docs/tables/precision
    python bench/precision.py --images ../shared/data/bsds500/test --count 24 --steps 60 --methods dps pigdm --out docs/tables/precision-gradients
    python bench/precision.py --images ../shared/data/bsds500/test --count 6 --steps 10 --methods mmps --out docs/tables/precision-mmps

The noise is a thousandth of each pixel's value, about what bfloat16 does to a denoised image, and as often up as down: what it moves is how far
two solves part that differ by rounding. Photographs are central crops; intervals are of 95 % (Student's t) over the photographs, each the mean
of its seeds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from photo import photographs
from torch import Tensor

import inverse
from inverse.files import write_text

PROBLEMS = {"deblur": {}, "super-resolution": {"factor": 4}, "inpainting": {"mask": "box"}}


class Noisy(inverse.Prior):
    """A prior whose answers are off by a part in a thousand, from a stream of its own."""

    def __init__(self, prior: inverse.Prior):
        super().__init__(prior.shape, shift=prior.shift, scale=prior.scale, sigma_min=prior.sigma_min, sigma_max=prior.sigma_max)
        self.prior, self.generator = prior, inverse.seeded("noisy")

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.prior(x, sigma) * (1 + 1e-3 * torch.randn(x.shape, generator=self.generator))


def scores(problem: inverse.Problem, truths: Tensor, method: inverse.Method, prior: inverse.Prior, half: str | None, seeds: int) -> Tensor:
    """PSNR (photographs, seeds), of at most 16 rows at a time."""
    found = []
    for i, part in enumerate(truths.split(max(1, 16 // seeds))):
        posterior = problem.posterior(part, prior=prior, seed=i, execution=inverse.Execution(autocast=half))
        samples = inverse.solve(posterior, method, samples=seeds).samples
        found.append(-10 * (samples.clamp(0, 1) - part[:, None]).square().flatten(2).mean(2).log10())
    return torch.cat(found)


def interval(change: Tensor) -> tuple[float, float, float]:
    """Mean over photographs, half the width of its 95 % interval, and the standard deviation of a single solve."""
    from scipy.stats import t

    each = change.mean(1)
    return float(change.mean()), float(t.ppf(0.975, len(each) - 1) * each.std() / len(each) ** 0.5), float(change.std())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--size", type=int, default=64, help="side of the central crop (pixels)")
    parser.add_argument("--count", type=int, default=24, help="photographs")
    parser.add_argument("--seeds", type=int, default=1, help="solves of each")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--methods", nargs="*", default=["diffpir", "red-diff", "pigdm"])
    parser.add_argument("--out", type=Path, help="stem of the .md and .json to write")
    arguments = parser.parse_args()

    prior, truths, rows = inverse.load_prior("photo-64"), torch.stack(photographs(arguments.images, arguments.count, arguments.size)), []
    for name, options in PROBLEMS.items():
        problem = inverse.get_problem(name, **options)
        for method in (inverse.get_method(m, steps=arguments.steps) for m in arguments.methods):
            runs = ((prior, None), (prior, "bf16"), (Noisy(prior), None))
            plain, half, noisy = (scores(problem, truths, method, network, autocast, arguments.seeds) for network, autocast in runs)
            about = {"problem": name, "method": method.name, "float32": float(plain.mean())}
            rows.append(about | {"bf16": interval(half - plain), "noisy": interval(noisy - plain)})
            print(rows[-1], flush=True)
    lines = ["| problem | method | PSNR in float32 (dB) | change in bf16 | under noise of 1e-3 | spread of one solve, bf16 | noise |", "|---" * 7 + "|"]
    for r in rows:
        changes = " | ".join(f"{mean:+.3f} ± {half:.3f}" for mean, half, _ in (r["bf16"], r["noisy"]))
        lines.append(f"| {r['problem']} | {r['method']} | {r['float32']:.2f} | {changes} | {r['bf16'][2]:.3f} | {r['noisy'][2]:.3f} |")
    print("\n".join(lines))
    if arguments.out:
        about = {name: getattr(arguments, name) for name in ("size", "count", "seeds", "steps")} | {"torch": torch.__version__}
        write_text(arguments.out.with_suffix(".json"), json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
        write_text(arguments.out.with_suffix(".md"), "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
