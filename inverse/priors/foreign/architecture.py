"""The contract of a foreign architecture: a frozen dataclass that reads itself off a state dict.

    fields = GuidedDiffusion.read(weights)       # what names and shapes tell
    layout = GuidedDiffusion(**fields)           # the other fields are options
    prior = layout.prior(layout.network())

A plug-in registers further architectures through the hook `inverse_architectures`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from inverse.priors.prior import Prior
from inverse.registry.options import check_options


@dataclass(frozen=True)
class Architecture(ABC):
    """A network layout of another project. Its fields need defaults, those of a common network.

    Attributes:
        name: of the architecture, in cards and messages.
        reference: the paper, and the code that wrote such weights.
        limits: what a card says of every such network.
    """

    name: ClassVar[str]
    reference: ClassVar[str]
    limits: ClassVar[str] = ""

    def __post_init__(self) -> None:
        check_options(self)

    @classmethod
    @abstractmethod
    def read(cls, weights: dict[str, Tensor]) -> dict[str, Any]:
        """The fields that the names and shapes of the weights tell.

        Raises: LookupError if an expected weight is missing, i.e. for another architecture.
        """

    @abstractmethod
    def network(self) -> nn.Module:
        """The network with initial weights; its state dict has the original names."""

    @abstractmethod
    def prior(self, network: nn.Module) -> Prior:
        """The denoiser of a loaded network.

        Raises: PriorError if an option that the weights do not tell is missing.
        """


def count(weights: dict[str, Tensor], pattern: str) -> int:
    """How many of `pattern.format(0)`, `pattern.format(1)`, ... are names of weights."""
    n = 0
    while pattern.format(n) in weights:
        n += 1
    return n


def padded(network: Callable[..., Tensor], x: Tensor, multiple: int, *rest: Tensor) -> Tensor:
    """network(x, *rest) at sides that are multiples of `multiple`, cropped to those of x.

    x (B, C, H, W) is extended by its edge at the bottom and on the right.
    """
    height, width = x.shape[-2:]
    right, bottom = -width % multiple, -height % multiple
    if right or bottom:
        x = F.pad(x, (0, right, 0, bottom), mode="replicate")
    return network(x, *rest)[..., :height, :width]
