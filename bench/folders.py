"""A folder of photographs solved one by one and in batches: images per second of the processor, and how far the answers are apart.

    python bench/folders.py --out docs/tables/folders

Sixteen squares of the shipped photographs, solved by the whole of `inverse solve` (reading, measuring, metrics, PNG and HDF5) with photo-64 on one
thread. Either way is timed in turn, after one warm-up; a figure is the median of the repeats, a ratio is within one turn.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from inverse.command.request import Request
from inverse.command.solve import run
from inverse.engine import versions
from inverse.io.files import write_text
from inverse.io.images import read_image, write_png
from inverse.problem import shipped_images
from inverse.result import Result


def squares(folder: Path, side: int, count: int) -> None:
    """`count` squares, from each photograph in turn, as PNG."""
    photographs = [read_image(path).pixels for path in shipped_images()]
    for i in range(count):
        image, place = photographs[i % len(photographs)], i // len(photographs)
        per_row = image.shape[-1] // side
        top, left = (side * n for n in divmod(place % per_row**2, per_row))
        write_png(folder / f"{i:02d}.png", image[:, top : top + side, left : left + side])


def seconds(folder: Path, out: Path, method: str, steps: int, batch: int | None) -> float:
    """Of the processor, for the whole command without the start of Python."""
    request = Request(
        "deblur",
        method,
        input=[folder],
        steps=steps,
        prior="photo-64",
        out=out,
        batch=batch,
    )
    start = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        run(request)
    return time.process_time() - start


def compared(folder: Path, method: str, steps: int, repeats: int) -> dict[str, float]:
    """One by one against batches."""
    count = len(list(folder.iterdir()))
    with tempfile.TemporaryDirectory() as place:
        alone, together = Path(place, "alone"), Path(place, "together")
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="*", default=["red-diff", "diffpir"])
    parser.add_argument("--sides", nargs="*", type=int, default=[32, 64, 128])
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/folders"),
        help="without a suffix: .md and .json are written",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    lines = [
        "| side | method | batch | images/s, one by one | in batches | ratio | largest difference of a sample |",
        "|---|---|---|---|---|---|---|",
    ]
    for side in arguments.sides:
        with tempfile.TemporaryDirectory() as place:
            squares(Path(place), side, arguments.count)
            for method in arguments.methods:
                found = compared(Path(place), method, arguments.steps, arguments.repeats)
                rows.append({"side": side, "method": method, "steps": arguments.steps, **found})
                speed = f"{found['alone']:.2f} | {found['together']:.2f} | {found['ratio']:.2f}"
                lines.append(
                    f"| {side} | {method} | {found['batch']} | {speed} | {found['difference']:.0e} |"
                )
                print(lines[-1], flush=True)
    write_text(arguments.out.with_suffix(".md"), "\n".join(lines) + "\n")
    write_text(
        arguments.out.with_suffix(".json"),
        json.dumps({"rows": rows, "versions": versions(), "threads": 1}, indent=1) + "\n",
    )


if __name__ == "__main__":
    main()
