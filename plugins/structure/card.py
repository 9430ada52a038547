"""Structure networks on disk: a file of weights in half precision, and the card beside it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from inverse.errors import PriorError
from inverse.priors.cards import Card
from inverse.priors.networks.unet import UNetConfig
from inverse.registry.options import build
from inverse_plugins.structure.conditional import Conditional, ConditionalConfig
from inverse_plugins.structure.network import Structure, StructureConfig


@dataclass(frozen=True, kw_only=True)
class StructureCard(Card):
    """What trained structure networks are; the weights are in half precision.

    Args:
        structure: fields of `StructureConfig`.
        corpus: fields of `BlurCorpus`: the blurs they were trained on.
        errors: by scale, on held-out photographs: root mean square errors of the networks and of the averaged blurry picture, in
            intensities; the gain in dB; and the root mean square of the error over tau, which would be 1.
        colour: root mean square error of the blurry picture's own coarse colour (`coarse_colour`) at the coarsest scale, intensities.
        beta, crps: tempering by scale for `structure-prior`, with a "known" kernel and "blind", and what it gained; see `Calibration`.
        network: fields of `UNetConfig`, where the file also holds a diffusion network that they guide; otherwise empty.
        sigma_data: of that network, see `Conditional`.
        denoising: its loss on held-out photographs, guided, unguided, and guided by the structure of another photograph.
    """

    kind = "structure"
    folder = "structure"

    structure: dict[str, Any]
    corpus: dict[str, Any]
    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    colour: float = 0.0
    beta: dict[str, dict[str, float]] = field(default_factory=dict)
    crps: dict[str, dict[str, float]] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    sigma_data: float = 0.0
    denoising: dict[str, float] = field(default_factory=dict)

    @property
    def config(self) -> StructureConfig:
        return build(StructureConfig, self.structure)

    @property
    def unet(self) -> UNetConfig:
        return build(UNetConfig, self.network)


def load_structure(name: str | Path) -> Structure:
    """Structure networks by the name of shipped ones, or by the path of their `.safetensors` file or card.

    Raises: PriorError for a file that is missing, truncated, a pickle, or of another hash than the card's, or that is a diffusion network's.
    """
    if StructureCard.read(name).network:
        raise PriorError(
            f"structure {name}: the file is that of a diffusion network, for structure-icdpm; structure-blur holds the networks alone"
        )
    model = StructureCard.load(name, lambda card, _: Structure(card.config))
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def load_conditional(name: str | Path) -> Conditional:
    """An image-conditioned diffusion network and its structure networks, as `load_structure` finds them."""
    if not StructureCard.read(name).network:
        raise PriorError(
            f"structure {name}: the file holds no diffusion network; `inverse train-structure --diffusion` makes one that does"
        )
    model = StructureCard.load(
        name,
        lambda card, _: Conditional(ConditionalConfig(card.config, card.unet), card.sigma_data),
    )
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def save_structure(
    model: Structure | Conditional, path: Path, corpus: dict[str, Any], **about: Any
) -> StructureCard:
    """Write networks to `path` (.safetensors) in half precision and the card beside it; returns the card.

    Args:
        corpus: fields of the `BlurCorpus` that they were trained on.
        about: the descriptive fields of `StructureCard`: training, errors, colour, beta, crps, denoising, licence, limits.
    """
    if isinstance(model, Conditional):
        about |= {"network": model.config.unet.to_dict(), "sigma_data": model.sigma_data}
    structure = model.config.structure if isinstance(model, Conditional) else model.config
    state = {k: v.half() for k, v in model.state_dict().items()}
    return StructureCard.save(path, state, structure=asdict(structure), corpus=corpus, **about)
