r"""Measure the accuracy, time and size of a quantised prior, and of a rounded Gaussian's posterior.

    python bench/quantize.py --images "$INVERSE_DATA/bsds500/test" --count 12 --size 128 \
        --samples 8 --side 48 --out results/tables/quantize

Photographs: photo-64 in float32, in bf16, with int8 weights, and with int8 weights and inputs. Each
denoises, and deblurs by DiffPIR and DPS (20 steps), from the same measurements. Times are the least
of six interleaved forward passes of a batch of four on one thread of a shared machine; compare
their ratios only.
Calibration: inputs are calibrated at normal times, at uniform times, and at a single time.
Closed form: each direction of the basis of the Gaussian era5-uk-t2m-gaussian is rounded to b bits.
Half the points are observed with noise of 0.1 K. The mean and the standard deviations of the exact
posterior are compared with those of the unrounded Gaussian, in units of its standard deviations.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from denoise import clipped_psnr, denoise_by_prior, with_noise
from images import photographs
from options import add_images, add_out, new_parser
from output import markdown_table, write_table

import inverse
from inverse.priors.loading import save_prior
from inverse.priors.networks.quantize import calibration_pairs, fit_scale, quantize, rounded

VARIANTS = ("float32", "bf16", "int8 weights", "int8 weights and inputs")
LEVELS = (5, 15, 50)


def variants(samples: int, side: int) -> dict[str, tuple[inverse.Prior, str | None]]:
    """Each variant of the prior, with the precision of its autocast."""
    inputs = calibration_pairs(inverse.load_prior("photo-64"), samples, side)
    priors = (
        (inverse.load_prior("photo-64"), None),
        (inverse.load_prior("photo-64"), "bf16"),
        (quantize(inverse.load_prior("photo-64"), None), None),
        (quantize(inverse.load_prior("photo-64"), inputs), None),
    )
    return dict(zip(VARIANTS, priors, strict=True))


def seconds(priors: dict[str, tuple[inverse.Prior, str | None]], size: int) -> dict[str, float]:
    """Wall-clock seconds of a forward pass of four images, the least of six interleaved passes."""
    x, least = torch.randn(4, 3, size, size, generator=inverse.seeded("time")), {}
    for _ in range(6):
        for name, (prior, autocast) in priors.items():
            enabled = autocast is not None
            start = time.perf_counter()
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                prior(x, torch.tensor(0.3))
            least[name] = min(least.get(name, 1e9), time.perf_counter() - start)
    return least


def denoising_psnr(prior: inverse.Prior, truth: torch.Tensor, level: int, index: int) -> float:
    estimate = denoise_by_prior(prior, with_noise(truth, level, index), level / 255)
    return clipped_psnr(estimate.float(), truth)


def photograph_scores(
    prior: inverse.Prior, autocast: str | None, truths: list[torch.Tensor]
) -> dict[str, float]:
    """Mean PSNR (dB) of denoising at each level and of deblurring by two methods."""
    scores: dict[str, list[float]] = {}
    execution = inverse.Execution(autocast=autocast)
    for index, truth in enumerate(truths):
        for level in LEVELS:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast is not None):
                score = denoising_psnr(prior, truth, level, index)
            scores.setdefault(f"denoise {level}", []).append(score)
        for name in ("diffpir", "dps"):
            posterior = inverse.get_problem("deblur").posterior(
                truth, prior=prior, seed=index, execution=execution
            )
            method = inverse.get_method(name, steps=20)
            result = inverse.solve(posterior, method, first_image=index)
            scores.setdefault(f"deblur {name}", []).append(clipped_psnr(result.mean[0], truth))
    return {name: sum(values) / len(values) for name, values in scores.items()}


def bytes_on_disk(prior: inverse.Prior) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prior.safetensors"
        save_prior(prior, path)
        return path.stat().st_size


def closed_form(bits: int) -> tuple[float, float]:
    """Error of the exact posterior when the basis of its Gaussian prior is rounded to `bits`.

    Returns the root mean square errors of the posterior mean and of the posterior standard
    deviations, in units of the exact standard deviations.
    """
    law = inverse.load_prior("era5-uk-t2m-gaussian")
    basis, root = law.basis.double(), law.variances.double().sqrt()  # columns of an n x r basis
    step = fit_scale(basis.T, bits)
    coarse = (step * rounded(basis.T, step, bits)).T
    seen = torch.rand(len(basis), generator=inverse.seeded("points")) < 0.5
    count = int(seen.sum())
    floor, sigma = float(law.floor), 0.1 / law.scale

    def normal(n: int, name: str) -> torch.Tensor:
        return torch.randn(n, generator=inverse.seeded(name), dtype=torch.float64)

    def moments(b: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviations of the posterior under the basis b."""
        covariance = (b * root**2) @ b.T + floor * (torch.eye(len(b)).double() - basis @ basis.T)
        noise = sigma**2 * torch.eye(count).double()
        gain = covariance[:, seen] @ torch.linalg.inv(covariance[seen][:, seen] + noise)
        variances = (covariance - gain @ covariance[seen]).diagonal()
        return gain @ y, variances.clamp_min(1e-12).sqrt()

    x = basis @ (root * normal(len(root), "truth"))
    y = x[seen] + sigma * normal(count, "noise")
    (mean, std), (coarse_mean, coarse_std) = moments(basis, y), moments(coarse, y)
    mean_error = ((coarse_mean - mean) / std).square().mean().sqrt()
    return float(mean_error), float((coarse_std / std - 1).square().mean().sqrt())


