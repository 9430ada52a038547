r"""Compare methods on sparse-view, limited-angle and low-dose CT, and on a scanned tooth.

    python bench/ct.py --images out/mri/held-out.npz \
        --tooth "$INVERSE_DATA/instruments/ct/tooth.h5" --page docs/ct.md

Either option alone measures that part and keeps the record of the other.

The first table is of held-out slices (bench/mri_slices.py), which every method receives with the
same noise. The weight of total variation is chosen on other held-out slices for each setting. The
second is of 20 of the 181 views of the tooth, against the reconstruction from all of them; there,
the weight is the one that predicts the unseen views best, which needs no truth.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from images import held_out, psnr
from options import new_parser
from output import command_line, in_results, insert_tables, markdown_table, write_json
from photo_restoration import solve_each, standard_error, summary
from timing import timed

import inverse
from inverse.io.images import write_png
from inverse_problems.ct.problem import CT, MeasuredCT

SETTINGS: dict[str, dict[str, Any]] = {
    "30 views": {"views": 30},
    "120 degrees, 40 views": {"views": 40, "arc": 120.0},
    "30 views, 1000 photons": {"views": 30, "data": "counts", "photons": 1000.0},
}
METHODS: dict[str, dict[str, Any]] = {
    "fbp": {"window": "hann"},
    "sirt": {"steps": 50},
    "tv": {"steps": 400},
    "dpir": {},
}
WEIGHTS = (3.0, 10.0, 30.0)
"""Weights of total variation, in units of sigma_y^2: lambda = weight sigma_y^2."""
TOOTH_WEIGHTS = (100.0, 300.0, 1000.0, 3000.0)
"""The same for the tooth, whose errors of the model exceed the noise of its counts."""


def method(name: str, sigma_y: float, weight: float) -> inverse.Method:
    options = METHODS[name] | ({"lambda": weight * sigma_y**2} if name == "tv" else {})
    return inverse.get_method(name, **options)


def simulated(images: Path) -> tuple[str, dict]:
    """The table of the held-out slices and its records."""
    scored, tuning = (
        held_out(images, 40, 96, 1, step)[start:][:4] for step, start in ((75, 0), (31, 5))
    )
    rows, records = [], {}
    for label, options in SETTINGS.items():
        problem = inverse.get_problem("ct", **options)
        prior = problem.resolve_prior("mri-96")
        truths, others = ([problem.prepare(x) for x in part] for part in (scored, tuning))
        sigma_y = problem.posterior(truths[0], prior=prior).sigma_y
        trials = {
            w: summary(solve_each(problem, method("tv", sigma_y, w), others, prior))["psnr"]
            for w in WEIGHTS
        }
        weight = max(WEIGHTS, key=trials.__getitem__)
        for name in METHODS:
            found = solve_each(problem, method(name, sigma_y, weight), truths, prior)
            records[f"{label}, {name}"] = found
            mean = summary(found)
            shown = f"{name}, {weight:g} sigma_y^2" if name == "tv" else name
            scores = [f"{mean['psnr']:.2f} ± {standard_error(found):.2f}", f"{mean['ssim']:.3f}"]
            cost = [f"{mean['misfit']:.2f}", f"{mean['nfe']:.0f}", f"{mean['seconds']:.1f}"]
            rows.append([label, shown, *scores, *cost])
            print(rows[-1], flush=True)
    heads = ["scan", "method", "PSNR (dB)", "SSIM", "residual chi2", "prior evaluations", "seconds"]
    return markdown_table(heads, rows), records


def tooth(file: Path, picture: Path) -> tuple[str, dict]:
    """The table of the tooth and its records; writes the picture."""
    whole_problem = CT(bin=2)
    prior = whole_problem.resolve_prior("mri-96")
    whole, y, notes = whole_problem.open(file, prior, True)
    assert isinstance(whole, MeasuredCT)
    full = whole.posterior(y=y, prior=prior)
    rows, records, shown = [], {"notes": notes}, {}

    def row(
        views: str, name: str, answer: Any, seconds: float, reference: Any, unseen: Any
    ) -> None:
        mean = answer.mean[0]
        record = {
            "psnr": None if reference is None else float(psnr(mean, reference)),
            "chi2": float(answer.misfit.mean()),
            "unseen": None if unseen is None else chi_square(full, mean, unseen),
            "seconds": seconds,
            "nfe": answer.cost.nfe,
        }
        records[f"{views}, {name}"] = record
        text = [f"{v:.2f}" if v is not None else "-" for v in list(record.values())[:3]]
        rows.append([views, name, *text, f"{record['nfe']:.0f}", f"{seconds:.0f}"])
        print(rows[-1], flush=True)

    for name in ("fbp", "sirt"):
        answer, seconds = timed(partial(inverse.solve, full, method(name, 0.0, 0.0)))
        shown[f"{name}, 181 views"] = answer.mean[0]
        row("181", name, answer, seconds, None, None)
    reference = shown["fbp, 181 views"]

    few, y20, _ = replace(whole_problem, views=20, mu=whole.mu).open(file, prior, True)
    posterior = few.posterior(y=y20, prior=prior)
    unseen = torch.ones(181, dtype=torch.bool)
    unseen[torch.arange(20) * 181 // 20] = False
    sigma_y = posterior.sigma_y
    answers = {
        w: timed(partial(inverse.solve, posterior, method("tv", sigma_y, w))) for w in TOOTH_WEIGHTS
    }
    weight = min(TOOTH_WEIGHTS, key=lambda w: chi_square(full, answers[w][0].mean[0], unseen))
    for name in METHODS:
        if name == "tv":
            answer, seconds = answers[weight]
        else:
            answer, seconds = timed(partial(inverse.solve, posterior, method(name, 0.0, 0.0)))
        shown[f"{name}, 20 views"] = answer.mean[0]
        label = f"tv, {weight:g} sigma_y^2" if name == "tv" else name
        row("20", label, answer, seconds, reference, unseen)
    chosen = ("fbp, 20 views", "tv, 20 views", "dpir, 20 views", "fbp, 181 views")
    write_png(picture, torch.cat([cropped(shown[key]) for key in chosen], 2))
    heads = ["views", "method", "PSNR to all views (dB)", "residual chi2"]
    heads += ["chi2 of the 161 unseen views", "prior evaluations", "seconds"]
    return markdown_table(heads, rows), records


def chi_square(full: inverse.Posterior, x: torch.Tensor, views: torch.Tensor) -> float:
    """Residual chi-square of some views of the whole scan; x (1, N, N), intensities."""
    z = (full.y - full.operator.A(x[None].to(full.dtype))) / full.noise.sigma.to(full.dtype)
    return float(z[:, :, views].square().mean())


def cropped(x: torch.Tensor) -> torch.Tensor:
    """The part of the slice (1, N, N) that the tooth fills."""
    return x[:, 80:260, 80:240]


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--images", type=Path, help=".npz of held-out slices")
    parser.add_argument("--tooth", type=Path, help="HDF5 Data Exchange file")
    parser.add_argument("--page", type=Path, required=True, help="page that receives the tables")
    arguments = parser.parse_args()
    picture = arguments.page.parent / "images" / "ct-tooth.png"
    file = in_results(arguments.page).with_suffix(".json")
    record: dict[str, Any] = {}
    if arguments.images:
        table, records = simulated(arguments.images)
        record["slices"] = {"table": table, "records": records, "command": command_line()}
    if arguments.tooth:
        table, records = tooth(arguments.tooth, picture)
        record["tooth"] = {"table": table, "records": records, "command": command_line()}
    record = (json.loads(file.read_text()) if file.is_file() else {}) | record
    write_json(file, record)
    heads = {"slices": "### Held-out slices", "tooth": "### The tooth"}
    tables = [f"{heads[key]}\n\n{record[key]['table']}" for key in heads if key in record]
    insert_tables(arguments.page, "\n\n".join(tables))


if __name__ == "__main__":
    main()
