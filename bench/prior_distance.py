r"""Measure the kernel distance of a prior's unconditional samples from held-out images.

    python bench/prior_distance.py --prior photo-64 \
        --images "$INVERSE_DATA/tiny_imagenet64_val_jpeg.npz" --size 64 --samples 200 \
        --out results/tables/distance-photo-64
    python bench/prior_distance.py --prior mri-96 --images out/mri/held-out.npz --size 96 \
        --samples 48 --out results/tables/distance-mri-96
    python bench/prior_distance.py --prior digits-28 --images "$INVERSE_DATA/mnist_test.npz" \
        --every 33 --size 28 --samples 150 --out results/tables/distance-digits-28

Features: the network photo-64 receives x0 + 0.2 n (model units; grey images are repeated to three
channels). The features are the 256 outputs of its deepest level, averaged over pixels and divided
by their standard deviations over the first half of the held-out images. The usual Inception network
would need a download.
Distance: the unbiased squared maximum mean discrepancy with the kernel (1 + f g / 256)^3, as in KID
(Binkowski et al., Demystifying MMD GANs, ICLR 2018, https://arxiv.org/abs/1801.01401).
Two sets give the scale: the second half of the held-out images (the floor), and images with the
power spectra of that half and random phases. Standard errors come from 200 random halves of the
compared set.
"""

from __future__ import annotations

from pathlib import Path

import torch
from images import held_out
from options import add_out, new_parser
from output import markdown_table, write_table
from torch import Tensor

import inverse
from inverse.checks.denoiser_identities import own_draws
from inverse.io.images import grid, write_png

SIGMA = 0.2


def features(network: inverse.NetworkPrior, images: Tensor) -> Tensor:
    """Features of images: (N, C, H, W) in [0, 1] -> (N, 256), float64."""
    outputs: list[Tensor] = []
    hook = network.network.down[-1][-1].register_forward_hook(
        lambda module, inputs, output: outputs.append(output.mean((2, 3)).double())
    )
    with torch.no_grad():
        for index, image in enumerate(images):
            x = network.encode(image.expand(3, -1, -1)[None])
            noise = torch.randn(x.shape, generator=inverse.seeded("features", index))
            network(x + SIGMA * noise, torch.tensor(SIGMA))
    hook.remove()
    return torch.cat(outputs)


def kernel(f: Tensor, g: Tensor) -> Tensor:
    """Cubic kernel of all pairs: (n, d), (m, d) -> (n, m)."""
    return (1 + f @ g.T / f.shape[1]) ** 3


def mean_of_pairs(f: Tensor) -> Tensor:
    """Mean kernel over pairs of different images."""
    k = kernel(f, f)
    return (k.sum() - k.trace()) / (len(f) * (len(f) - 1))


def kernel_distance(reference: Tensor, other: Tensor) -> float:
    """Unbiased MMD^2 of features (n, d) and (m, d)."""
    within = mean_of_pairs(reference) + mean_of_pairs(other)
    return float(within - 2 * kernel(reference, other).mean())


def standard_error(reference: Tensor, other: Tensor) -> float:
    """Standard deviation of the distance over random halves of the compared set.

    A mean over half of m images drawn without replacement varies by s^2 (2 / m - 1 / m) = s^2 / m
    around the mean of all, which is the variance of the mean of all m.
    """
    distances = []
    for i in range(200):
        order = torch.randperm(len(other), generator=inverse.seeded("halves", i))
        distances.append(kernel_distance(reference, other[order[: len(other) // 2]]))
    return float(torch.tensor(distances, dtype=torch.float64).std())


def random_phases(images: Tensor) -> Tensor:
    """Images with the spectra and means of these images and the phases of white noise."""
    spectrum = torch.fft.rfft2(images)
    noise = torch.fft.rfft2(torch.randn(images.shape, generator=inverse.seeded("phases")))
    scrambled = torch.fft.irfft2(spectrum.abs() * noise / noise.abs(), s=images.shape[-2:])
    centred = scrambled - scrambled.mean((2, 3), keepdim=True)
    return (centred + images.mean((2, 3), keepdim=True)).clamp(0, 1)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--prior", required=True)
    parser.add_argument(
        "--images", type=Path, required=True, help="held-out images (folder or .npz)"
    )
    parser.add_argument(
        "--size", type=int, required=True, help="side of the samples and crops (pixels)"
    )
    parser.add_argument(
        "--every", type=int, default=1, help="step between the images taken from an .npz"
    )
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--steps", type=int, default=24, help="steps of Heun's method")
    add_out(parser, required=True)
    arguments = parser.parse_args()

    prior, network = inverse.load_prior(arguments.prior), inverse.load_prior("photo-64")
    channels = prior.shape[0] or 3
    images = torch.stack(held_out(arguments.images, 300, arguments.size, channels, arguments.every))
    images = images[torch.randperm(len(images), generator=inverse.seeded("split"))]
    halves = images[: len(images) // 2], images[len(images) // 2 :]
    batches = [
        own_draws(prior, min(16, arguments.samples - i), arguments.size, arguments.steps, seed=i)
        for i in range(0, arguments.samples, 16)
    ]
    samples = prior.decode(torch.cat(batches)).clamp(0, 1)
    write_png(arguments.out.with_suffix(".png"), grid(samples[:32]))
    reference = features(network, halves[0])
    scale = reference.std(0)
    sets = {
        "held-out images (the floor)": halves[1],
        f"samples of {arguments.prior}": samples,
        "random phases": random_phases(halves[1]),
    }
    rows = []
    for name, compared in sets.items():
        pair = reference / scale, features(network, compared) / scale
        rows.append((name, len(compared), kernel_distance(*pair), standard_error(*pair)))
    table = markdown_table(
        [f"compared with {len(reference)} held-out images", "images", "kernel distance"],
        [[name, str(count), f"{value:.4f} ± {error:.4f}"] for name, count, value, error in rows],
    )
    about = {key: str(value) for key, value in vars(arguments).items()} | {
        "torch": torch.__version__,
        "features": f"photo-64 at sigma {SIGMA}",
    }
    write_table(arguments.out, table, {"about": about, "rows": rows})
    print(table)


if __name__ == "__main__":
    main()
