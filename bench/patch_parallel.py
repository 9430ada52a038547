r"""Measure the error of stale halos and the time saved when two processes divide a network.

    torchrun --standalone --nproc-per-node 2 bench/patch_parallel.py \
        --images "$INVERSE_DATA/bsds500/test" --size 128 --out results/tables/patches

Errors are root mean square differences (intensity) from the reconstruction of a single process;
the PSNR of both is given. Times are those of one forward pass of an image of twice the side, the
least of five, first on one process while the other waits, then on both.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
import torch.distributed as dist
from images import photographs, psnr
from options import add_out, new_parser
from output import markdown_table, write_table
from timing import least_seconds

import inverse
from inverse.priors.evaluation.patches import divide_among_ranks, process_group

CASES = {
    "diffpir, 20 steps": {"steps": 20},
    "ddrm, 20 steps": {"steps": 20},
    "ddrm, 60 steps": {"steps": 60},
    "red-diff, 20 steps": {"steps": 20},
}


def seconds_of(prior: inverse.Prior, size: int) -> float:
    """Wall-clock seconds of one forward pass, the least of five."""
    x = torch.randn(1, 3, size, size, generator=inverse.seeded("time"))
    with torch.no_grad():
        return least_seconds(lambda: prior(x, torch.tensor(0.3)), 5, clock=time.perf_counter)


def difference_and_psnr(
    result: inverse.Result, single: inverse.Result, truth: torch.Tensor
) -> tuple[float, float]:
    """Root mean square difference from the result of a single process, and PSNR (dB)."""
    difference = (result.mean - single.mean).square().mean().sqrt()
    return float(difference), float(psnr(result.mean, truth))


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--size", type=int, default=128, help="side of the central crop (pixels)")
    parser.add_argument("--prior", default="photo-64")
    add_out(parser, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    with process_group("cpu") as (_, first):
        truth = photographs(arguments.images, 1, arguments.size)[0]
        priors = {
            "one": inverse.load_prior(arguments.prior),
            "fresh": divide_among_ranks(inverse.load_prior(arguments.prior), "fresh"),
        }
        priors["stale"] = divide_among_ranks(inverse.load_prior(arguments.prior), "stale")
        seconds = {}
        for name, prior in priors.items():
            if first or name != "one":
                seconds[name] = seconds_of(prior, 2 * arguments.size)
            if name == "one":
                dist.barrier()
        rows = []
        for label, options in CASES.items():
            method = inverse.get_method(label.split(",")[0], **options)
            problem = inverse.get_problem("super-resolution", factor=4)
            results = {
                name: inverse.solve(problem.posterior(truth, prior=prior), method)
                for name, prior in priors.items()
                if first or name != "one"
            }
            if first:
                single = results["one"]
                row = {k: difference_and_psnr(r, single, truth) for k, r in results.items()}
                rows.append((label, row))
    if not first:
        return
    tables = f"{accuracy_table(rows)}\n\n{time_table(seconds)}"
    about = {"image": arguments.size, "prior": arguments.prior, "torch": torch.__version__}
    write_table(arguments.out, tables, {"about": about, "rows": rows, "seconds": seconds})
    print(tables)


def accuracy_table(rows: list[tuple[str, dict[str, tuple[float, float]]]]) -> str:
    heads = ["super-resolution x4", "fresh: difference", "stale: difference"]
    heads += ["PSNR alone (dB)", "PSNR stale (dB)"]
    cells = [
        [
            label,
            *(f"{row[name][0]:.1e}" for name in ("fresh", "stale")),
            *(f"{row[name][1]:.2f}" for name in ("one", "stale")),
        ]
        for label, row in rows
    ]
    return markdown_table(heads, cells)


def time_table(seconds: dict[str, float]) -> str:
    cells = [["one process", f"{seconds['one']:.2f}", "1"]]
    for name in ("fresh", "stale"):
        ratio = seconds[name] / seconds["one"]
        cells.append([f"two processes, {name} halos", f"{seconds[name]:.2f}", f"{ratio:.2f}"])
    return markdown_table(["one forward pass", "seconds", "of one process's"], cells)


if __name__ == "__main__":
    main()
