"""Compressed sensing: least squares with few wavelet coefficients, by FISTA.

Lustig, Donoho, Pauly, Sparse MRI: The Application of Compressed Sensing for Rapid MR Imaging,
Magnetic Resonance in Medicine 2007, https://doi.org/10.1002/mrm.21391; Beck, Teboulle, A Fast
Iterative Shrinkage-Thresholding Algorithm for Linear Inverse Problems, SIAM J. Imaging Sci. 2009.

    W orthonormal wavelet transform, soft(c, t) = sign(c) max(|c| - t, 0)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

import inverse

ROOT3 = math.sqrt(3)
DB2 = [(1 + ROOT3), (3 + ROOT3), (3 - ROOT3), (1 - ROOT3)]
LOW = torch.tensor(DB2, dtype=torch.float64) / (4 * math.sqrt(2))
"""Scaling filter of Daubechies' wavelet with two vanishing moments."""
HIGH = LOW.flip(0) * torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)


@dataclass(frozen=True)
class L1Wavelet(inverse.Method):
    """argmin |y - A x|^2 / 2 + lambda |W x|_1 in physical units; W x without its coarsest part.

    W is Daubechies' wavelet with two vanishing moments on the image, continued by zeros to a
    multiple of 2^levels. Each step uses another shift of the image, so that no grid shows
    (Figueiredo, Nowak, IEEE TIP 2003).

    Args:
        steps: iterations.
        lambda_: weight of the wavelet coefficients; auto is strength sigma_y.
        strength: factor of the automatic weight.
        levels: scales of the transform.
    """

    name = "l1-wavelet"
    group = "baselines"
    reference = (
        "Lustig, Donoho, Pauly, Sparse MRI, Magnetic Resonance in Medicine 2007, "
        "https://doi.org/10.1002/mrm.21391"
    )
    equation = "argmin_x |y - A x|^2 / 2 + lambda |W x|_1"
    claim = "none"
    units = "lambda = strength sigma_y weighs |W x| against |y - A x|^2, which grows by the square"
    needs = ("linear", "gaussian", "image")

    steps: inverse.Count = 100
    lambda_: inverse.NonNegative | None = None
    strength: inverse.NonNegative = 1.0
    levels: Annotated[int, inverse.Range(1, 12)] = 4

    def derived(self, posterior):
        return {"lambda": self._lambda(posterior)}

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor]:
        prior, step = posterior.prior, 1 / posterior.norm**2
        threshold = step * self._lambda(posterior) * prior.scale
        x = prior.encode(posterior.zeros())
        black, z, momentum = x, x, 1.0
        for index in range(self.steps):
            target = z + step * posterior.A_adjoint(posterior.residual(z)) - black
            new = black + shrunk(target, threshold, self.levels, index)
            faster = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
            z = new + (momentum - 1) / faster * (new - x)
            x, momentum = new, faster
            yield x

    def _lambda(self, posterior):
        return self.strength * posterior.sigma_y if self.lambda_ is None else self.lambda_


def shrunk(x: Tensor, threshold: float, levels: int, index: int = 0) -> Tensor:
    """W^T soft(W x, threshold) of images (B, C, H, W), shifted by a place that `index` chooses."""
    height, width = x.shape[-2:]
    levels = min(levels, max(1, int(math.log2(min(height, width))) - 1))
    unit = 2**levels
    down, right = (5 * index) % unit, (3 * index) % unit
    whole = F.pad(x, (0, -width % unit, 0, -height % unit)).roll((down, right), (-2, -1))
    coarse, details = analysis(whole, levels)
    details = [torch.sign(d) * (d.abs() - threshold).clamp_min(0) for d in details]
    return synthesis(coarse, details).roll((-down, -right), (-2, -1))[..., :height, :width]


def analysis(x: Tensor, levels: int) -> tuple[Tensor, list[Tensor]]:
    """W x on a torus: the coarse part and the details of each level, finest first.

    Args:
        x: (B, C, H, W), sides divisible by 2^levels.
    """
    details = []
    for _ in range(levels):
        parts = _split(x)
        x, detail = parts[:, :, 0], parts[:, :, 1:]
        details.append(detail)
    return x, details


def synthesis(coarse: Tensor, details: list[Tensor]) -> Tensor:
    """The image of its wavelet coefficients, W^T."""
    for detail in reversed(details):
        coarse = _join(torch.cat([coarse[:, :, None], detail], 2))
    return coarse


def _filters(like: Tensor) -> Tensor:
    """The four products of the two filters: (4, 1, 4, 4)."""
    pair = torch.stack([LOW, HIGH]).to(like)
    return torch.einsum("ai,bj->abij", pair, pair).reshape(4, 1, 4, 4)


def _split(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 4, H / 2, W / 2), periodic."""
    images = F.pad(x.flatten(0, 1)[:, None], (0, 2, 0, 2), mode="circular")
    return F.conv2d(images, _filters(x), stride=2).unflatten(0, x.shape[:2])


def _join(parts: Tensor) -> Tensor:
    """The adjoint and inverse of `_split`."""
    images = F.conv_transpose2d(parts.flatten(0, 1), _filters(parts), stride=2)
    images[..., :2, :] += images[..., -2:, :]
    images[..., :, :2] += images[..., :, -2:]
    return images[:, 0, :-2, :-2].unflatten(0, parts.shape[:2])


@inverse.hookimpl
def inverse_methods():
    return [L1Wavelet]