def calibration_scores(
    truths: list[torch.Tensor], samples: int, side: int
) -> dict[str, dict[str, float]]:
    """Denoising PSNR (dB) with int8 weights and inputs, by the times of the calibration."""
    full, scores = inverse.load_prior("photo-64"), {}
    uniform = torch.rand(samples, generator=inverse.seeded("uniform"))
    single = torch.full((samples,), 0.5)
    for name, times in {"normal times": None, "uniform times": uniform, "one time": single}.items():
        inputs = calibration_pairs(full, samples, side, times=times)
        prior = quantize(inverse.load_prior("photo-64"), inputs)
        scores[name] = {}
        for level in LEVELS:
            values = [denoising_psnr(prior, truth, level, i) for i, truth in enumerate(truths)]
            scores[name][f"denoise {level}"] = sum(values) / len(values)
    return scores


def main() -> None:
    parser = new_parser(__doc__)
    add_images(parser, count=4, size=128)
    parser.add_argument("--samples", type=int, default=16, help="calibration samples")
    parser.add_argument("--side", type=int, default=64, help="side of those samples (pixels)")
    add_out(parser, required=True)
    arguments = parser.parse_args()

    truths = photographs(arguments.images, arguments.count, arguments.size)
    priors = variants(arguments.samples, arguments.side)
    record = {
        "about": {key: str(value) for key, value in vars(arguments).items()},
        "seconds": seconds(priors, arguments.size),
        "MiB": {name: bytes_on_disk(prior) / 2**20 for name, (prior, _) in priors.items()},
        "psnr": {name: photograph_scores(*pair, truths) for name, pair in priors.items()},
        "calibration": calibration_scores(truths, arguments.samples, arguments.side),
        "closed form": {bits: closed_form(bits) for bits in (16, 8, 6, 4)},
    }
    record["about"]["torch"] = torch.__version__
    write_table(arguments.out, tables(record), record)
    print(tables(record))


def tables(record: dict[str, Any]) -> str:
    """Variants of the prior, calibrations, and the rounded Gaussian."""
    sizes, times, scores = record["MiB"], record["seconds"], record["psnr"]
    columns = list(scores["float32"])
    variant_table = markdown_table(
        ["photo-64", "file (MiB)", "seconds", *(f"{column} (dB)" for column in columns)],
        [
            [
                name,
                f"{sizes[name]:.1f}",
                f"{times[name]:.2f}",
                *(f"{row[column]:.2f}" for column in columns),
            ]
            for name, row in scores.items()
        ],
    )
    calibration_table = markdown_table(
        ["inputs calibrated at", *(f"denoise {level} (dB)" for level in LEVELS)],
        [
            [name, *(f"{value:.2f}" for value in row.values())]
            for name, row in record["calibration"].items()
        ],
    )
    gaussian_table = markdown_table(
        ["bits of the Gaussian's basis", "error of the posterior mean", "error of its deviations"],
        [
            [str(bits), f"{mean:.2g}", f"{deviation:.2g}"]
            for bits, (mean, deviation) in record["closed form"].items()
        ],
    )
    return "\n\n".join([variant_table, calibration_table, gaussian_table])


if __name__ == "__main__":
    main()
