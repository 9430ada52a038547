"""How far a prior's unconditional samples are from held-out images: a kernel distance on the features of a shipped network.

    python bench/distance.py --prior photo-64 --images ../shared/data/tiny_imagenet64_val_jpeg.npz --size 64 --samples 200 --out docs/tables/distance-photo-64
    python bench/distance.py --prior mri-96 --images out/mri/held-out.npz --size 96 --samples 48 --out docs/tables/distance-mri-96
    python bench/distance.py --prior digits-28 --images ../shared/data/mnist_test.npz --every 33 --size 28 --samples 150 --out docs/tables/distance-digits-28

Features: photo-64 sees x0 + 0.2 n (model units; grey repeated to three channels); the output of its deepest level, averaged over pixels, 256
numbers, each divided by its deviation over the first half of the held-out images. Distance: the unbiased squared maximum mean discrepancy with
the kernel (1 + f g / 256)^3, as in KID (Binkowski et al., Demystifying MMD GANs, ICLR 2018, https://arxiv.org/abs/1801.01401); the usual
Inception network cannot be had without a download. The floor is the second half of the held-out images against the first; for scale, images
with the power spectra of the second half and random phases. Standard errors by 200 bootstrap draws of the compared set.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from denoise import held_out
from torch import Tensor

import inverse
from inverse.checks.prior import own_draws
from inverse.io.images import grid, write_png

SIGMA = 0.2


def features(network: inverse.NetworkPrior, images: Tensor) -> Tensor:
    """images (N, C, H, W) in [0, 1] -> (N, 256), in float64."""
    kept: list[Tensor] = []
    hook = network.network.down[-1][-1].register_forward_hook(
        lambda module, inputs, output: kept.append(output.mean((2, 3)).double())
    )
    with torch.no_grad():
        for index, image in enumerate(images):
            x = network.encode(image.expand(3, -1, -1)[None])
            network(
                x + SIGMA * torch.randn(x.shape, generator=inverse.seeded("features", index)),
                torch.tensor(SIGMA),
            )
    hook.remove()
    return torch.cat(kept)


def kernel(f: Tensor, g: Tensor) -> Tensor:
    return (1 + f @ g.T / f.shape[1]) ** 3


def distance(reference: Tensor, other: Tensor) -> float:
    """Unbiased MMD^2 of features (n, d) and (m, d)."""
    n, m = len(reference), len(other)
    own = ((k := kernel(reference, reference)).sum() - k.trace()) / (n * (n - 1))
    theirs = ((k := kernel(other, other)).sum() - k.trace()) / (m * (m - 1))
    return float(own + theirs - 2 * kernel(reference, other).mean())


def with_error(reference: Tensor, other: Tensor) -> tuple[float, float]:
    """The distance, and its standard error over halves of the compared set drawn without replacement (which have twice its variance)."""
    halves = [
        torch.randperm(len(other), generator=inverse.seeded("halves", i))[: len(other) // 2]
        for i in range(200)
    ]
    spread = torch.tensor(
        [distance(reference, other[half]) for half in halves], dtype=torch.float64
    ).std()
    return distance(reference, other), float(spread)


def random_phases(images: Tensor) -> Tensor:
    """Images with the spectra of these and the phases of white noise, their means kept."""
    spectrum = torch.fft.rfft2(images)
    noise = torch.fft.rfft2(torch.randn(images.shape, generator=inverse.seeded("phases")))
    turned = torch.fft.irfft2(spectrum.abs() * noise / noise.abs(), s=images.shape[-2:])
    return (turned - turned.mean((2, 3), keepdim=True) + images.mean((2, 3), keepdim=True)).clamp(
        0, 1
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prior", required=True)
    parser.add_argument(
        "--images", type=Path, required=True, help="held-out images: a folder or an .npz"
    )
    parser.add_argument(
        "--size", type=int, required=True, help="side of samples and crops (pixels)"
    )
    parser.add_argument("--every", type=int, default=1, help="of an .npz: take one of so many")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--steps", type=int, default=24, help="of Heun's method")
    parser.add_argument(
        "--out", type=Path, required=True, help="stem of the .md and .json to write"
    )
    arguments = parser.parse_args()

    prior, network = inverse.load_prior(arguments.prior), inverse.load_prior("photo-64")
    real = torch.stack(
        held_out(arguments.images, 300, arguments.size, prior.shape[0] or 3, arguments.every)
    )
    real = real[torch.randperm(len(real), generator=inverse.seeded("split"))]
    halves = real[: len(real) // 2], real[len(real) // 2 :]
    batches = [
        own_draws(prior, min(16, arguments.samples - i), arguments.size, arguments.steps, seed=i)
        for i in range(0, arguments.samples, 16)
    ]
    drawn = prior.decode(torch.cat(batches)).clamp(0, 1)
    write_png(arguments.out.with_suffix(".png"), grid(drawn[:32]))
    reference = features(network, halves[0])
    scale = reference.std(0)
    sets = {
        "held-out images (the floor)": halves[1],
        f"samples of {arguments.prior}": drawn,
        "random phases": random_phases(halves[1]),
    }
    rows = [
        (name, len(images), *with_error(reference / scale, features(network, images) / scale))
        for name, images in sets.items()
    ]
    lines = [
        f"| compared with {len(reference)} held-out images | images | kernel distance |",
        "|---|---|---|",
    ]
    lines += [
        f"| {name} | {count} | {value:.4f} ± {error:.4f} |" for name, count, value, error in rows
    ]
    arguments.out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    about = {key: str(value) for key, value in vars(arguments).items()} | {
        "torch": torch.__version__,
        "features": f"photo-64 at sigma {SIGMA}",
    }
    arguments.out.with_suffix(".json").write_text(
        json.dumps({"about": about, "rows": rows}, indent=1) + "\n"
    )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
