"""Two mirrored modes whose masses the measurement leaves unchanged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

import inverse
from inverse.errors import OptionError
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

    sigma_y: float = 0.1
    mass: float = 0.5
    std: float = 0.3
    correlation: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.mass < 1:
            raise OptionError(f"bimodal: mass must lie between 0 and 1, got {self.mass:g}")
        if not -1 < self.correlation < 1:
            raise OptionError(
                f"bimodal: correlation must lie between -1 and 1, got {self.correlation:g}"
            )
        if not self.std > 0:
            raise OptionError(f"bimodal: std must be positive, got {self.std:g}")

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
