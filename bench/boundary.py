"""Measure the gain of fitted starts over random starts on held-out photographs.

    python bench/boundary.py --images "$INVERSE_DATA/bsds500/test" --out results/boundary

Fitted and random starts see the same photographs with the same noise. Photographs are ordered by
hash; the held-out ones follow the references in that order. Tables already in OUT.json are not
measured again.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict
from pathlib import Path

import torch
from options import new_parser
from output import markdown_table, write_json

import inverse
from inverse.arena.estimate import estimate
from inverse_plugins.optimal_bc.deterministic_solver import candidate, endpoints, tiled
from inverse_plugins.optimal_bc.distance import loss_by
from inverse_plugins.optimal_bc.expected_gain import anova
from inverse_plugins.optimal_bc.references import central_crop, references, sha256
from inverse_plugins.optimal_bc.successive_halving import tail_mean
from inverse_plugins.optimal_bc.table import Table, load_table, shipped_tables

METRICS = ("haarpsi", "psnr")
RANDOM_SEED = 1000  # used by no table


def held_out(table: Table, images: Path, count: int, size: int) -> list[torch.Tensor]:
    """Central crops of the photographs that follow the references in the order of their hashes."""
    fitted = set(table.about["references_sha256"])
    prior = inverse.load_prior(table.prior["name"])
    ordered = references(problem_of(table), [images], len(fitted) + count, size, prior)
    size = table.about["size"]
    return [truth for truth in ordered if sha256(central_crop(truth, size)) not in fitted][:count]


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
    """Losses (count, 1 + random) of the fitted start (first) and of random starts, by metric."""
    method = inverse.get_method(table.method["name"], **table.method["options"])
    prior = inverse.load_prior(table.prior["name"])
    shape = tuple(truths[0].shape)
    starts = torch.stack(
        [tiled(table.x, shape), *(candidate(RANDOM_SEED, k, shape) for k in range(random))]
    )
    losses: dict[str, list] = {metric: [] for metric in METRICS}
    for i, truth in enumerate(truths):
        estimates = endpoints(method, posterior_of(table, truth, i, prior), starts)[0]
        for metric in METRICS:
            losses[metric].append([loss_by(metric)(x, truth) for x in estimates])
    return losses


def measure_fresh(table: Table, truths: list[torch.Tensor]) -> dict[str, list]:
    """Losses (count,) of the stochastic base method with as many steps, by metric; one run each."""
    method = inverse.get_method(table.method["name"], steps=table.method["options"]["steps"])
    prior = inverse.load_prior(table.prior["name"])
    estimates = [
        inverse.solve(posterior_of(table, truth, i, prior), method, first_image=i).samples[0, 0]
        for i, truth in enumerate(truths)
    ]
    return {
        metric: [loss_by(metric)(x, truth) for x, truth in zip(estimates, truths, strict=True)]
        for metric in METRICS
    }


def summary(record: dict) -> dict:
    """The paired gain over the mean of the random starts, by metric.

    It has an interval over photographs, the gain expected from the variances, and the gain over the
    base with fresh noise.
    """
    about, by_metric = record["about"], {}
    for metric in METRICS:
        losses = torch.tensor(record["losses"][metric], dtype=torch.float64).T
        fresh = torch.tensor(record["fresh"][metric], dtype=torch.float64)
        fitted, random = losses[0], losses[1:]
        variances = anova(random)
        by_metric[metric] = {
            "random": -float(random.mean()),
            "gain": asdict(estimate((random.mean(0) - fitted).tolist())),
            "between": variances.between,
            "within": variances.within,
            "expected": variances.gain(about["candidates"], about["references"]),
            "tail": float(tail_mean(random, 0.25).mean() - tail_mean(fitted, 0.25)),
            "better_than": int((fitted.mean() < random.mean(1)).sum()),
            "of": len(random),
            "fresh": asdict(estimate((fitted - fresh).neg().tolist())),
        }
    return by_metric


def low_frequencies(table: Table) -> tuple[float, float, float]:
    """How low frequencies relate to the scores of the candidates in the first round.

    Returns the correlation of HaarPSI with a candidate's power up to 3 cycles per crop, its
    correlation with the candidate's energy, and the power of the channel means of the chosen start.
    """
    complete = (~table.scores.isnan()).sum(0) == len(table.scores)
    score = -table.scores[:, complete].mean(1)
    shape, side = tuple(table.x.shape), table.x.shape[-1]
    starts = torch.stack([candidate(table.about["seed"], k, shape) for k in range(len(score))])
    power = torch.fft.fft2(starts, norm="ortho").abs() ** 2
    f = torch.fft.fftfreq(side) * side
    low = power[:, :, f[:, None] ** 2 + f**2 <= 9].mean((1, 2))
    energy = starts.square().mean((1, 2, 3))
    with_low, with_energy = (
        float(torch.corrcoef(torch.stack([score, v]))[0, 1]) for v in (low, energy)
    )
    channel_means = torch.fft.fft2(table.x, norm="ortho")[:, 0, 0]
    return with_low, with_energy, float(channel_means.abs().square().mean())


def markdown(records: list[dict]) -> str:
    heads = ["problem", "steps", "random HaarPSI", "b", "w", "expected gain", "gain"]
    heads += ["worst quarter", "random PSNR (dB)", "gain (dB)", "better than"]
    heads += ["over fresh noise (dB)", "energy"]
    return markdown_table(heads, map(table_row, sorted(records, key=position))) + "\n"


def position(record: dict) -> tuple:
    """The key by which the table is sorted."""
    factor, steps = record["problem"]["options"]["factor"], record["method"]["options"]["steps"]
    return factor, steps, record["size"]


def table_row(record: dict) -> list[str]:
    haar, psnr = (summary(record)[metric] for metric in METRICS)
    return [
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


def label(record: dict) -> str:
    """The factor, and what differs from crops of 64 pixels and a choice by plain means."""
    about = record["about"]
    size = "" if record["size"] == 64 else f" at {record['size']}"
    tail = "" if about["tail"] == 1 else f", tail {about['tail']:g}"
    moves = f", {about['refine']} moves" if about["refine"] else ""
    return f"x{record['problem']['options']['factor']}{size}{tail}{moves}"


def _interval(gain: dict, digits: int) -> str:
    return f"{gain['mean']:+.{digits}f} [{gain['low']:+.{digits}f}, {gain['high']:+.{digits}f}]"


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        help="folder of the references and further photographs",
    )
    parser.add_argument(
        "--tables",
        nargs="*",
        default=list(shipped_tables()),
        help="shipped tables (name or file)",
    )
    parser.add_argument("--count", type=int, default=12, help="number of held-out photographs")
    parser.add_argument("--random", type=int, default=8, help="number of random starts")
    parser.add_argument("--size", type=int, default=64, help="side of the central crops (pixels)")
    parser.add_argument(
        "--out", type=Path, default=Path("results/boundary"), help="records in OUT.json"
    )
    arguments = parser.parse_args()
    file = arguments.out.with_suffix(".json")
    records = json.loads(file.read_text()) if file.exists() else []
    for name in arguments.tables:
        label, table = Path(name).stem.removeprefix("boundary-"), load_table(name)
        if not any((r["table"], r["size"]) == (label, arguments.size) for r in records):
            truths = held_out(table, arguments.images, arguments.count, arguments.size)
            records.append(
                {
                    "table": label,
                    "size": arguments.size,
                    "problem": table.problem,
                    "method": table.method,
                    "about": table.about,
                    "energy": float(table.x.square().mean()),
                    "losses": measure(table, truths, arguments.random),
                    "fresh": measure_fresh(table, truths),
                }
            )
            write_json(file, records)
    print(markdown(records))
    for name in arguments.tables:
        figures = [round(value, 2) for value in low_frequencies(load_table(name))]
        print(f"{name}: correlation with low frequencies and energy, power of means: {figures}")
    gains = [summary(r)["haarpsi"]["gain"]["mean"] for r in records]
    print(f"mean gain over {len(records)} tables: {statistics.fmean(gains):+.4f} HaarPSI")


if __name__ == "__main__":
    main()
