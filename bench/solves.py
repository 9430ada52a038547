"""Exact solves (s^2 A A^T + sigma_y^2 I)^-1 of `deblur`: iterations and time with and without what `inverse/measurement/solves.py` adds.

    python bench/solves.py --size 128 --out docs/tables/solves

Plain is deepinv's `Blur`, which makes the kernel's spectrum at every call, under conjugate gradients alone; ours is the operator of `deblur`. Both
to a relative residual of 1e-5 in float32, at most 300 iterations. Seconds are the processor's, least of three.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

import inverse
from inverse.io.files import write_text

KERNELS = {
    "Gaussian, reflect": {},
    "disk, reflect": {"kernel": "defocus", "width": 3.0},
    "camera shake, valid": {"kernel": "motion", "boundary": "valid"},
    "camera shake, reflect": {"kernel": "motion"},
}
SIGNALS = (0.1, 1.0, 5.0)
SOLVER = inverse.CG(1e-5, 300)


def least(call: Callable[[], object]) -> float:
    times = []
    for _ in range(3):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def measure(posterior: inverse.Posterior, s: float) -> dict[str, float]:
    """Iterations, milliseconds and relative residual of one solve."""
    v = posterior.residual(torch.zeros(1, *posterior.shape))
    posterior.solve_normal(v, s * s, settings=SOLVER)  # what is made once
    posterior.cost.A_rows = 0
    u = posterior.solve_normal(v, s * s, settings=SOLVER)
    iterations = posterior.cost.A_rows
    zero = torch.zeros(1, *posterior.shape)
    left = (
        v
        - s * s * (posterior.A(posterior.A_adjoint(u)) - posterior.A(zero))
        - posterior.sigma_y**2 * u
    )
    return {
        "iterations": iterations,
        "ms": 1e3 * least(lambda: posterior.solve_normal(v, s * s, settings=SOLVER)),
        "residual": float(left.norm() / v.norm()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--out", type=Path, help="stem of the .md and .json to write")
    arguments = parser.parse_args()

    prior, rows = inverse.FlatPrior((3, None, None), shift=0.5, scale=0.5), []
    for name, options in KERNELS.items():
        problem = inverse.get_problem("deblur", **options)
        top = (256 - arguments.size) // 2
        ours = problem.posterior(
            problem.truths()[0][:, top : top + arguments.size, top : top + arguments.size],
            prior=prior,
        )
        padding = str(options.get("boundary", "reflect"))
        plain = inverse.Posterior(
            prior,
            inverse.physics.Blur(problem.filter(), padding, use_fft=True),
            ours.y,
            ours.noise,
            shape=ours.shape,
        )
        plain.__dict__["_spectrum"] = None
        for s in SIGNALS:
            rows.append(
                {"kernel": name, "s": s, "plain": measure(plain, s), "ours": measure(ours, s)}
            )
            print(rows[-1], flush=True)
    lines = [
        "| kernel, boundary | s | iterations, plain | ours | ms, plain | ours | residual, plain | ours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        pair = [(r["plain"][key], r["ours"][key]) for key in ("iterations", "ms", "residual")]
        counts, times, left = pair
        closed = "closed form" if counts[1] == 0 else counts[1]
        lines.append(
            f"| {r['kernel']} | {r['s']} | {counts[0]} | {closed} | {times[0]:.1f} | {times[1]:.1f} | {left[0]:.0e} | {left[1]:.0e} |"
        )
    print("\n".join(lines))
    if arguments.out:
        write_text(
            arguments.out.with_suffix(".json"),
            json.dumps({"size": arguments.size, "torch": torch.__version__, "rows": rows}, indent=1)
            + "\n",
        )
        write_text(arguments.out.with_suffix(".md"), "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
