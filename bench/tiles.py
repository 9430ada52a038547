"""A large image whole and in the tiles that a bound on memory makes: the difference in dB, the time, and what the prior's tensors held at most.

    python bench/tiles.py --out docs/tables/tiles

A whole `deblur` by RED-diff, and one evaluation of the prior; a solve of 2048 pixels takes a minute a step here.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

import inverse
from inverse.io.files import write_text
from inverse.priors.evaluation.memory import peak_bytes

WHOLE = {"tile_above": 1 << 40, "max_pixels": 1 << 40}


def photograph(side: int) -> Tensor:
    """A shipped photograph enlarged, with detail of its own size added back as noise that every run shares."""
    image = inverse.get_problem("deblur").truths()[0]
    large = F.interpolate(image[None], size=(side, side), mode="bicubic")[0]
    grain = 0.02 * torch.randn(large.shape, generator=inverse.seeded("grain"))
    return (large + grain).clamp(0, 1)


def decibel(a: Tensor, b: Tensor) -> float:
    return float(-10 * (a - b).square().mean().log10())


def measured(run: Callable[[], Tensor]) -> tuple[Tensor, float, float]:
    """The answer, seconds of the processor, and GiB held at most."""
    kept: list[Tensor] = []
    start = time.process_time()
    peak = peak_bytes(lambda: kept.append(run()))
    return kept[0], time.process_time() - start, peak / 2**30


def solve(side: int, steps: int, **execution: float) -> tuple[Tensor, Tensor]:
    truth = photograph(side)
    posterior = inverse.get_problem("deblur").posterior(
        truth, prior="photo-64", execution=inverse.Execution(**execution)
    )
    return inverse.solve(posterior, inverse.get_method("red-diff", steps=steps)).samples[
        0, 0
    ], truth


def denoise(side: int, **execution: float) -> tuple[Tensor, Tensor]:
    truth = photograph(side)
    posterior = inverse.get_problem("denoise").posterior(
        truth, prior="photo-64", execution=inverse.Execution(**execution)
    )
    x = posterior.prior.encode(truth[None])
    noisy = x + 0.5 * torch.randn(x.shape, generator=inverse.seeded("tiles"))
    return posterior.prior.decode(posterior.denoise(noisy, 0.5))[0], truth


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--solve", type=int, default=1024, help="side of the image that is deblurred"
    )
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument(
        "--denoise", type=int, default=2048, help="side of the image that is denoised once"
    )
    parser.add_argument("--memory", type=float, nargs=2, default=[0.15, 0.5], help="GiB for each")
    parser.add_argument("--out", type=Path, help="stem of the .md and .json to write")
    arguments = parser.parse_args()

    rows = []
    tasks: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
        f"deblur, {arguments.solve} pixels": lambda **e: solve(
            arguments.solve, arguments.steps, **e
        ),
        f"denoise, {arguments.denoise} pixels": lambda **e: denoise(arguments.denoise, **e),
    }
    for (task, run), memory in zip(tasks.items(), arguments.memory, strict=True):
        found = {}
        for bound in (None, memory):
            kept: list[Tensor] = []

            def answer(
                bound: float | None = bound,
                run: Callable[..., tuple[Tensor, Tensor]] = run,
                kept: list[Tensor] = kept,
            ) -> Tensor:
                image, truth = run(
                    **(WHOLE | {"memory": 1e6} if bound is None else {"memory": bound})
                )
                kept.append(truth)
                return image

            image, seconds, peak = measured(answer)
            found[bound] = image
            row = {
                "task": task,
                "memory": bound,
                "seconds": seconds,
                "peak_gib": peak,
                "psnr": decibel(image, kept[0]),
            }
            rows.append(
                row | {"against_whole": None if bound is None else decibel(image, found[None])}
            )
            print(rows[-1], flush=True)
    lines = [
        "| image | bound (GiB) | PSNR (dB) | PSNR against the whole's answer | tensors at most (GiB) | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        against = "-" if r["against_whole"] is None else f"{r['against_whole']:.0f}"
        lines.append(
            f"| {r['task']} | {r['memory'] or 'none'} | {r['psnr']:.4f} | {against} | {r['peak_gib']:.2f} | {r['seconds']:.0f} |"
        )
    if arguments.out:
        write_text(
            arguments.out.with_suffix(".json"),
            json.dumps({"torch": torch.__version__, "rows": rows}, indent=1) + "\n",
        )
        write_text(arguments.out.with_suffix(".md"), "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
