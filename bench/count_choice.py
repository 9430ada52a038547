r"""Measure what the rules of `auto` for counts rest on: methods on Poisson posteriors.

    python bench/mri_slices.py --data "$INVERSE_DATA/medical/brain_t1ce_96.npz" --out out/mri
    python bench/count_choice.py --slices out/mri/held-out.npz \
        --photographs "$INVERSE_DATA/bsds500/val" --out results/tables/count-choice

A method after the word gaussian has a Gaussian likelihood of the same counts: that of the problem,
or white noise of their mean variance for photographs. The slices of `ct` and `pet` are those on
which docs/ct.md chooses weights. Methods run with default options.
"""

from __future__ import annotations

from pathlib import Path

import torch
from images import held_out, photographs, psnr
from options import add_out, new_parser
from output import command_line, in_results, markdown_table, write_json

import inverse
from inverse.io.files import write_text
from inverse.registry.discovery import with_settings
from inverse_problems.microscopy.specimen import filaments

PROBLEMS = {
    "ct, 1000 photons": ("ct", {"views": 30, "data": "counts", "photons": 1000.0}),
    "pet, 1e5 counts": ("pet", {"total": 1e5}),
    "microscopy, dim": ("microscopy", {"scale": 20.0, "background": 5.0}),
}
LINEAR = {
    "motion blur, 100 counts": ("deblur", {"kernel": "motion"}),
    "denoise, 100 counts": ("denoise", {}),
}
"""Photographs of 48 pixels with at most 100 counts in a pixel, and a linear operator."""
GAIN = 100.0
METHODS = ("osem", "richardson-lucy", "daps", "dps", "lgd", "gaussian dpir", "gaussian wiener")


def problem_posterior(label: str, likelihood: str, slices: Path) -> inverse.Posterior:
    """The posterior of one slice that no page reports on, or of filaments of an unused seed."""
    name, options = PROBLEMS[label]
    problem = inverse.get_problem(name, likelihood=likelihood, **options)
    if name == "microscopy":
        return problem.posterior(filaments((96, 96), 100)[None, None].float())
    truth = held_out(slices, 40, 96, 1, 31)[5]
    return problem.posterior(problem.prepare(truth), prior="mri-96")


def photograph_posterior(label: str, likelihood: str, folder: Path) -> inverse.Posterior:
    """The posterior of two photographs."""
    name, options = LINEAR[label]
    truths = torch.stack(photographs(folder, 2, 48))
    operator = inverse.get_problem(name, **options).operator(tuple(truths.shape[1:]))
    clean = GAIN * operator.A(truths).clamp_min(0)
    y = torch.poisson(clean, generator=torch.Generator().manual_seed(0)) / GAIN
    white = inverse.GaussianNoise(float((y / GAIN).mean()) ** 0.5)
    noise = white if likelihood == "gaussian" else inverse.PoissonNoise(GAIN)
    return inverse.Posterior(inverse.load_prior("photo-64"), operator, y, noise, truth=truths)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--slices", type=Path, required=True, help=".npz of held-out slices")
    parser.add_argument("--photographs", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--problems", nargs="*", default=[*PROBLEMS, *LINEAR])
    add_out(parser, required=True)
    given = parser.parse_args()
    rows, records = [], []
    for label in given.problems:
        cells = []
        for method in given.methods:
            record = {"problem": label, "method": method}
            likelihood, _, name = method.rpartition(" ")
            likelihood = likelihood or "poisson"
            if label in LINEAR:
                posterior = photograph_posterior(label, likelihood, given.photographs)
            else:
                posterior = problem_posterior(label, likelihood, given.slices)
            try:
                result = inverse.solve(posterior, with_settings(name))
            except inverse.InverseError as error:
                records.append(record | {"error": str(error)})
                cells.append("-")
                continue
            scores = psnr(result.mean.clamp(0, 1), result.truth.to(result.mean)).tolist()
            record |= {"psnr": scores, "calls": result.cost.nfe + result.cost.vjp}
            records.append(record)
            print(label, method, record, flush=True)
            cells.append(f"{sum(scores) / len(scores):.1f}")
        rows.append([label, *cells])
        about = {"command": command_line(), "records": records}
        write_json(in_results(given.out.with_suffix(".json")), about)
    write_text(given.out.with_suffix(".md"), markdown_table(["counts", *given.methods], rows))


if __name__ == "__main__":
    main()
