"""One photograph on two processes: what stale halos cost in accuracy, and what dividing the network saves in time.

    torchrun --standalone --nproc-per-node 2 bench/patches.py --images ../shared/data/bsds500/test --size 128 --out docs/tables/patches

Errors: root mean square difference of the answer from that of one process, intensities, and the PSNR of both. Seconds: of one forward pass of an
image of twice the side, the least of five, first on one process while the other waits, then divide_among_ranks.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from photo import photographs

import inverse
from inverse.priors.evaluation.patches import divide_among_ranks, process_group

CASES = {
    "diffpir, 20 steps": {"steps": 20},
    "ddrm, 20 steps": {"steps": 20},
    "ddrm, 60 steps": {"steps": 60},
    "red-diff, 20 steps": {"steps": 20},
}


def least(call: Callable[[], object], times: int = 5) -> float:
    found = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--prior", default="photo-64")
    parser.add_argument(
        "--out", type=Path, required=True, help="stem of the .md and .json to write"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    with process_group("cpu") as (_, first):
        truth = photographs(arguments.images, 1, arguments.size)[0]
        priors = {
            "one": inverse.load_prior(arguments.prior),
            "fresh": divide_among_ranks(inverse.load_prior(arguments.prior), "fresh"),
        }
        priors["stale"] = divide_among_ranks(inverse.load_prior(arguments.prior), "stale")
        x, sigma = (
            torch.randn(
                1, 3, 2 * arguments.size, 2 * arguments.size, generator=inverse.seeded("time")
            ),
            torch.tensor(0.3),
        )
        seconds = {}
        for name, prior in priors.items():
            with torch.no_grad():
                if name == "one" and not first:
                    dist.barrier()
                    continue
                seconds[name] = least(lambda prior=prior: prior(x, sigma))
                if name == "one":
                    dist.barrier()
        rows = []
        for label, options in CASES.items():
            method = inverse.get_method(label.split(",")[0], **options)
            problem = inverse.get_problem("super-resolution", factor=4)
            mine = [name for name in priors if first or name != "one"]
            results = {
                name: inverse.solve(problem.posterior(truth, prior=priors[name]), method)
                for name in mine
            }
            if not first:
                continue
            alone = results["one"].mean
            row = {
                name: (
                    float((r.mean - alone).square().mean().sqrt()),
                    float(-10 * (r.mean - truth).square().mean().log10()),
                )
                for name, r in results.items()
            }
            rows.append((label, row))
    if not first:
        return
    lines = [
        "| super-resolution x4 | fresh: difference | stale: difference | PSNR alone (dB) | PSNR stale (dB) |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {label} | {r['fresh'][0]:.1e} | {r['stale'][0]:.1e} | {r['one'][1]:.2f} | {r['stale'][1]:.2f} |"
        for label, r in rows
    ]
    ratios = {name: seconds[name] / seconds["one"] for name in ("fresh", "stale")}
    lines += [
        "",
        "| one forward pass | seconds | of one process's |",
        "|---|---|---|",
        f"| one process | {seconds['one']:.2f} | 1 |",
    ]
    lines += [
        f"| two processes, {name} halos | {seconds[name]:.2f} | {ratio:.2f} |"
        for name, ratio in ratios.items()
    ]
    arguments.out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    about = {"image": arguments.size, "prior": arguments.prior, "torch": torch.__version__}
    arguments.out.with_suffix(".json").write_text(
        json.dumps({"about": about, "rows": rows, "seconds": seconds}, indent=1) + "\n"
    )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
