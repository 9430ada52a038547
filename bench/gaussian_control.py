r"""Run methods on a Gaussian with the spectrum of photographs, whose posterior mean is known.

    python bench/gaussian_control.py --out results/tables/gaussian-control

The prior is the Gaussian field of the card of photo-64, in colours, and the truths are its draws.
Operator, noise and size are those of bench/own_settings.py. The denoiser is exact, so that what a
method loses here is its own: an approximation, or a lack of steps. The first column of a problem
is the loss (dB) of one sample against the exact posterior mean, 3.0 for an exact sample. The second
is the loss of the mean of infinitely many samples, extrapolated, 0 for an exact method.
"""

from __future__ import annotations

import torch
from options import add_out, new_parser
from output import command_line, in_results, markdown_table, write_json
from own_settings import PROBLEMS

import inverse
from inverse.analytic_start import analytic_start
from inverse.io.files import write_text
from inverse.priors.field import power_law_field
from inverse.registry.discovery import with_settings
from inverse.seeding import Generators

METHODS = ("mmps", "pnp-dm", "diffpir", "flower", "tmpd", "lgd", "dps", "dps:steps=400", "pigdm")
METHODS += ("pigdm:steps=400", "pigdm:step=score", "ot-ode", "ot-ode:steps=400", "ddrm")
METHODS += ("ddrm:steps=100", "repaint")
SHOWN = ("random inpainting", "super-resolution x4")


def losses(x: torch.Tensor, mean: torch.Tensor, variance: float) -> tuple[float, float]:
    """dB of one sample, and of the mean of infinitely many: x (images, n, *shape).

    The squared error of an estimate is its squared distance from the exact mean plus `variance`.
    """
    n = x.shape[1]
    one = (x - mean[:, None]).square().mean()
    of_mean = (x.mean(1) - mean).square().mean()
    bias = ((n * of_mean - one) / (n - 1)).clamp_min(0)
    return tuple(float(10 * (1 + e / variance).log10()) for e in (one, bias))


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--problems", nargs="*", default=SHOWN, choices=PROBLEMS)
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--images", type=int, default=4, help="truths drawn from the field")
    parser.add_argument("--samples", type=int, default=8, help="samples of each")
    add_out(parser, required=True)
    given = parser.parse_args()
    network = inverse.load_prior("photo-64")
    law = power_law_field(network.power_law, shift=network.shift, scale=network.scale)
    field = law.sized(given.size, given.size)
    generator = torch.Generator().manual_seed(0)
    truths = field.decode(field.sample(given.images, generator))
    records: dict[str, dict[str, dict]] = {}
    for label in given.problems:
        kind, options = PROBLEMS[label]
        problem = inverse.get_problem(kind, sigma_y=0.02, **options)
        posterior = problem.posterior(truths, prior=field, dtype=torch.float32)
        mean = inverse.solve(posterior, "wiener").mean
        draws = field.decode(exact_draws(posterior))
        variance = float((draws - mean).square().mean())
        for name in given.methods:
            try:
                result = inverse.solve(posterior, with_settings(name), samples=given.samples)
            except inverse.InverseError as error:
                print(label, name, error)
                continue
            one, bias = losses(result.samples, mean, variance)
            misfit = float(result.misfit.mean())
            records.setdefault(name, {})[label] = {"one": one, "bias": bias, "misfit": misfit}
            print(label, name, records[name][label], flush=True)
    heads = ["method", *(f"{label}: {c}" for label in given.problems for c in ("one", "mean"))]
    rows = []
    for name, found in records.items():
        cells = [found.get(label, {}).get(c) for label in given.problems for c in ("one", "bias")]
        rows.append([f"`{name}`", *("-" if c is None else f"{c:.2f}" for c in cells)])
    write_text(given.out.with_suffix(".md"), markdown_table(heads, rows))
    about = {"command": command_line(), "records": records}
    write_json(in_results(given.out.with_suffix(".json")), about)


def exact_draws(posterior: inverse.Posterior) -> torch.Tensor:
    """A draw of the posterior of each image, model units."""
    rows = Generators([torch.Generator().manual_seed(i) for i in range(len(posterior))])
    return analytic_start(posterior, 0.0, rows)


if __name__ == "__main__":
    main()
