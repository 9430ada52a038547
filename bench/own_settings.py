r"""Compare methods on photographs, each at its own settings instead of under one budget.

    python bench/own_settings.py --images "$INVERSE_DATA/bsds500/test" --records own.jsonl \
        --write docs/own-settings

The tables show one sample of each photograph and, with --samples of 2 or more, the mean of the
samples: a sample from the posterior has up to 3 dB less than its mean, the least-squares estimate.
The mean of infinitely many is extrapolated: its squared error is (n e_n - e_1) / (n - 1), where e_n
is that of the mean of n.
Finished runs are stored in --records, one per line, and not repeated.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
from images import photographs, psnr
from ledger import Ledger
from options import add_images, new_parser
from output import command_line, in_results, insert_tables, markdown_table, write_json

import inverse
from inverse.registry.discovery import with_settings

PROBLEMS = {
    "motion deblur": ("deblur", {"kernel": "motion"}),
    "circular deblur": ("deblur", {"boundary": "circular"}),
    "super-resolution x4": ("super-resolution", {"factor": 4}),
    "box inpainting": ("inpainting", {"mask": "box"}),
    "random inpainting": ("inpainting", {"mask": "random"}),
}
METHODS = ("tv", "diffpir", "dpir", "ddrm", "ddnm", "ddnm-plus", "dps", "lgd", "tmpd", "langevin")
METHODS += ("repaint", "daps", "pnp-dm", "sitcom")
"""Methods, with settings after a colon: pnp-dm:rho_min=0.3,steps=50."""


def score(
    problem: inverse.Problem,
    method: inverse.Method,
    truths: torch.Tensor,
    prior: inverse.Prior,
    samples: int,
    bf16: bool,
) -> dict:
    """PSNR of a sample of each photograph and of the mean of its samples, and the cost of one.

    If the method cannot run, the reason.
    """
    start = time.process_time()
    execution = inverse.Execution(autocast="bf16" if bf16 else None)
    posterior = problem.posterior(truths, prior=prior, execution=execution)
    if method.claim == "point estimate":
        samples = 1
    try:
        result = inverse.solve(posterior, method, samples=samples)
    except inverse.InverseError as error:
        return {"skipped": str(error)}
    draws = result.samples.clamp(0, 1)
    return {
        "psnr": psnr(draws[:, 0], result.truth).tolist(),
        "mean": psnr(draws.mean(1), result.truth).tolist(),
        "samples": samples,
        "nfe": result.cost.nfe,
        "vjp": result.cost.vjp,
        "misfit": float(result.misfit.mean()),
        "seconds": (time.process_time() - start) / len(truths),
    }


def limit(row: dict) -> float | None:
    """PSNR of the mean of infinitely many samples, if the row has several.

    The mean over photographs of e_n / e_1 is extrapolated, since photographs differ.
    """
    n = row.get("samples", 1)
    if n == 1:
        return None
    pairs = list(zip(row["psnr"], row["mean"], strict=True))
    ratio = sum(10 ** ((one - mean) / 10) for one, mean in pairs) / len(pairs)
    one = sum(row["psnr"]) / len(pairs)
    return one - 10 * math.log10(max((n * ratio - 1) / (n - 1), 1e-9))


def limit_cell(row: dict, best: dict) -> str:
    """The limit, and its difference to total variation."""
    if (found := limit(row)) is None:
        return "-"
    return f"{found:.2f} ({found - sum(best['psnr']) / len(best['psnr']):+.2f})"


def cell(row: dict, best: dict, kind: str = "psnr") -> str:
    """Mean PSNR, and its difference to total variation with the standard error of that."""
    if kind not in row:
        return "-"
    values = torch.tensor(row[kind], dtype=torch.float64)
    base = torch.tensor(best["psnr"], dtype=torch.float64)
    difference = values - base
    error = float(difference.std()) / math.sqrt(len(difference))
    return f"{values.mean():.2f} ({difference.mean():+.2f} ± {error:.2f})"


def table(results: dict[str, dict[str, dict]]) -> str:
    """Methods by their mean difference to total variation; calls are evaluations + VJPs."""
    methods = list(dict.fromkeys(name for rows in results.values() for name in rows))

    def gain(name: str) -> float:
        gains = [
            sum(rows[name]["psnr"]) / len(rows[name]["psnr"])
            - sum(rows["tv"]["psnr"]) / len(rows["tv"]["psnr"])
            for rows in results.values()
            if "psnr" in rows.get(name, {})
        ]
        return sum(gains) / len(gains) if gains else -math.inf

    lines = []
    for name in sorted(methods, key=gain, reverse=True):
        rows = [problems.get(name, {"skipped": ""}) for problems in results.values()]
        costs = [f"{row['nfe']:.0f} + {row['vjp']:.0f}" for row in rows if "nfe" in row]
        best = [problems["tv"] for problems in results.values()]
        pairs = list(zip(rows, best, strict=True))
        lines.append([f"`{name}`", *(cell(*pair) for pair in pairs), costs[0] if costs else "-"])
        if any(limit(row) is not None for row in rows):
            cells = [cell(*pair, "mean") for pair in pairs]
            lines.append([f"`{name}`, mean of its samples", *cells, ""])
            cells = [limit_cell(*pair) for pair in pairs]
            lines.append([f"`{name}`, mean of many, extrapolated", *cells, ""])
    return markdown_table(["method", *results, "calls"], lines)


def main() -> None:
    parser = new_parser(__doc__)
    add_images(parser, count=3, size=64, text="folder of photographs")
    parser.add_argument("--prior", default="photo-64")
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--problems", nargs="*", default=list(PROBLEMS), choices=PROBLEMS)
    parser.add_argument("--sigma-y", type=float, default=0.02)
    parser.add_argument("--samples", type=int, default=1, help="samples of each photograph")
    parser.add_argument(
        "--single", nargs="*", default=[], help="further methods, one sample of each photograph"
    )
    parser.add_argument("--bf16", action="store_true", help="run the prior in bf16")
    parser.add_argument("--every", type=int, default=1, help="take every n-th photograph")
    parser.add_argument("--records", help="file of finished runs, to read and to append to")
    parser.add_argument("--write", help="page (without .md) into which to insert the table")
    arguments = parser.parse_args()

    ledger, prior = Ledger(arguments.records), inverse.load_prior(arguments.prior)
    every = arguments.every
    truths = torch.stack(photographs(arguments.images, arguments.count * every, arguments.size))
    truths = truths[::every]
    results: dict[str, dict[str, dict]] = {}
    for name in dict.fromkeys(("tv", *arguments.methods, *arguments.single)):
        samples = 1 if name in arguments.single else arguments.samples
        for label in arguments.problems:
            kind, settings = PROBLEMS[label]
            problem = inverse.get_problem(kind, sigma_y=arguments.sigma_y, **settings)
            key = f"{label} {name} {len(truths)} {arguments.size} {every} {arguments.sigma_y}"
            key += f" {samples}" if samples > 1 else ""
            row = ledger.get(
                key,
                lambda p=problem, n=name, s=samples: score(
                    p, with_settings(n), truths, prior, s, arguments.bf16
                ),
            )
            results.setdefault(label, {})[name] = row
            print(label, name, row, flush=True)
    text = f"`{command_line()}`\n\n{table(results)}\n"
    print(text)
    if arguments.write:
        insert_tables(Path(f"{arguments.write}.md"), text)
        record = {"command": command_line(), "results": results}
        write_json(in_results(Path(f"{arguments.write}.json")), record)


if __name__ == "__main__":
    main()
