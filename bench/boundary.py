"""What a fitted start gains on photographs that it was not chosen on. Writes a Markdown table and JSON records.

    python bench/boundary.py --images ../shared/data/bsds500/test --out docs/boundary

Every table is compared with starts drawn at random, on the same photographs with the same noise; the photographs are those of the
folder whose hashes come next after the references', of which none is among them. Run again, it measures only what is missing.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import asdict
from pathlib import Path

import torch

import inverse
from inverse.arena.statistics import estimate
from inverse.boundary import anova, candidate, endpoints, load_table, shipped_tables
from inverse.boundary_run import Fit, loss_by, references, sha256

METRICS = ("haarpsi", "psnr")
RANDOM_SEED = 1000  # no table's


def measure(name: str, images: Path, count: int, random: int, size: int) -> dict:
    """Losses of the fitted start (first row) and of random ones on held-out photographs, per metric (1 + random, count)."""
    table = load_table(name)
    about, problem = table.about, inverse.get_problem(table.problem["name"], **table.problem["options"])
    method = inverse.get_method(table.method["name"], **table.method["options"])
    prior, used = inverse.load_prior(table.prior["name"]), set(about["references_sha256"])
    ordered = references(problem, [images], Fit(references=about["references"] + count, size=size), prior)
    truths = [truth for truth in ordered if sha256(truth) not in used][:count]
    shape = tuple(truths[0].shape)
    starts = torch.stack([inverse.boundary.sized(table.x, shape), *(candidate(RANDOM_SEED, k, shape) for k in range(random))])
    losses: dict[str, list] = {metric: [] for metric in METRICS}
    execution = inverse.Execution(autocast="bf16" if about["dtype"] == "bf16" else None)
    for i, truth in enumerate(truths):
        posterior = problem.posterior(truth, prior=prior, seed=1, first_image=i, execution=execution)
        answers = endpoints(method, posterior, starts)[0]
        for metric in METRICS:
            losses[metric].append([loss_by(metric)(x, truth) for x in answers])
    energy = float(table.x.square().mean())
    return {"table": name, "problem": table.problem, "method": table.method, "about": about, "energy": energy, "size": size, "losses": losses}


def summary(record: dict) -> dict:
    """Paired gain over the mean of the random starts, with its interval over photographs, and what was to be expected."""
    found = {}
    for metric in METRICS:
        losses = torch.tensor(record["losses"][metric], dtype=torch.float64).T
        gains = losses[1:].mean(0) - losses[0]
        variances = anova(losses[1:])
        about = record["about"]
        found[metric] = {
            "random": -float(losses[1:].mean()),
            "gain": asdict(estimate(gains.tolist())),
            "between": variances.between,
            "within": variances.within,
            "expected": variances.gain(about["candidates"], about["references"]),
            "better_than": int((losses[0].mean() < losses[1:].mean(1)).sum()),
            "of": len(losses) - 1,
        }
    return found


def markdown(records: list[dict]) -> str:
    head = ["problem", "steps", "random HaarPSI", "b", "w", "expected gain", "gain", "random PSNR (dB)", "gain (dB)", "better than", "energy"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for record in sorted(records, key=lambda r: (r["problem"]["options"]["factor"], r["method"]["options"]["steps"], r["size"])):
        haar, psnr = (summary(record)[metric] for metric in METRICS)
        cells = [
            f"x{record['problem']['options']['factor']}" + ("" if record["size"] == 64 else f" at {record['size']}"),
            str(record["method"]["options"]["steps"]),
            f"{haar['random']:.4f}",
            f"{haar['between']:.4f}",
            f"{haar['within']:.4f}",
            f"{haar['expected']:+.4f}",
            _interval(haar["gain"], 4),
            f"{psnr['random']:.2f}",
            _interval(psnr["gain"], 2),
            f"{haar['better_than']} of {haar['of']}",
            f"{record['energy']:.3f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _interval(gain: dict, digits: int) -> str:
    return f"{gain['mean']:+.{digits}f} [{gain['low']:+.{digits}f}, {gain['high']:+.{digits}f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder that holds the references and more")
    parser.add_argument("--tables", nargs="*", default=list(shipped_tables()), help="names of shipped tables, or files")
    parser.add_argument("--count", type=int, default=12, help="held-out photographs")
    parser.add_argument("--random", type=int, default=8, help="random starts")
    parser.add_argument("--size", type=int, default=64, help="side of the crops (pixels)")
    parser.add_argument("--out", type=Path, default=Path("docs/boundary"), help="records in OUT.json")
    arguments = parser.parse_args()
    file = arguments.out.with_suffix(".json")
    records = json.loads(file.read_text()) if file.exists() else []
    for name in arguments.tables:
        if not any((r["table"], r["size"]) == (Path(name).stem.removeprefix("boundary-"), arguments.size) for r in records):
            record = measure(name, arguments.images, arguments.count, arguments.random, arguments.size)
            records.append({**record, "table": Path(name).stem.removeprefix("boundary-")})
            file.write_text(json.dumps(records, indent=1) + "\n")
    print(markdown(records))
    chosen = [summary(r)["haarpsi"]["gain"]["mean"] for r in records]
    print(f"mean gain over {len(records)} tables: {statistics.fmean(chosen):+.4f} HaarPSI")


if __name__ == "__main__":
    main()
