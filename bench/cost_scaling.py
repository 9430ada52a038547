"""Measure time and memory against image side, batch, samples and particles; plot them.

    python bench/cost_scaling.py --out results/tables/scaling

Times are processor times, the least of two runs. Memory is the peak size of the tensors that a call
allocates. Rows already in OUT.json are not measured again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from options import new_parser
from output import markdown_table, write_json
from timing import least_seconds

import inverse
from inverse.io.files import write_text
from inverse.priors.evaluation.memory import peak_bytes


def cost(call: Callable[[], Any]) -> dict[str, float]:
    """Seconds and, from a further call, peak memory (MiB)."""
    return {"seconds": least_seconds(call, 2), "mib": peak_bytes(call) / 2**20}


def evaluations(
    side: int, batch: int, prior: inverse.Prior, vjp: bool
) -> dict[str, dict[str, float]]:
    """Costs of a forward pass, of a forward pass and VJP, and of an exact linear solve."""
    truths = torch.rand(batch, 3, side, side, generator=inverse.seeded("scaling"))
    posterior = inverse.get_problem("deblur").posterior(truths, prior=prior)
    x = torch.zeros(batch, 3, side, side)
    costs = {"forward": cost(lambda: posterior.denoise(x, 0.5))}
    if vjp:
        costs["forward and VJP"] = cost(lambda: posterior.tweedie(x, 0.5)[1](x))
    posterior.prox(x, 0.25)  # builds what later calls reuse
    return costs | {"solve": cost(lambda: posterior.prox(x, 0.25))}


def solve_cost(samples: int, method: inverse.Method, prior: inverse.Prior) -> dict[str, float]:
    """Cost of solving one image of 32 pixels."""
    truth = inverse.get_problem("deblur").truths()[0][:, 112:144, 112:144]
    posterior = inverse.get_problem("deblur").posterior(truth, prior=prior)
    return cost(lambda: inverse.solve(posterior, method, samples=samples))


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot seconds and MiB against each axis on logarithmic scales."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    axes_of = list(dict.fromkeys(row["axis"] for row in rows))
    figure, panels = pyplot.subplots(
        2, len(axes_of), figsize=(3.2 * len(axes_of), 5.5), layout="constrained"
    )
    for column, axis in enumerate(axes_of):
        for panel, quantity in zip(panels[:, column], ("seconds", "mib"), strict=True):
            for what in dict.fromkeys(row["what"] for row in rows if row["axis"] == axis):
                chosen = [row for row in rows if (row["axis"], row["what"]) == (axis, what)]
                x, y = [row["at"] for row in chosen], [row[quantity] for row in chosen]
                panel.loglog(x, y, "o-", label=what, base=2)
            panel.set(xlabel=axis, ylabel={"seconds": "seconds", "mib": "MiB"}[quantity])
        panels[0, column].legend(fontsize=7)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument(
        "--sides",
        type=int,
        nargs="*",
        default=[64, 128, 256, 512, 1024, 2048],
        help="image sides (pixels)",
    )
    parser.add_argument(
        "--vjp-up-to", type=int, default=512, help="largest side for which to measure the VJP"
    )
    parser.add_argument(
        "--batches",
        type=int,
        nargs="*",
        default=[1, 2, 4, 8, 16],
        help="numbers of images, samples and particles",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="stem of the .md and .json to write; the figure is written to images/ beside them",
    )
    arguments = parser.parse_args()

    prior = inverse.load_prior("photo-64")
    record = arguments.out.with_suffix(".json") if arguments.out else None
    rows = json.loads(record.read_text())["rows"] if record and record.exists() else []
    diffpir = inverse.get_method("diffpir", steps=3)
    tasks = [
        ("batch (48 pixels)", n, lambda n=n: evaluations(48, n, prior, True))
        for n in arguments.batches
    ]
    tasks += [
        ("samples (32 pixels)", n, lambda n=n: {"DiffPIR, 3 steps": solve_cost(n, diffpir, prior)})
        for n in arguments.batches
    ]
    afdps = {
        n: inverse.get_method("afdps", steps=3, particles=n) for n in arguments.batches if n > 1
    }
    tasks += [
        (
            "particles (32 pixels)",
            n,
            lambda method=method: {"AFDPS, 3 steps": solve_cost(1, method, prior)},
        )
        for n, method in afdps.items()
    ]
    tasks += [
        ("side (pixels)", n, lambda n=n: evaluations(n, 1, prior, n <= arguments.vjp_up_to))
        for n in arguments.sides
    ]
    for axis, at, task in tasks:
        if any(place(row) == (axis, at) for row in rows):
            continue
        rows += [{"axis": axis, "at": at, "what": what, **costs} for what, costs in task().items()]
        print(rows[-1], flush=True)
        if record:
            about = {"torch": torch.__version__, "threads": torch.get_num_threads(), "clock": "cpu"}
            write_json(record, {"about": about, "rows": rows})
    order = [task[:2] for task in tasks]
    rows.sort(key=lambda row: [*order, place(row)].index(place(row)))
    if arguments.out:
        write_text(arguments.out.with_suffix(".md"), table(rows) + "\n")
        plot(rows, arguments.out.parent / "images" / f"{arguments.out.name}.png")


def place(row: dict[str, Any]) -> tuple[str, int]:
    """The axis of a row and its position there."""
    return row["axis"], row["at"]


def table(rows: list[dict[str, Any]]) -> str:
    cells = [
        [
            row["axis"],
            str(row["at"]),
            row["what"],
            f"{row['seconds']:.3g}",
            f"{row['mib']:.3g}",
        ]
        for row in rows
    ]
    return markdown_table(["against", "at", "what", "seconds", "MiB"], cells)


if __name__ == "__main__":
    main()
