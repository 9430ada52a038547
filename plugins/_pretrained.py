"""Pretrained reconstruction networks: weights by path, called as deepinv reconstructors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import inverse
from inverse.priors.networks.state_dicts import read_tensors


@dataclass(frozen=True)
class Pretrained(inverse.Method):
    """A network that was trained to reconstruct; a subclass builds it and calls it.

    Args:
        weights: file of the weights (.pth, .pt, .ckpt, .tar, .safetensors).
    """

    group = "baselines"
    claim = "biased"
    limit = {}

    weights: Path | None = None

    total = 1

    def unsupported(self, posterior):
        missing = None if self.weights else f"{self.name} needs --set weights=FILE, its weights"
        return super().unsupported(posterior) or missing

    def run(
        self, posterior: inverse.Posterior, samples: int, generator: inverse.Generators
    ) -> Iterator[Tensor | inverse.Weighted]:
        weights = read_tensors(Path(str(self.weights)), label=self.name)
        network = self.network(weights).eval().requires_grad_(False)
        network = network.to(posterior.device, posterior.dtype)
        reconstruct = inverse.from_reconstructor(self.reconstructor(network, posterior))
        yield from reconstruct.run(posterior, samples, generator)

    @abstractmethod
    def network(self, weights: dict[str, Tensor]) -> nn.Module:
        """The network with these weights.

        Raises: PriorError for weights of another network.
        """

    @abstractmethod
    def reconstructor(
        self, network: nn.Module, posterior: inverse.Posterior
    ) -> Callable[[Tensor, Any], Tensor]:
        """The call of the network: (y (1, ...), physics) -> x (1, *shape), intensities."""
