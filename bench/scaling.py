"""Time and memory against image side, batch, samples and particles: a table and a figure.

    python bench/scaling.py --out docs/tables/scaling        # what the record has is kept

Seconds are the processor's, least of two runs; memory is the most that tensors made in a call held at once.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import inverse
from inverse.io.files import write_text
from inverse.priors.evaluation.memory import peak_bytes


def cost(call: Callable[[], Any]) -> dict[str, float]:
    """Seconds without the watch on memory."""
    seconds = []
    for _ in range(2):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return {"seconds": min(seconds), "mib": peak_bytes(call) / 2**20}


def evaluations(
    side: int, batch: int, prior: inverse.Prior, vjp: bool
) -> dict[str, dict[str, float]]:
    """A forward of the prior, its forward and VJP, and an exact solve with the operator."""
    problem = inverse.get_problem("deblur")
    posterior = problem.posterior(
        torch.rand(batch, 3, side, side, generator=inverse.seeded("scaling")), prior=prior
    )
    x = torch.zeros(batch, 3, side, side)
    found = {"forward": cost(lambda: posterior.denoise(x, 0.5))}
    if vjp:
        found["forward and VJP"] = cost(lambda: posterior.tweedie(x, 0.5)[1](x))
    posterior.prox(x, 0.25)  # what is made once
    return found | {"solve": cost(lambda: posterior.prox(x, 0.25))}


def solves(samples: int, method: inverse.Method, prior: inverse.Prior) -> dict[str, float]:
    truth = inverse.get_problem("deblur").truths()[0][:, 112:144, 112:144]
    posterior = inverse.get_problem("deblur").posterior(truth, prior=prior)
    return cost(lambda: inverse.solve(posterior, method, samples=samples))


def figure(rows: list[dict[str, Any]], path: Path) -> None:
    """Seconds and MiB against each axis, logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    axes_of = list(dict.fromkeys(row["axis"] for row in rows))
    shown, panels = pyplot.subplots(
        2, len(axes_of), figsize=(3.2 * len(axes_of), 5.5), layout="constrained"
    )
    for column, axis in enumerate(axes_of):
        for panel, quantity in zip(panels[:, column], ("seconds", "mib"), strict=True):
            for what in dict.fromkeys(row["what"] for row in rows if row["axis"] == axis):
                chosen = [row for row in rows if (row["axis"], row["what"]) == (axis, what)]
                panel.loglog(
                    [row["at"] for row in chosen],
                    [row[quantity] for row in chosen],
                    "o-",
                    label=what,
                    base=2,
                )
            panel.set(xlabel=axis, ylabel={"seconds": "seconds", "mib": "MiB"}[quantity])
        panels[0, column].legend(fontsize=7)
    shown.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sides", type=int, nargs="*", default=[64, 128, 256, 512, 1024, 2048])
    parser.add_argument("--vjp-up-to", type=int, default=512, help="largest side of the VJP")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 2, 4, 8, 16])
    parser.add_argument(
        "--out",
        type=Path,
        help="stem of the .md and .json to write; the figure goes to images/ beside them",
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
        ("samples (32 pixels)", n, lambda n=n: {"DiffPIR, 3 steps": solves(n, diffpir, prior)})
        for n in arguments.batches
    ]
    afdps = {
        n: inverse.get_method("afdps", steps=3, particles=n) for n in arguments.batches if n > 1
    }
    tasks += [
        (
            "particles (32 pixels)",
            n,
            lambda method=method: {"AFDPS, 3 steps": solves(1, method, prior)},
        )
        for n, method in afdps.items()
    ]
    tasks += [
        ("side (pixels)", n, lambda n=n: evaluations(n, 1, prior, n <= arguments.vjp_up_to))
        for n in arguments.sides
    ]
    for axis, at, task in tasks:
        if any((row["axis"], row["at"]) == (axis, at) for row in rows):
            continue
        rows += [{"axis": axis, "at": at, "what": what, **found} for what, found in task().items()]
        print(rows[-1], flush=True)
        if record:
            about = {"torch": torch.__version__, "threads": torch.get_num_threads(), "clock": "cpu"}
            write_text(record, json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    rows.sort(
        key=lambda row: ([task[:2] for task in tasks] + [(row["axis"], row["at"])]).index(
            (row["axis"], row["at"])
        )
    )
    lines = ["| against | at | what | seconds | MiB |", "|---|---|---|---|---|"]
    lines += [
        f"| {r['axis']} | {r['at']} | {r['what']} | {r['seconds']:.3g} | {r['mib']:.3g} |"
        for r in rows
    ]
    if arguments.out:
        write_text(arguments.out.with_suffix(".md"), "\n".join(lines) + "\n")
        figure(rows, arguments.out.parent / "images" / f"{arguments.out.name}.png")


if __name__ == "__main__":
    main()
