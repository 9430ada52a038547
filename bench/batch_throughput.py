"""Compare solving a folder of photographs in batches with solving its images one by one.

    python bench/batch_throughput.py --out results/tables/folders

The table gives images per second of processor time and the largest difference of a sample. The
images are sixteen squares of the shipped photographs. Each run does all the work of
`inverse solve` (reading, measuring, metrics, PNG and HDF5) with photo-64 on one thread. The two
ways take turns after one warm-up; times are medians over repeats, and ratios are taken within one
turn.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from options import new_parser
from output import markdown_table, write_table
from timing import timed

from inverse.command.request import Request
from inverse.command.solve import run
from inverse.engine import versions
from inverse.io.images import read_image, write_png
from inverse.problem import shipped_images
from inverse.result import Result


def write_squares(folder: Path, side: int, count: int) -> None:
    """Write `count` squares, cut from each photograph in turn, as PNG files."""
    photographs = [read_image(path).pixels for path in shipped_images()]
    for i in range(count):
        image, index = photographs[i % len(photographs)], i // len(photographs)
        per_row = image.shape[-1] // side
        top, left = (side * n for n in divmod(index % per_row**2, per_row))
        write_png(folder / f"{i:02d}.png", image[:, top : top + side, left : left + side])


def seconds(folder: Path, out: Path, method: str, steps: int, batch: int | None) -> float:
    """Processor seconds of the whole command, without the start of Python."""
    request = Request(
        "deblur",
        method,
        input=[folder],
        steps=steps,
        prior="photo-64",
        out=out,
        batch=batch,
    )
    with contextlib.redirect_stdout(io.StringIO()):
        return timed(lambda: run(request))[1]


def compare(folder: Path, method: str, steps: int, repeats: int) -> dict[str, float]:
    """Images per second one by one and in batches, their ratio, and the largest difference."""
    count = len(list(folder.iterdir()))
    with tempfile.TemporaryDirectory() as scratch:
        alone, together = Path(scratch, "alone"), Path(scratch, "together")
        seconds(folder, together, method, 1, None)
        turns = [
            (
                seconds(folder, alone, method, steps, 1),
                seconds(folder, together, method, steps, None),
            )
            for _ in range(repeats)
        ]
        pairs = [
            [Result.load(out / path.stem / "result.h5") for out in (alone, together)]
            for path in sorted(folder.iterdir())
        ]
    return {
        "batch": pairs[0][1].provenance.get("batch", {}).get("images", 1),
        "alone": count / statistics.median(a for a, _ in turns),
        "together": count / statistics.median(b for _, b in turns),
        "ratio": statistics.median(a / b for a, b in turns),
        "difference": max(float((a.samples - b.samples).abs().max()) for a, b in pairs),
    }


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--methods", nargs="*", default=["red-diff", "diffpir"])
    parser.add_argument(
        "--sides", nargs="*", type=int, default=[32, 64, 128], help="sides of the squares (pixels)"
    )
    parser.add_argument("--count", type=int, default=16, help="squares")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/folders"),
        help="stem of the .md and .json to write",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for side in arguments.sides:
        with tempfile.TemporaryDirectory() as scratch:
            write_squares(Path(scratch), side, arguments.count)
            for method in arguments.methods:
                figures = compare(Path(scratch), method, arguments.steps, arguments.repeats)
                rows.append({"side": side, "method": method, "steps": arguments.steps, **figures})
                print(rows[-1], flush=True)
    record = {"rows": rows, "versions": versions(), "threads": 1}
    write_table(arguments.out, table(rows), record)


def table(rows: list[dict[str, Any]]) -> str:
    heads = ["side", "method", "batch", "images/s, one by one", "in batches", "ratio"]
    heads += ["largest difference of a sample"]
    cells = [
        [
            str(row["side"]),
            row["method"],
            str(row["batch"]),
            *(f"{row[key]:.2f}" for key in ("alone", "together", "ratio")),
            f"{row['difference']:.0e}",
        ]
        for row in rows
    ]
    return markdown_table(heads, cells)


if __name__ == "__main__":
    main()
