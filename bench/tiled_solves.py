"""Compare a large image processed whole with the same image in tiles under a bound on memory.

    python bench/tiled_solves.py --out results/tables/tiles

The table gives the difference (dB), the time and the peak size of tensors, for `deblur` by RED-diff
and for one evaluation of the prior. A solve of 2048 pixels takes about a minute per step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from images import psnr
from options import add_out, new_parser
from output import markdown_table, write_table
from timing import timed
from torch import Tensor
from torch.nn import functional as F

import inverse
from inverse.priors.evaluation.memory import peak_bytes

WHOLE = {"tile_above": 1 << 40, "max_pixels": 1 << 40, "memory": 1e6}
"""Options of `Execution` under which no image is tiled."""


def photograph(side: int) -> Tensor:
    """A shipped photograph, enlarged, with grain for fine detail; every run has the same grain."""
    image = inverse.get_problem("deblur").truths()[0]
    large = F.interpolate(image[None], size=(side, side), mode="bicubic")[0]
    grain = 0.02 * torch.randn(large.shape, generator=inverse.seeded("grain"))
    return (large + grain).clamp(0, 1)


Task = Callable[..., tuple[Tensor, Tensor]]
"""Called with options of `Execution`; returns the estimate and the truth."""


def measure(task: Task, **execution: float) -> tuple[Tensor, dict[str, float]]:
    """The estimate, and its processor seconds, peak memory (GiB) and PSNR (dB)."""
    answers: list[tuple[Tensor, Tensor]] = []
    peak, seconds = timed(lambda: peak_bytes(lambda: answers.append(task(**execution))))
    estimate, truth = answers[0]
    score = float(psnr(estimate, truth))
    return estimate, {"seconds": seconds, "peak_gib": peak / 2**30, "psnr": score}


def solve(side: int, steps: int, **execution: float) -> tuple[Tensor, Tensor]:
    """Deblur by RED-diff."""
    truth = photograph(side)
    posterior = inverse.get_problem("deblur").posterior(
        truth, prior="photo-64", execution=inverse.Execution(**execution)
    )
    method = inverse.get_method("red-diff", steps=steps)
    return inverse.solve(posterior, method).samples[0, 0], truth


def denoise(side: int, **execution: float) -> tuple[Tensor, Tensor]:
    """Evaluate the prior once at noise level 0.5 (model units)."""
    truth = photograph(side)
    posterior = inverse.get_problem("denoise").posterior(
        truth, prior="photo-64", execution=inverse.Execution(**execution)
    )
    x = posterior.prior.encode(truth[None])
    noisy = x + 0.5 * torch.randn(x.shape, generator=inverse.seeded("tiles"))
    return posterior.prior.decode(posterior.denoise(noisy, 0.5))[0], truth


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument(
        "--solve", type=int, default=1024, help="side of the image to deblur (pixels)"
    )
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument(
        "--denoise", type=int, default=2048, help="side of the image to denoise once (pixels)"
    )
    parser.add_argument(
        "--memory", type=float, nargs=2, default=[0.15, 0.5], help="bound of each task (GiB)"
    )
    add_out(parser)
    arguments = parser.parse_args()

    rows = []
    tasks: dict[str, Task] = {
        f"deblur, {arguments.solve} pixels": partial(solve, arguments.solve, arguments.steps),
        f"denoise, {arguments.denoise} pixels": partial(denoise, arguments.denoise),
    }
    for (name, task), bound in zip(tasks.items(), arguments.memory, strict=True):
        whole, figures = measure(task, **WHOLE)
        rows.append({"task": name, "memory": None, **figures, "against_whole": None})
        print(rows[-1], flush=True)
        tiled, figures = measure(task, memory=bound)
        against_whole = float(psnr(tiled, whole))
        rows.append({"task": name, "memory": bound, **figures, "against_whole": against_whole})
        print(rows[-1], flush=True)
    if arguments.out:
        write_table(arguments.out, table(rows), {"torch": torch.__version__, "rows": rows})


def table(rows: list[dict[str, Any]]) -> str:
    heads = ["image", "bound (GiB)", "PSNR (dB)", "PSNR against the whole's answer"]
    heads += ["tensors at most (GiB)", "seconds"]
    cells = []
    for row in rows:
        against = row["against_whole"]
        cells.append(
            [
                row["task"],
                str(row["memory"] or "none"),
                f"{row['psnr']:.4f}",
                "-" if against is None else f"{against:.0f}",
                f"{row['peak_gib']:.2f}",
                f"{row['seconds']:.0f}",
            ]
        )
    return markdown_table(heads, cells)


if __name__ == "__main__":
    main()
