"""Circuits and codecs on disk: parameters in half precision, and the card beside them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from inverse.errors import InputError
from inverse.priors.card_schema import Fields, Length, Number, Width
from inverse.priors.cards import Card
from inverse.registry.options import build
from inverse.registry.types import Range
from inverse_plugins.circuits.circuit import Circuit, Leaves
from inverse_plugins.circuits.codec import Codec, CodecConfig
from inverse_plugins.circuits.graph import Region, RegionGraph


@dataclass(frozen=True, kw_only=True)
class CodecCard(Card):
    """Description of a trained codec.

    Args:
        network: fields of `CodecConfig`.
        residual: root mean square error of decoded held-out images, intensities in [0, 1].
        fidelity: PSNR of decoded held-out images (dB), and perplexity of their codes.
    """

    kind = "codec"
    folder = "circuits"

    network: Annotated[dict[str, Any], Fields(CodecConfig)]
    residual: Annotated[float, Range(0, 1e9)]
    fidelity: dict[str, Number] = field(default_factory=dict)

    @property
    def config(self) -> CodecConfig:
        """Architecture of the codec."""
        return build(CodecConfig, self.network)


@dataclass(frozen=True, kw_only=True)
class CircuitCard(Card):
    """Description of a trained circuit; its file also holds the region graph.

    Args:
        shape: (height, width) of the grid of variables.
        states, categories, leaves, spread: see `Circuit`.
        bits: bits per variable of held-out and of training data.
        codec: name and sha256 of the codec whose codes are the variables; empty for pixels.
    """

    kind = "circuit"
    folder = "circuits"

    shape: tuple[Length, Length]
    states: Width
    categories: Annotated[int, Range(1, 65536)]
    leaves: Leaves
    spread: Annotated[float, Range(0, 1e9)]
    bits: dict[str, Number] = field(default_factory=dict)
    codec: dict[str, str] = field(default_factory=dict)


def load_codec(name: str | Path) -> Codec:
    """A codec by shipped name, or by the path of its .safetensors file or card.

    Raises: PriorError for a file that is missing, truncated, a pickle, or does not match the hash
        on its card.
    """
    return CodecCard.load(name, lambda card, _: Codec(card.config, card.residual))


def save_codec(codec: Codec, path: Path, **about: Any) -> CodecCard:
    """Write a codec in half precision, and the card beside it; returns the card.

    Args:
        path: the weights, .safetensors.
        about: descriptive fields of `CodecCard`: training, fidelity, licence, limits.
    """
    state = {k: v.half() for k, v in codec.state_dict().items()}
    return CodecCard.save(
        path, state, network=codec.config.to_dict(), residual=codec.residual, **about
    )


def load_circuit(name: str | Path) -> Circuit:
    """A circuit by shipped name, or by the path of its .safetensors file or card.

    Raises: PriorError for a file that is missing, truncated, a pickle, or does not match the hash
        on its card.
    """
    return CircuitCard.load(name, _circuit, check=False)


def save_circuit(circuit: Circuit, path: Path, **about: Any) -> CircuitCard:
    """Write a circuit in half precision, and the card beside it; returns the card.

    Args:
        path: the parameters, .safetensors.
        about: descriptive fields of `CircuitCard`: training, bits, codec, licence, limits.
    """
    state = {k: half_precision(k, v) for k, v in circuit.state_dict().items()}
    state |= {
        "variables": torch.tensor(circuit.graph.variables, dtype=torch.int32),
        "partitions": pack(circuit.graph.sums),
    }
    if len(circuit.ties.unique()) < len(circuit.ties):
        state["ties"] = circuit.ties.int()
    own = {
        name: getattr(circuit, name)
        for name in ("shape", "states", "categories", "leaves", "spread")
    }
    return CircuitCard.save(path, state, **own, **about)


def _circuit(card: CircuitCard, state: dict[str, Tensor]) -> Circuit:
    """The circuit of a card, with the graph and ties that are taken out of its arrays.

    Raises: KeyError or InputError if the arrays are not those of the card.
    """
    leaves = state["table" if card.leaves == "categorical" else "mean"]
    found = (leaves.shape[1], len(state["levels"]))
    if found != (card.states, card.categories):
        raise InputError(
            f"the file has {found[0]} states and {found[1]} categories, "
            f"the card {card.states} and {card.categories}"
        )
    graph = RegionGraph(tuple(state.pop("variables").tolist()), unpack(state.pop("partitions")))
    ties = state.pop("ties").tolist() if "ties" in state else None
    height, width = card.shape
    return Circuit(
        graph,
        card.states,
        card.categories,
        leaves=card.leaves,
        spread=card.spread,
        shape=(height, width),
        ties=ties,
    )


def half_precision(name: str, value: Tensor) -> Tensor:
    """An entry of a circuit's state as stored.

    Probabilities, divided by the largest of their row, are in half precision and at least 6e-8;
    padding stays zero. Other entries are in float32.
    """
    if not name.startswith(("weight_", "table")):
        return value.float().contiguous()
    relative = (value / value.amax(-1, keepdim=True)).clamp_min(6e-8)
    return torch.where(value > 0, relative, 0).half().contiguous()


def pack(sums: tuple[Region, ...]) -> Tensor:
    """Partitions as rows (region, partition, factor) of an int32 matrix."""
    rows = [
        (r, p, factor)
        for r, region in enumerate(sums)
        for p, partition in enumerate(region)
        for factor in partition
    ]
    return torch.tensor(rows, dtype=torch.int32)


def unpack(rows: Tensor) -> tuple[Region, ...]:
    """The inverse of `pack`."""
    regions: dict[int, dict[int, list[int]]] = {}
    for r, p, factor in rows.tolist():
        regions.setdefault(r, {}).setdefault(p, []).append(factor)
    return tuple(tuple(map(tuple, partitions.values())) for partitions in regions.values())
