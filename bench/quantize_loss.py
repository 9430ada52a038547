r"""Measure what eight bits cost a denoiser, by the steps of the quantisation.

    python bench/quantize_loss.py --images "$INVERSE_DATA/bsds500/test" --count 12 --size 128 \
        --out results/tables/quantize-loss

Rows: one factor for all channels (as before equalisation), equalised channels, the same with
reconstructed blocks, and calibrated on the inputs of DiffPIR in a deblurring.
"""

from __future__ import annotations

from pathlib import Path

import torch
from images import photographs
from options import add_out, new_parser
from output import markdown_table, write_table

import inverse
from inverse.command.guided_pairs import guided_pairs
from inverse.priors.networks import quantize
from inverse.priors.networks.reconstruction import reconstruct

LEVELS = (5, 15, 50)


def psnr(prior: inverse.NetworkPrior, images: torch.Tensor) -> list[float]:
    scores = []
    for level in LEVELS:
        sigma, x0 = level / 255 / prior.scale, prior.encode(images)
        noise = torch.randn(x0.shape, generator=inverse.seeded("quantize loss", level))
        with torch.no_grad():
            out = prior.decode(prior(x0 + sigma * noise, torch.tensor(sigma))).clamp(0, 1)
        scores.append(float((-10 * (out - images).square().flatten(1).mean(1).log10()).mean()))
    return scores


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--prior", default="photo-64")
    add_out(parser, required=True)
    given = parser.parse_args()
    images = torch.stack(photographs(given.images, given.count, given.size))
    original = inverse.load_prior(given.prior)
    base = psnr(original, images)
    own = quantize.calibration_pairs(original, 32, 48)
    method = inverse.get_method("diffpir", steps=20)
    guided = guided_pairs(original, inverse.get_problem("deblur"), method, 32, 48)
    rows = {}
    for name, pairs, equalised, iterations in (
        ("one factor for all channels", own, False, 0),
        ("equalised channels", own, True, 0),
        ("and reconstructed blocks", own, True, 100),
        ("the same, guided calibration", guided, True, 100),
    ):
        factors = quantize.equalising_factors
        if not equalised:
            quantize.equalising_factors = lambda x, conv: torch.ones(len(x))
        prior = quantize.quantize(inverse.load_prior(given.prior), pairs)
        quantize.equalising_factors = factors
        if iterations:
            reconstruct(prior, original, pairs, iterations)
        rows[name] = [a - b for a, b in zip(psnr(prior, images), base, strict=True)]
        print(name, rows[name], flush=True)
    heads = ["int8 weights and inputs", *(f"loss at {level} of 255 (dB)" for level in LEVELS)]
    table = markdown_table(heads, [[k, *(f"{v:+.3f}" for v in r)] for k, r in rows.items()])
    write_table(given.out, table, {"float": base, "loss": rows, "count": len(images)})
    print(table)


if __name__ == "__main__":
    main()
