"""Structure networks on disk: weights in half precision, and the card beside them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from inverse.errors import PriorError
from inverse.priors.card_schema import Fields, Number
from inverse.priors.cards import Card
from inverse.priors.networks.unet import UNetConfig
from inverse.registry.options import build
from inverse.registry.types import Positive, Range
from inverse_plugins.structure.diffusion_network import ConditionalConfig, ConditionalNetwork
from inverse_plugins.structure.structure_network import StructureConfig, StructureNetworks

Scale = Literal["2", "4", "8", "16", "32", "64"]
"""Side of the averaged squares (pixels), as a name in JSON."""


@dataclass(frozen=True, kw_only=True)
class StructureCard(Card):
    """Description of trained structure networks.

    Args:
        structure: fields of `StructureConfig`.
        corpus: fields of the `BlurCorpus` that the networks were trained on.
        errors: by scale, on held-out photographs: root mean square errors of the networks and of
            the averaged blurry picture, intensities; the gain in dB; and the root mean square of
            the error over tau, which is 1 for calibrated networks.
        colour: root mean square error of the blurry picture's coarse colour (`coarse_colour`) at
            the coarsest scale, intensities.
        beta, crps: tempering by scale for `structure-prior`, with a "known" kernel and "blind", and
            the scores that it reaches; see `TemperingFit`.
        network: fields of `UNetConfig` if the file also holds a diffusion network; otherwise empty.
        sigma_data: of that network, model units; see `ConditionalNetwork`.
        denoising: its loss on held-out photographs: guided, unguided, and guided by the structure
            of another photograph ("shuffled").
    """

    kind = "structure"
    folder = "structure"

    structure: Annotated[dict[str, Any], Fields(StructureConfig)]
    corpus: dict[str, Any]
    errors: dict[Scale, dict[str, Number]] = field(default_factory=dict)
    colour: Annotated[float, Range(0, 1e9)] = 0.0
    beta: dict[str, dict[Scale, Positive]] = field(default_factory=dict)
    crps: dict[str, dict[str, Number]] = field(default_factory=dict)
    network: Annotated[dict[str, Any], Fields(UNetConfig)] = field(default_factory=dict)
    sigma_data: Annotated[float, Range(0, 1e9)] = 0.0
    denoising: dict[str, Number] = field(default_factory=dict)

    @property
    def config(self) -> StructureConfig:
        """Architecture of the structure networks."""
        return build(StructureConfig, self.structure)

    @property
    def unet(self) -> UNetConfig:
        """Architecture of the diffusion network."""
        return build(UNetConfig, self.network)


def load_structure(name: str | Path) -> StructureNetworks:
    """Structure networks by shipped name, or by the path of their .safetensors file or card.

    Raises: PriorError for a file that is missing, truncated, a pickle, does not match the hash on
        its card, or holds a diffusion network.
    """
    if StructureCard.read(name).network:
        raise PriorError(
            f"structure {name}: the file holds a diffusion network, for structure-icdpm; "
            "structure-blur holds structure networks alone"
        )
    model = StructureCard.load(name, lambda card, _: StructureNetworks(card.config))
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def load_conditional(name: str | Path) -> ConditionalNetwork:
    """A diffusion network with its structure networks, found as by `load_structure`.

    Raises: PriorError for a file that cannot be loaded, or that holds no diffusion network.
    """
    if not StructureCard.read(name).network:
        raise PriorError(
            f"structure {name}: the file holds no diffusion network; "
            "`inverse train-structure --diffusion` makes one that does"
        )

    def network(card: StructureCard, _: object) -> ConditionalNetwork:
        return ConditionalNetwork(ConditionalConfig(card.config, card.unet), card.sigma_data)

    model = StructureCard.load(name, network)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def save_structure(
    model: StructureNetworks | ConditionalNetwork,
    path: Path,
    corpus: dict[str, Any],
    **about: Any,
) -> StructureCard:
    """Write networks in half precision, and the card beside them; returns the card.

    Args:
        model: networks to save.
        path: the weights, .safetensors.
        corpus: fields of the `BlurCorpus` that the networks were trained on.
        about: descriptive fields of `StructureCard`: training, errors, colour, beta, crps,
            denoising, licence, limits.
    """
    structure = model.config
    if isinstance(structure, ConditionalConfig):
        about |= {"network": structure.unet.to_dict(), "sigma_data": model.sigma_data}
        structure = structure.structure
    state = {k: v.half() for k, v in model.state_dict().items()}
    return StructureCard.save(path, state, structure=asdict(structure), corpus=corpus, **about)
