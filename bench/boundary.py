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
from inverse.arena.estimate import estimate
from inverse_plugins.optimal_bc.halving import anova, tail_mean
from inverse_plugins.optimal_bc.search import Fit, centre, loss_by, references, sha256
from inverse_plugins.optimal_bc.table import (
    Table,
    candidate,
    endpoints,
    load_table,
    shipped_tables,
    sized,
)

METRICS = ("haarpsi", "psnr")
RANDOM_SEED = 1000  # no table's


def held_out(table: Table, images: Path, count: int, size: int) -> list[torch.Tensor]:
    """Crops of the photographs that come after the references in the order of their hashes."""
    used = set(table.about["references_sha256"])
    ordered = references(
        problem_of(table),
        [images],
        Fit(references=len(used) + count, size=size),
        inverse.load_prior(table.prior["name"]),
    )
    return [truth for truth in ordered if sha256(centre(truth, table.about["size"])) not in used][
        :count
    ]


def problem_of(table: Table) -> inverse.Problem:
    return inverse.get_problem(table.problem["name"], **table.problem["options"])


def posterior_of(
    table: Table, truth: torch.Tensor, index: int, prior: inverse.Prior
) -> inverse.Posterior:
    execution = inverse.Execution(autocast="bf16" if table.about["dtype"] == "bf16" else None)
    return problem_of(table).posterior(
        truth, prior=prior, seed=1, first_image=index, execution=execution
    )


def measure(table: Table, truths: list[torch.Tensor], random: int) -> dict[str, list]:
    """Losses of the fitted start (first) and of random ones on held-out photographs, per metric (count, 1 + random)."""
    method, prior = (
        inverse.get_method(table.method["name"], **table.method["options"]),
        inverse.load_prior(table.prior["name"]),
    )
    shape = tuple(truths[0].shape)
    starts = torch.stack(
        [sized(table.x, shape), *(candidate(RANDOM_SEED, k, shape) for k in range(random))]
    )
    losses: dict[str, list] = {metric: [] for metric in METRICS}
    for i, truth in enumerate(truths):
        answers = endpoints(method, posterior_of(table, truth, i, prior), starts)[0]
        for metric in METRICS:
            losses[metric].append([loss_by(metric)(x, truth) for x in answers])
    return losses


def fresh(table: Table, truths: list[torch.Tensor]) -> dict[str, list]:
    """Losses of the base as it is by default, with its fresh noise, in as many steps: one run each, per metric (count,)."""
    method, prior = (
        inverse.get_method(table.method["name"], steps=table.method["options"]["steps"]),
        inverse.load_prior(table.prior["name"]),
    )
    answers = [
        inverse.solve(posterior_of(table, truth, i, prior), method, first_image=i).samples[0, 0]
        for i, truth in enumerate(truths)
    ]
    return {
        metric: [loss_by(metric)(x, truth) for x, truth in zip(answers, truths, strict=True)]
        for metric in METRICS
    }


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
            "tail": float(tail_mean(losses[1:], 0.25).mean() - tail_mean(losses[0], 0.25)),
            "better_than": int((losses[0].mean() < losses[1:].mean(1)).sum()),
            "of": len(losses) - 1,
            "fresh": asdict(
                estimate(
                    (losses[0] - torch.tensor(record["fresh"][metric], dtype=torch.float64))
                    .neg()
                    .tolist()
                )
            ),
        }
    return found


def low_frequencies(table: Table) -> tuple[float, float, float]:
    """Correlation of HaarPSI in the first round with a candidate's power up to 3 cycles a crop and with its energy; power of the chosen one's channel means."""
    tried = (~table.scores.isnan()).sum(0) == len(table.scores)
    score = -table.scores[:, tried].mean(1)
    starts = torch.stack(
        [candidate(table.about["seed"], k, tuple(table.x.shape)) for k in range(len(score))]
    )
    power, f = (
        torch.fft.fft2(starts, norm="ortho").abs() ** 2,
        torch.fft.fftfreq(table.x.shape[-1]) * table.x.shape[-1],
    )
    low, energy = (
        power[:, :, f[:, None] ** 2 + f**2 <= 9].mean((1, 2)),
        starts.square().mean((1, 2, 3)),
    )
    with_low, with_energy = (
        float(torch.corrcoef(torch.stack([score, v]))[0, 1]) for v in (low, energy)
    )
    return (
        with_low,
        with_energy,
        float(torch.fft.fft2(table.x, norm="ortho")[:, 0, 0].abs().square().mean()),
    )


