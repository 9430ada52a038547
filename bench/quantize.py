"""What eight bits cost and save: photo-64 in float32, bf16, int8 weights, int8 weights and inputs; and an exact posterior under a rounded Gaussian.

    python bench/quantize.py --images ../shared/data/bsds500/test --count 12 --size 128 --samples 8 --side 48 --out docs/tables/quantize

Photographs: denoising, and deblurring by DiffPIR and DPS (20 steps), the same measurement for all. Seconds: the least of six
interleaved forward passes of a batch of four, one thread of a shared machine; read them as ratios. Closed form: the basis of the
Gaussian era5-uk-t2m-gaussian is rounded to b bits, direction by direction; of half the points, seen with noise of 0.1 K, the mean and the
deviations of the exact posterior are compared with those of the unrounded Gaussian, in units of its deviations. The calibration of inputs is
tried at normal times, at uniform times, and at one time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from denoise import by_prior, psnr
from photo import photographs

import inverse
from inverse.priors.loading import save_prior
from inverse.priors.networks.quantize import calibration, quantize, rounded, scan

VARIANTS = ("float32", "bf16", "int8 weights", "int8 weights and inputs")
LEVELS = (5, 15, 50)


def variants(samples: int, side: int) -> dict[str, tuple[inverse.Prior, str | None]]:
    """The priors, and the precision they run in."""
    pairs = calibration(inverse.load_prior("photo-64"), samples, side)
    weights, both = (
        quantize(inverse.load_prior("photo-64"), None),
        quantize(inverse.load_prior("photo-64"), pairs),
    )
    return dict(
        zip(
            VARIANTS,
            (
                (inverse.load_prior("photo-64"), None),
                (inverse.load_prior("photo-64"), "bf16"),
                (weights, None),
                (both, None),
            ),
            strict=True,
        )
    )


def seconds(priors: dict[str, tuple[inverse.Prior, str | None]], size: int) -> dict[str, float]:
    """Of one forward pass of four images, the least of six interleaved ones."""
    x, best = torch.randn(4, 3, size, size, generator=inverse.seeded("time")), {}
    for _ in range(6):
        for name, (prior, half) in priors.items():
            start = time.perf_counter()
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half is not None):
                prior(x, torch.tensor(0.3))
            best[name] = min(best.get(name, 1e9), time.perf_counter() - start)
    return best


def on_photographs(
    prior: inverse.Prior, half: str | None, truths: list[torch.Tensor]
) -> dict[str, float]:
    """Mean PSNR (dB) of denoising at each level and of deblurring by two methods."""
    scores: dict[str, list[float]] = {}
    for index, truth in enumerate(truths):
        for level in LEVELS:
            noisy = truth + level / 255 * torch.randn(
                truth.shape, generator=inverse.seeded("bm3d", level, index)
            )
            with torch.autocast("cpu", torch.bfloat16, enabled=half is not None):
                scores.setdefault(f"denoise {level}", []).append(
                    psnr(by_prior(prior, noisy, level / 255).float(), truth)
                )
        for method in ("diffpir", "dps"):
            posterior = inverse.get_problem("deblur").posterior(
                truth, prior=prior, seed=index, execution=inverse.Execution(autocast=half)
            )
            result = inverse.solve(
                posterior, inverse.get_method(method, steps=20), first_image=index
            )
            scores.setdefault(f"deblur {method}", []).append(psnr(result.mean[0], truth))
    return {name: sum(values) / len(values) for name, values in scores.items()}


def bytes_on_disk(prior: inverse.Prior) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prior.safetensors"
        save_prior(prior, path)
        return path.stat().st_size


def closed_form(bits: int) -> tuple[float, float]:
    """Root mean square error of the posterior mean and of the deviations, in units of the exact deviations, with the basis rounded to `bits`."""
    law = inverse.load_prior("era5-uk-t2m-gaussian")
    basis, root = law.basis.double(), law.variances.double().sqrt()  # columns of an n x r basis
    step = scan(basis.T, bits)
    coarse = (step * rounded(basis.T, step, bits)).T
    seen = torch.rand(len(basis), generator=inverse.seeded("points")) < 0.5
    floor, sigma = float(law.floor), 0.1 / law.scale

    def moments(b: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        covariance = (b * root**2) @ b.T + floor * (torch.eye(len(b)).double() - basis @ basis.T)
        gain = covariance[:, seen] @ torch.linalg.inv(
            covariance[seen][:, seen] + sigma**2 * torch.eye(int(seen.sum())).double()
        )
        return gain @ y, (covariance - gain @ covariance[seen]).diagonal().clamp_min(1e-12).sqrt()

    x = basis @ (
        root * torch.randn(len(root), generator=inverse.seeded("truth"), dtype=torch.float64)
    )
    y = x[seen] + sigma * torch.randn(
        int(seen.sum()), generator=inverse.seeded("noise"), dtype=torch.float64
    )
    (mean, std), (other, spread) = moments(basis, y), moments(coarse, y)
    return float(((other - mean) / std).square().mean().sqrt()), float(
        (spread / std - 1).square().mean().sqrt()
    )


def calibrations(
    truths: list[torch.Tensor], samples: int, side: int
) -> dict[str, dict[str, float]]:
    """Denoising by int8 weights and inputs, by where the inputs were seen."""
    full, found = inverse.load_prior("photo-64"), {}
    uniform, one = (
        torch.rand(samples, generator=inverse.seeded("uniform")),
        torch.full((samples,), 0.5),
    )
    for name, times in {"normal times": None, "uniform times": uniform, "one time": one}.items():
        pairs = calibration(full, samples, side, times=times)
        prior = quantize(inverse.load_prior("photo-64"), pairs)
        scores = [
            [
                psnr(
                    by_prior(
                        prior,
                        t + s / 255 * torch.randn(t.shape, generator=inverse.seeded("bm3d", s, i)),
                        s / 255,
                    ),
                    t,
                )
                for i, t in enumerate(truths)
            ]
            for s in LEVELS
        ]
        found[name] = {
            f"denoise {s}": sum(row) / len(row) for s, row in zip(LEVELS, scores, strict=True)
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--samples", type=int, default=16, help="calibration draws")
    parser.add_argument("--side", type=int, default=64, help="of the draws (pixels)")
    parser.add_argument(
        "--out", type=Path, required=True, help="stem of the .md and .json to write"
    )
    arguments = parser.parse_args()

    truths = photographs(arguments.images, arguments.count, arguments.size)
    priors = variants(arguments.samples, arguments.side)
    times, sizes = (
        seconds(priors, arguments.size),
        {name: bytes_on_disk(prior) / 2**20 for name, (prior, _) in priors.items()},
    )
    scores = {name: on_photographs(prior, half, truths) for name, (prior, half) in priors.items()}
    columns = list(scores["float32"])
    lines = [
        f"| photo-64 | file (MiB) | seconds | {' | '.join(f'{c} (dB)' for c in columns)} |",
        "|---" * (len(columns) + 3) + "|",
    ]
    lines += [
        f"| {name} | {sizes[name]:.1f} | {times[name]:.2f} | "
        + " | ".join(f"{scores[name][c]:.2f}" for c in columns)
        + " |"
        for name in priors
    ]
    tried = calibrations(truths, arguments.samples, arguments.side)
    lines += [
        "",
        f"| inputs calibrated at | {' | '.join(f'denoise {s} (dB)' for s in LEVELS)} |",
        "|---" * (len(LEVELS) + 1) + "|",
    ]
    lines += [
        f"| {name} | " + " | ".join(f"{value:.2f}" for value in row.values()) + " |"
        for name, row in tried.items()
    ]
    exact = {bits: closed_form(bits) for bits in (16, 8, 6, 4)}
    lines += [
        "",
        "| bits of the Gaussian's basis | error of the posterior mean | error of its deviations |",
        "|---|---|---|",
    ]
    lines += [f"| {bits} | {mean:.2g} | {spread:.2g} |" for bits, (mean, spread) in exact.items()]
    arguments.out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    about = {key: str(value) for key, value in vars(arguments).items()} | {
        "torch": torch.__version__
    }
    found = {
        "about": about,
        "seconds": times,
        "MiB": sizes,
        "psnr": scores,
        "calibration": tried,
        "closed form": exact,
    }
    arguments.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
