"""Structure networks on disk: a file of weights in half precision, and the card beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from inverse.errors import OptionError, PriorError
from inverse.network import UNetConfig
from inverse.shelf import read_card, verified, write_card, write_weights
from inverse.structure.conditional import Conditional, ConditionalConfig
from inverse.structure.network import Structure, StructureConfig

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class StructureCard:
    """What trained structure networks are; the weights, in half precision, are `file` beside it.

    Args:
        name: of the networks; the card is `<name>.json`.
        sha256: of the file.
        structure: fields of `StructureConfig`.
        corpus: fields of `BlurCorpus`: the blurs they were trained on.
        training: data, command, seed, steps, loss.
        errors: by scale, on held-out photographs: root mean square errors of the networks and of the averaged blurry picture, in
            intensities; the gain in dB; and the root mean square of the error over tau, which would be 1.
        colour: root mean square error of the blurry picture's own coarse colour (`coarse_colour`) at the coarsest scale, intensities.
        beta, crps: tempering by scale for `structure-prior`, with a "known" kernel and "blind", and what it gained; see `Calibration`.
        network: fields of `UNetConfig`, where the file also holds a diffusion network that they guide; otherwise empty.
        sigma_data: of that network, see `Conditional`.
        denoising: its loss on held-out photographs, guided, unguided, and guided by the structure of another photograph.
        licence: of the weights and the terms of the data.
        limits: what they are known not to do.
    """

    name: str
    file: str
    sha256: str
    structure: dict[str, Any]
    corpus: dict[str, Any]
    training: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    colour: float = 0.0
    beta: dict[str, dict[str, float]] = field(default_factory=dict)
    crps: dict[str, dict[str, float]] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    sigma_data: float = 0.0
    denoising: dict[str, float] = field(default_factory=dict)
    licence: str = ""
    limits: str = ""

    @property
    def config(self) -> StructureConfig:
        return StructureConfig(**{k: tuple(v) for k, v in self.structure.items()})

    @property
    def unet(self) -> UNetConfig:
        lists: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in self.network.items()}
        return UNetConfig(**lists)


def structure_card(name: str | Path) -> StructureCard:
    """The card of shipped networks, by their name, or that of a `.safetensors` file or card by its path.

    Raises: PriorError if it is missing, not JSON, or lacks a field.
    """
    return read_card("structure", name, StructureCard)[1]


def load_structure(name: str | Path) -> Structure:
    """Structure networks by the name of shipped ones, or by the path of their `.safetensors` file or card.

    Raises: PriorError for a file that is missing, truncated, a pickle, or of another hash than the card's, or that is a diffusion network's.
    """
    if structure_card(name).network:
        raise PriorError(f"structure {name}: the file is that of a diffusion network, for structure-icdpm; structure-blur holds the networks alone")
    return _load(name, lambda card: Structure(card.config))


def load_conditional(name: str | Path) -> Conditional:
    """An image-conditioned diffusion network and its structure networks, as `load_structure` finds them."""
    if not structure_card(name).network:
        raise PriorError(f"structure {name}: the file holds no diffusion network; `inverse train-structure --diffusion` makes one that does")
    return _load(name, lambda card: Conditional(ConditionalConfig(card.config, card.unet), card.sigma_data))


def _load(name: str | Path, make: Callable[[StructureCard], Model]) -> Model:
    """The network of a card, ready to be used; the caller's random numbers are left alone."""
    path, card = read_card("structure", name, StructureCard)
    state = verified("structure", path, card.file, card.sha256)
    try:
        with torch.random.fork_rng(devices=[]):
            model = make(card)
        model.load_state_dict({k: v.float() for k, v in state.items()})
    except (RuntimeError, TypeError, OptionError) as error:
        raise PriorError(f"structure {path.with_name(card.file)}: does not fit its card ({str(error).splitlines()[0]})") from error
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def save_structure(model: Structure | Conditional, path: Path, corpus: dict[str, Any], **about: Any) -> StructureCard:
    """Write networks to `path` (.safetensors) in half precision and the card beside it; returns the card.

    Args:
        corpus: fields of the `BlurCorpus` that they were trained on.
        about: the descriptive fields of `StructureCard`: training, errors, colour, beta, crps, denoising, licence, limits.
    """
    if isinstance(model, Conditional):
        about |= {"network": model.config.unet.to_dict(), "sigma_data": model.sigma_data}
    structure = model.config.structure if isinstance(model, Conditional) else model.config
    digest = write_weights("structure", path, {k: v.half() for k, v in model.state_dict().items()})
    card = StructureCard(path.stem, path.name, digest, asdict(structure), corpus, **about)
    write_card(card, path)
    return card
