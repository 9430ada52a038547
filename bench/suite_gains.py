r"""Write the gains in PSNR of a suite's methods over its best baseline, paired over the slices.

    inverse bench run mri-lines --out results/records/mri-lines
    python bench/suite_gains.py mri-lines --baselines zero-filled,tv,l1-wavelet

The baseline is the one with the highest mean PSNR for each problem. Intervals are 95 %, Student t;
with few slices only large gains exceed them.
"""

from __future__ import annotations

import math
import statistics
from pathlib import Path

from options import new_parser
from output import markdown_table
from scipy.stats import t

from inverse.arena.groups import grouped
from inverse.arena.labels import contestant_labels, setting_labels
from inverse.arena.record import read_records
from inverse.io.files import write_text

ROOT = Path(__file__).parents[1]


def interval(values: list[float]) -> str:
    """Mean and half the width of its 95 % interval."""
    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.fmean(values):+.2f} ± {half:.2f}"


def table(suite: str, baselines: list[str]) -> str:
    """A row for each problem and method that is no baseline."""
    groups = [
        g for g in grouped(read_records(ROOT / "results" / "records" / suite)) if g.by_truth("psnr")
    ]
    settings = list(dict.fromkeys(g.setting for g in groups))
    contestants = list(dict.fromkeys(g.contestant for g in groups))
    names = dict(zip(contestants, contestant_labels(contestants), strict=True))
    rows = []
    for setting, label in zip(settings, setting_labels(settings), strict=True):
        psnr = {names[g.contestant]: g.by_truth("psnr") for g in groups if g.setting == setting}
        known = {n: p for n, p in psnr.items() if n.split()[0] in baselines}
        best = max(known, key=lambda n: statistics.fmean(known[n].values()))
        base = f"{best}: {statistics.fmean(known[best].values()):.2f}"
        for name, scores in psnr.items():
            if name in known:
                continue
            gains = [scores[i] - known[best][i] for i in scores]
            mean = f"{statistics.fmean(scores.values()):.2f}"
            rows.append([label, base, name, mean, interval(gains), str(len(gains))])
    heads = ["problem", "best baseline (dB)", "method", "PSNR (dB)", "gain (dB)", "slices"]
    return markdown_table(heads, rows)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("suite", help="name of a folder in results/records")
    parser.add_argument("--baselines", required=True, help="names, separated by commas")
    arguments = parser.parse_args()
    text = table(arguments.suite, arguments.baselines.split(","))
    write_text(ROOT / "results" / "tables" / f"{arguments.suite}-gains.md", text + "\n")
    print(text)


if __name__ == "__main__":
    main()
