"""A synthetic specimen: thin curved filaments on a dark ground, as microtubules look."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import inverse

COUNT, POINTS, WIDTH = 24, 400, 0.7
"""Filaments, points of each, and their standard deviation (voxels)."""


def filaments(size: tuple[int, ...], seed: int = 0) -> Tensor:
    """Filaments in a picture (height, width) or volume (depth, height, width), largest value 1.

    Each is a smooth random curve; its points are smeared to the voxels around them.
    """
    generator = inverse.seeded(seed, "filaments")
    specimen = torch.zeros(size, dtype=torch.float64)
    grids = torch.meshgrid(*(torch.arange(-2, 3) for _ in size), indexing="ij")
    offsets = torch.stack(grids, -1).reshape(-1, len(size))
    sides = torch.tensor(size, dtype=torch.float64)
    for _ in range(COUNT):
        angle, bend = (torch.randn((), generator=generator, dtype=torch.float64) for _ in range(2))
        t = torch.linspace(0, 1, POINTS, dtype=torch.float64)
        turn = 2 * math.pi * angle + bend * t
        plane = torch.stack([torch.sin(turn), torch.cos(turn)], 1).cumsum(0) / POINTS
        climb = 0.3 * torch.randn((), generator=generator, dtype=torch.float64) * t[:, None]
        path = torch.cat([climb, plane], 1) if len(size) == 3 else plane
        start = torch.rand(len(size), generator=generator, dtype=torch.float64)
        points = (start + 0.9 * path) * sides
        near = points.round().long()
        voxels = near[:, None] + offsets
        weights = torch.exp(-0.5 * ((voxels - points[:, None]) / WIDTH).square().sum(-1))
        inside = ((voxels >= 0) & (voxels < sides.long())).all(-1)
        specimen.index_put_(tuple(voxels[inside].T), weights[inside], accumulate=True)
    return specimen / specimen.max()
