"""Compare the linear solves of `deblur` with plain conjugate gradients.

    python bench/linear_solves.py --size 128 --out results/tables/solves

The solves apply (s^2 A A^T + sigma_y^2 I)^-1. "ours" is the operator of `deblur` with the solves
of `inverse/measurement/solves.py`. "plain" is deepinv's `Blur`, which computes the spectrum of
the kernel at every call, under conjugate gradients alone. Both stop at a relative residual of
1e-5 in float32 or after 300 iterations. Times are processor times, the least of three.
"""

from __future__ import annotations

from typing import Any

import torch
from images import centre_crop
from options import add_out, new_parser
from output import markdown_table, write_table
from timing import least_seconds

import inverse

KERNELS = {
    "Gaussian, reflect": {},
    "disk, reflect": {"kernel": "defocus", "width": 3.0},
    "camera shake, valid": {"kernel": "motion", "boundary": "valid"},
    "camera shake, reflect": {"kernel": "motion"},
}
SIGNALS = (0.1, 1.0, 5.0)
SOLVER = inverse.CG(1e-5, 300)


def measure(posterior: inverse.Posterior, s: float) -> dict[str, float]:
    """Iterations, milliseconds and relative residual of one solve."""
    v = posterior.residual(torch.zeros(1, *posterior.shape))
    posterior.solve_normal(v, s * s, settings=SOLVER)  # builds what later solves reuse
    posterior.cost.A_rows = 0
    u = posterior.solve_normal(v, s * s, settings=SOLVER)
    iterations = posterior.cost.A_rows
    zero = torch.zeros(1, *posterior.shape)
    normal_u = s * s * (posterior.A(posterior.A_adjoint(u)) - posterior.A(zero))
    remainder = v - normal_u - posterior.sigma_y**2 * u
    seconds = least_seconds(lambda: posterior.solve_normal(v, s * s, settings=SOLVER), 3)
    return {
        "iterations": iterations,
        "ms": 1e3 * seconds,
        "residual": float(remainder.norm() / v.norm()),
    }


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--size", type=int, default=128, help="side of the central crop (pixels)")
    add_out(parser)
    arguments = parser.parse_args()

    prior, rows = inverse.FlatPrior((3, None, None), shift=0.5, scale=0.5), []
    for name, options in KERNELS.items():
        problem = inverse.get_problem("deblur", **options)
        truth = centre_crop(problem.truths()[0], arguments.size)
        ours = problem.posterior(truth, prior=prior)
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
    print(table(rows))
    if arguments.out:
        record = {"size": arguments.size, "torch": torch.__version__, "rows": rows}
        write_table(arguments.out, table(rows), record)


def table(rows: list[dict[str, Any]]) -> str:
    heads = ["kernel, boundary", "s", "iterations, plain", "ours", "ms, plain", "ours"]
    heads += ["residual, plain", "ours"]
    cells = []
    for row in rows:
        plain, ours = row["plain"], row["ours"]
        cells.append(
            [
                row["kernel"],
                str(row["s"]),
                str(plain["iterations"]),
                str(ours["iterations"] or "closed form"),
                *(f"{side['ms']:.1f}" for side in (plain, ours)),
                *(f"{side['residual']:.0e}" for side in (plain, ours)),
            ]
        )
    return markdown_table(heads, cells)


if __name__ == "__main__":
    main()
