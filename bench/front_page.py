"""Write the table of the README from the records of docs/photo.md.

    python bench/photo_restoration.py --images "$INVERSE_DATA/bsds500/test" --count 10 \
        --size 128 --out docs/photo
    python bench/front_page.py

Each method has its own settings. The interval is Student's over the photographs.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from options import new_parser
from output import insert_tables, markdown_table
from scipy.stats import t

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "results" / "photo.json"


def table() -> str:
    """Mean PSNR with the half-width of its 95 % interval, evaluations + VJPs, and seconds.

    Methods are ordered by their mean PSNR over the problems; the best of each problem is in bold.
    """
    problems = json.loads(RECORDS.read_text())["records"]
    labels, methods = list(problems), list(next(iter(problems.values())))

    def mean(label: str, method: str, *columns: str) -> float:
        return statistics.fmean(sum(r[c] for c in columns) for r in problems[label][method])

    def over_problems(method: str, *columns: str) -> float:
        return statistics.fmean(mean(label, method, *columns) for label in labels)

    best = {label: max(mean(label, method, "psnr") for method in methods) for label in labels}

    def cell(label: str, method: str) -> str:
        values = [record["psnr"] for record in problems[label][method]]
        half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
        found = mean(label, method, "psnr")
        shown = f"{found:.1f} ± {half:.1f}"
        return f"**{shown}**" if found == best[label] else shown

    rows = [
        [
            f"`{method}`",
            *(cell(label, method) for label in labels),
            f"{over_problems(method, 'nfe', 'vjp'):.0f}",
            f"{over_problems(method, 'seconds'):.1f}",
        ]
        for method in sorted(methods, key=lambda method: -over_problems(method, "psnr"))
    ]
    return markdown_table(["PSNR (dB)", *labels, "calls", "seconds"], rows)


def main() -> None:
    new_parser(__doc__).parse_args()
    insert_tables(ROOT / "README.md", table())


if __name__ == "__main__":
    main()
