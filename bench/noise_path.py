"""Draw where methods leave the exact path: the distance to the posterior at every noise level.

    python bench/verify.py --write docs/verify
    python bench/noise_path.py --write docs/images/noise-path

`verify` compares the iterates of a method at noise level sigma with the exact law of x0 + sigma n
given y. This script draws the distances in results/verify.json for the photographic cases.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from options import new_parser

from inverse.checks.exact_cases import PHOTOGRAPHIC_SAMPLES, all_cases

METHODS = ("dps", "pigdm", "mmps", "diffpir", "daps", "smc-mmps")
COLOURS = ("#D55E00", "#E69F00", "#000000", "#56B4E9", "#009E73", "#CC79A7")


def draw(paths: dict[str, dict[str, dict[float, float]]], floor: float, path: Path) -> None:
    """A panel for each case, a line for each method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = list(next(iter(paths.values())))
    figure, axes = pyplot.subplots(
        1, len(cases), figsize=(11, 3.4), sharey=True, layout="constrained"
    )
    for axis, case in zip(axes, cases, strict=True):
        for (method, found), colour in zip(paths.items(), COLOURS, strict=False):
            line: Any = found[case]
            axis.plot(list(line), list(line.values()), color=colour, marker=".", label=method)
        axis.axhline(floor, color="grey", linestyle=":", label="exact draws")
        axis.set(xscale="log", title=case, xlabel="noise level sigma (model units)")
        axis.invert_xaxis()
    axes[0].set_ylabel("marginal W2 / spread")
    axes[-1].legend(fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--record", type=Path, default=Path("results/verify.json"))
    parser.add_argument("--write", type=Path, required=True, help="picture (without .png) to draw")
    arguments = parser.parse_args()
    chosen = [c for c in all_cases() if c.photographic and c.gaussian and not c.thorough]
    verdicts = {v["method"]: v for v in json.loads(arguments.record.read_text())}
    paths: dict[str, dict[str, dict[float, float]]] = {
        method: {
            case["case"]: {float(level): distance for level, distance in case["path"].items()}
            for case in verdicts[method]["cases"]
            if case["case"] in {c.name for c in chosen}
        }
        for method in arguments.methods
    }
    for method, found in paths.items():
        farthest = {case: round(max(line.values()), 2) for case, line in found.items()}
        print(method, farthest, flush=True)
    draw(paths, (1.5 / PHOTOGRAPHIC_SAMPLES) ** 0.5, arguments.write.with_suffix(".png"))


if __name__ == "__main__":
    main()
