"""Two mirrored modes whose masses the measurement leaves unchanged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

import inverse
from inverse.priors.analytic import MixturePrior
from inverse_problems._conjugate import Conjugate


@dataclass(frozen=True)
class Bimodal(Conjugate):
    """Mirrored Gaussians around (1, 0) and (-1, 0), measured along the mirror: y = x_2 + noise.

    The modes have opposite correlations of x_1 and x_2. A measurement therefore moves the modes,
    x_1 -> +-(1 + gain y), but leaves their prior masses unchanged. A mode-seeking method shows up
    as a mass near 0 or 1.

    Args:
        mass: probability of the right mode, in (0, 1).
        std: standard deviation of each coordinate within a mode.
        correlation: correlation of the coordinates in the right mode, in (-1, 1).
    """

    name = "bimodal"
    summary = "two mirrored modes, a measurement along the mirror; closed-form posterior"
    cases: ClassVar[dict[str, dict[str, Any]]] = {"bimodal": {}}

    sigma_y: inverse.Positive = 0.1
    mass: Annotated[float, inverse.Range(above=0, below=1)] = 0.5
    std: Annotated[float, inverse.Range(above=0, high=1e6)] = 0.3
    correlation: Annotated[float, inverse.Range(above=-1, below=1)] = 0.8

    def law(self) -> MixturePrior:
        """The mixture of two Gaussians in the plane, float64."""
        right = self.std**2 * torch.tensor(
            [[1.0, self.correlation], [self.correlation, 1.0]], dtype=torch.float64
        )
        mirror = torch.diag(torch.tensor([-1.0, 1.0], dtype=torch.float64))
        means = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
        return MixturePrior(
            torch.tensor([self.mass, 1 - self.mass], dtype=torch.float64),
            means,
            torch.stack([right, mirror @ right @ mirror]),
        )

    def matrix(self) -> Tensor:
        """The projection onto x_2: (1, 2), float64."""
        return torch.tensor([[0.0, 1.0]], dtype=torch.float64)


@inverse.hookimpl
def inverse_problems():
    return [Bimodal]