def markdown(records: list[dict]) -> str:
    head = [
        "problem",
        "steps",
        "random HaarPSI",
        "b",
        "w",
        "expected gain",
        "gain",
        "worst quarter",
        "random PSNR (dB)",
        "gain (dB)",
        "better than",
        "over fresh noise (dB)",
        "energy",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for record in sorted(
        records,
        key=lambda r: (
            r["problem"]["options"]["factor"],
            r["method"]["options"]["steps"],
            r["size"],
        ),
    ):
        haar, psnr = (summary(record)[metric] for metric in METRICS)
        cells = [
            label(record),
            str(record["method"]["options"]["steps"]),
            f"{haar['random']:.4f}",
            f"{haar['between']:.4f}",
            f"{haar['within']:.4f}",
            f"{haar['expected']:+.4f}",
            _interval(haar["gain"], 4),
            f"{haar['tail']:+.4f}",
            f"{psnr['random']:.2f}",
            _interval(psnr["gain"], 2),
            f"{haar['better_than']} of {haar['of']}",
            _interval(psnr["fresh"], 2),
            f"{record['energy']:.3f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def label(record: dict) -> str:
    """The factor, the size where it is not that of the references, and how the start was chosen where it is not the plain mean of draws."""
    about = record["about"]
    size = "" if record["size"] == 64 else f" at {record['size']}"
    tail, moves = (
        ("" if about["tail"] == 1 else f", tail {about['tail']:g}"),
        (f", {about['refine']} moves" if about["refine"] else ""),
    )
    return f"x{record['problem']['options']['factor']}{size}{tail}{moves}"


def _interval(gain: dict, digits: int) -> str:
    return f"{gain['mean']:+.{digits}f} [{gain['low']:+.{digits}f}, {gain['high']:+.{digits}f}]"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images", type=Path, required=True, help="folder that holds the references and more"
    )
    parser.add_argument(
        "--tables",
        nargs="*",
        default=list(shipped_tables()),
        help="names of shipped tables, or files",
    )
    parser.add_argument("--count", type=int, default=12, help="held-out photographs")
    parser.add_argument("--random", type=int, default=8, help="random starts")
    parser.add_argument("--size", type=int, default=64, help="side of the crops (pixels)")
    parser.add_argument(
        "--out", type=Path, default=Path("docs/boundary"), help="records in OUT.json"
    )
    arguments = parser.parse_args()
    file = arguments.out.with_suffix(".json")
    records = json.loads(file.read_text()) if file.exists() else []
    for name in arguments.tables:
        label, table = Path(name).stem.removeprefix("boundary-"), load_table(name)
        found = next(
            (r for r in records if (r["table"], r["size"]) == (label, arguments.size)), None
        )
        if found is None:
            truths = held_out(table, arguments.images, arguments.count, arguments.size)
            about = {
                "problem": table.problem,
                "method": table.method,
                "about": table.about,
                "energy": float(table.x.square().mean()),
            }
            losses, default = measure(table, truths, arguments.random), fresh(table, truths)
            records.append(
                {
                    "table": label,
                    "size": arguments.size,
                    **about,
                    "losses": losses,
                    "fresh": default,
                }
            )
            file.write_text(json.dumps(records, indent=1) + "\n")
    print(markdown(records))
    for name in arguments.tables:
        print(
            f"{name}: correlation with low frequencies, with energy, power of the channel means: {[round(v, 2) for v in low_frequencies(load_table(name))]}"
        )
    chosen = [summary(r)["haarpsi"]["gain"]["mean"] for r in records]
    print(f"mean gain over {len(records)} tables: {statistics.fmean(chosen):+.4f} HaarPSI")


if __name__ == "__main__":
    main()
