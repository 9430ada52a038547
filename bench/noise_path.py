"""Draw where methods leave the exact path: the distance to the posterior at every noise level.

    python bench/noise_path.py --write docs/images/noise-path

For each method and photographic case, the iterates at noise level sigma are compared with the
exact law of x0 + sigma n given y (`inverse verify METHOD` prints the largest distance). Prints the
distances; with --write, the script draws them and writes results/noise-path.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from options import new_parser
from output import command_line, write_json

from inverse.checks.exact_cases import all_cases, reference
from inverse.checks.trials import measure
from inverse.registry.discovery import get_method

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
    parser.add_argument("--samples", type=int, default=100, help="samples on each case")
    parser.add_argument("--write", type=Path, help="picture (without .png) to draw")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cases = [case.name for case in all_cases() if case.photographic and case.gaussian]
    cases = [name for name in cases if not name.startswith("64")]
    paths = {
        method: {
            case: measure(get_method(method), reference(case, arguments.samples)).path
            for case in cases
        }
        for method in arguments.methods
    }
    for method, found in paths.items():
        for case, line in found.items():
            print(method, case, {f"{s:.2g}": round(d, 2) for s, d in line.items()}, flush=True)
    if arguments.write:
        floor = (1.5 / arguments.samples) ** 0.5
        draw(paths, floor, arguments.write.with_suffix(".png"))
        record = {"command": command_line(), "floor": floor, "paths": paths}
        write_json(Path("results") / f"{arguments.write.name}.json", record)


if __name__ == "__main__":
    main()
