"""Patches of photographs: an empirical law whose denoiser and posterior are mixtures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

import inverse
from inverse.priors.analytic import MixturePrior
from inverse.problem import shipped_images
from inverse_problems._conjugate import Conjugate

SIDE = 8
"""Side of a patch (pixels)."""


@dataclass(frozen=True)
class PhotoPatches(Conjugate):
    """A stored patch of a photograph, of equal probability each, smoothed by white noise:

        p(x) = 1/N sum_k N(x; patch_k, smoothing^2 I)

    The patches are 8x8 grey pixels of the shipped photographs at a quarter of their resolution. The
    denoiser is that of an empirical prior, and the posterior a mixture of N terms.

    Args:
        view: reduction (means of 4x4 pixels) or pixels (a fifth of the pixels, chosen at random).
        smoothing: standard deviation around a patch (intensity).
        patches: N.
    """

    name = "photo-patches"
    summary = "stored 8x8 patches of photographs with a little noise; closed-form posterior"
    cases: ClassVar[dict[str, dict[str, Any]]] = {
        f"patches {view}": {"view": view} for view in ("reduction", "pixels")
    }
    photographic: ClassVar[bool] = True

    sigma_y: inverse.Positive = 0.05
    view: Literal["reduction", "pixels"] = "reduction"
    smoothing: Annotated[float, inverse.Range(above=0, high=1)] = 0.05
    patches: Annotated[int, inverse.Range(4, 256)] = 200

    def law(self) -> MixturePrior:
        """The mixture in model units, images (1, 8, 8), float64."""
        from inverse.io.images import read_image

        pictures = torch.stack(
            [read_image(path, 1).pixels for path in shipped_images()], 0
        ).double()
        small = torch.nn.functional.avg_pool2d(pictures, 4)
        tiles = small.unfold(2, SIDE, SIDE).unfold(3, SIDE, SIDE).reshape(-1, 1, SIDE, SIDE)
        order = torch.randperm(len(tiles), generator=inverse.seeded("photo-patches"))
        means = 2 * tiles[order[: self.patches]] - 1
        variance = torch.full((1,), (2 * self.smoothing) ** 2, dtype=torch.float64)
        weights = torch.ones(len(means), dtype=torch.float64)
        return MixturePrior(weights, means, variance, shift=0.5, scale=0.5)

    def matrix(self) -> Tensor:
        """The forward matrix (m, 64) in physical units, float64."""
        if self.view == "reduction":
            line = torch.eye(SIDE // 4, dtype=torch.float64).repeat_interleave(4, 1) / 4
            return torch.kron(line, line)
        order = torch.randperm(SIDE**2, generator=inverse.seeded("photo-patches", "pixels"))
        return torch.eye(SIDE**2, dtype=torch.float64)[order[: SIDE**2 // 5].sort().values]


@inverse.hookimpl
def inverse_problems():
    return [PhotoPatches]
