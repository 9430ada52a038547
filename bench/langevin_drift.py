r"""Follow annealed Langevin steps on a prior alone, from an image of the prior to lower noise.

    python bench/langevin_drift.py --images "$INVERSE_DATA/bsds500/train" \
        --out results/tables/langevin-drift

The chain starts at an image plus noise of 0.5 (model units), and takes the steps of `langevin`
without data at 30 levels down to 0.01. The image is a photograph for the network and a draw of its
own law for the Gaussian field with the spectrum of photographs, whose score is exact. The table
shows the detail of x0_hat, the standard deviation of what remains after means over 4 x 4 pixels are
subtracted, in units of that of the image. A chain that keeps the law of the prior stays near 1.
"""

from __future__ import annotations

import numpy as np
import torch
from images import photographs
from options import add_images, add_out, new_parser
from output import command_line, markdown_table, write_table
from torch.nn import functional as F

import inverse
from inverse.priors.field import power_law_field
from inverse.sampling.langevin import langevin

START, END, LEVELS, INNER, EPSILON = 0.5, 0.01, 30, 5, 0.2
SHOWN = (0, 5, 10, 15, 20, 29)


def detail(x: torch.Tensor) -> torch.Tensor:
    """Standard deviation of each image (B, C, H, W) about its means over 4 x 4 pixels: (B,)."""
    rest = x - F.interpolate(F.avg_pool2d(x, 4), scale_factor=4)
    return rest.square().mean((1, 2, 3)).sqrt()


def drift(prior: inverse.Prior, x0: torch.Tensor, seed: int) -> list[float]:
    """Mean detail of x0_hat at each level, in units of that of x0."""
    generator = inverse.Generators.for_samples(seed, len(x0), 1, device=x0.device)
    x, rows = x0 + START * generator.randn_like(x0), []
    for sigma in np.geomspace(START, END, LEVELS):
        s = torch.tensor(sigma, dtype=x.dtype)

        def score(x: torch.Tensor, s: torch.Tensor = s) -> torch.Tensor:
            return (prior(x, s) - x) / s**2

        with torch.no_grad():
            x = langevin(x, EPSILON * s**2, INNER, score, torch.zeros_like, generator)
            rows.append(float((detail(prior(x, s)) / detail(x0)).mean()))
    return rows


def main() -> None:
    parser = new_parser(__doc__)
    add_images(parser, count=4, size=48)
    add_out(parser)
    given = parser.parse_args()
    network = inverse.load_prior("photo-64")
    truths = network.encode(torch.stack(photographs(given.images, given.count, given.size)))
    units = {"shift": network.shift, "scale": network.scale}
    field = power_law_field(network.power_law, **units)
    found = {"photo-64": drift(network, truths, 0)}
    white = torch.randn(truths.shape, dtype=torch.float64, generator=inverse.seeded(0))
    draw = field.mean + field.spectral(white, torch.sqrt)
    found["Gaussian field, exact score"] = drift(field, draw, 0)
    levels = np.geomspace(START, END, LEVELS)
    heads = ["prior", *(f"sigma {levels[i]:.2g}" for i in SHOWN)]
    rows = [[name, *(f"{values[i]:.2f}" for i in SHOWN)] for name, values in found.items()]
    table = markdown_table(heads, rows)
    print(table)
    if given.out:
        write_table(
            given.out,
            f"`{command_line()}`\n\n{table}",
            {"command": command_line(), "detail": found, "levels": levels.tolist()},
        )


if __name__ == "__main__":
    main()
