"""The gain that a choice among candidates can be expected to have on new images.

A two-way analysis of variance separates the effect of a candidate from that of an image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Variances:
    """Analysis of losses (K, R) without replication: loss = mean + candidate + image + residual.

    Args:
        between: standard deviation between candidates, the root of an unbiased variance estimate
            (0 where that is negative).
        within: standard deviation of the residual.
        images: standard deviation between images, which no choice of a start changes.
    """

    between: float
    within: float
    images: float

    def gain(self, candidates: int, references: int) -> float:
        """Expected gain on new images of the best of K candidates on R references.

        E[max of K normals] b^2 / sqrt(b^2 + w^2 / R), over a random candidate; units of the loss.
        """
        spread = math.hypot(self.between, self.within / math.sqrt(references))
        return expected_maximum(candidates) * self.between**2 / spread if spread > 0 else 0.0


def anova(losses: Tensor) -> Variances:
    """Analysis of variance of complete losses (K, R), K and R at least 2."""
    losses = losses.double()
    k, r = losses.shape
    rows, columns = losses.mean(1), losses.mean(0)
    residual = losses - rows[:, None] - columns + losses.mean()
    variance = residual.square().sum() / ((k - 1) * (r - 1))
    between = (rows.var() - variance / r).clamp_min(0)
    images = (columns.var() - variance / k).clamp_min(0)
    return Variances(float(between.sqrt()), float(variance.sqrt()), float(images.sqrt()))


def expected_maximum(count: int) -> float:
    """E[max of `count` standard normals] = integral over x > 0 of 1 - F(x)^n - F(-x)^n."""
    x = torch.linspace(0, 12, 12001, dtype=torch.float64)
    below, above = (torch.special.ndtr(sign * x) ** count for sign in (1, -1))
    return float(torch.trapezoid(1 - below - above, x))
