"""Distances between two sets of images in a space of features, and whether samples are copies.

    Frechet distance    |m - m'|^2 + tr(C + C' - 2 (C C')^1/2), shrunken covariances
    kernel distance     unbiased MMD^2 with (1 + f g / d)^3
    precision, recall   share of samples (held-out images) within the k-th neighbour's radius of one
                        of the other set
    memorisation        share of samples whose nearest training image is closer than that of others
                        that were held out, against the share of chance, 1/2

The network is EfficientNet-Lite0, so that the values are neither FID nor KID nor LPIPS and compare
with each other only. Binkowski et al., Demystifying MMD GANs, ICLR 2018; Kynkaanniemi et al.,
Improved Precision and Recall Metric, NeurIPS 2019, https://arxiv.org/abs/1904.06991.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from inverse.checks.distances import gaussian_w2
from inverse.errors import InputError


@dataclass(frozen=True)
class Distances:
    """Two sets of images compared.

    Args:
        frechet: Frechet distance; it is biased upwards for few images, see `floor`.
        kernel: kernel distance, unbiased.
        kernel_error: its standard error over halves of the samples.
        precision, recall: see the module.
        floor: the same figures for two halves of the held-out images, by name.
        memorised: share of samples nearer to the training images than the median held-out image
            is; None without training images.
    """

    frechet: float
    kernel: float
    kernel_error: float
    precision: float
    recall: float
    floor: dict[str, float]
    memorised: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


def compare(samples: Tensor, held_out: Tensor, training: Tensor | None = None) -> Distances:
    """Compare features of samples (n, d) with those of held-out images (m, d), and training images.

    Raises: InputError for fewer than ten images in a set, or a set whose images are all copies.
    """
    for name, features in (("samples", samples), ("held-out images", held_out)):
        if len(features) < 10:
            raise InputError(f"distance: ten {name} are needed, got {len(features)}")
        spread = (features - features[:1]).abs().amax()
        if not bool(spread > 1e-5 * features.abs().amax()):
            raise InputError(f"distance: all {len(features)} {name} are copies of one image")
    scale = held_out.var(0).mean().sqrt()  # one number: features that never respond have no spread
    f, g = samples / scale, held_out / scale
    first, second = g[::2], g[1::2]
    floor = {
        "frechet": frechet_distance(first, second),
        "kernel": kernel_distance(first, second),
        "precision": coverage_of(first, second),
    }
    memorised = None
    if training is not None:
        nearest = torch.cdist(f, training / scale).amin(1)
        usual = torch.cdist(g, training / scale).amin(1).median()
        memorised = float((nearest < usual).double().mean())
    return Distances(
        frechet_distance(f, g),
        kernel_distance(f, g),
        kernel_error(f, g),
        coverage_of(f, g),
        coverage_of(g, f),
        floor,
        memorised,
    )


def frechet_distance(f: Tensor, g: Tensor) -> float:
    """Squared Wasserstein distance of the Gaussians with the moments of f (n, d) and g (m, d).

    Covariances are shrunken towards multiples of the identity (Ledoit and Wolf, 2004), since d may
    exceed n and m.
    """
    return gaussian_w2(f.mean(0), shrunken_covariance(f), g.mean(0), shrunken_covariance(g)) ** 2


def shrunken_covariance(f: Tensor) -> Tensor:
    """Ledoit and Wolf's covariance of f (n, d): (d, d)."""
    n, d = f.shape
    centred = f - f.mean(0)
    sample = centred.T @ centred / n
    level = sample.trace() / d
    target = level * torch.eye(d, dtype=f.dtype)
    spread = (sample - target).square().sum()
    noise = (centred.square().sum(1).square().sum() / n - sample.square().sum()) / n
    share = float((noise / spread.clamp_min(1e-300)).clamp(0, 1))
    return share * target + (1 - share) * sample


def kernel_distance(f: Tensor, g: Tensor) -> float:
    """Unbiased MMD^2 of f (n, d) and g (m, d) with the cubic kernel."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (1 + a @ b.T / a.shape[1]) ** 3

    def within(a: Tensor) -> Tensor:
        k = kernel(a, a)
        return (k.sum() - k.trace()) / (len(a) * (len(a) - 1))

    return float(within(f) + within(g) - 2 * kernel(f, g).mean())


def kernel_error(f: Tensor, g: Tensor, halves: int = 100) -> float:
    """Standard deviation of the kernel distance over random halves of f, which is that of all."""
    generator = torch.Generator().manual_seed(0)
    values = [
        kernel_distance(f[torch.randperm(len(f), generator=generator)[: len(f) // 2]], g)
        for _ in range(halves)
    ]
    return float(torch.tensor(values, dtype=torch.float64).std())


def coverage_of(f: Tensor, g: Tensor, neighbours: int = 3) -> float:
    """Share of f (n, d) inside a ball around a g (m, d) that reaches its k-th neighbour in g."""
    k = min(neighbours, len(g) - 1)
    radii = torch.cdist(g, g).kthvalue(k + 1, dim=1).values  # the first neighbour is g itself
    return float((torch.cdist(f, g) <= radii).any(1).double().mean())


def verdict(found: Distances, samples: int) -> list[str]:
    """What the figures say, in words."""
    lines = []
    error = math.hypot(found.kernel_error, 1e-12)
    above = (found.kernel - found.floor["kernel"]) / error
    lines.append(f"the kernel distance is {above:.1f} standard errors above the floor")
    if found.memorised is not None:
        deviation = (found.memorised - 0.5) / math.sqrt(0.25 / samples)
        copies = "samples are closer to the training images than held-out images are"
        if deviation > 3:
            lines.append(f"memorisation: {copies} ({deviation:.1f} standard errors)")
        else:
            lines.append("memorisation: no sign of it")
    return lines
