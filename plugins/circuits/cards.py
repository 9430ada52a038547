"""Circuits and codecs on disk: a file of parameters in half precision, and the card beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inverse.priors.cards import Card
from inverse.registry.options import build
from inverse_plugins.circuits.circuit import Circuit, Leaves
from inverse_plugins.circuits.codec import Codec, CodecConfig
from inverse_plugins.circuits.graph import RegionGraph


@dataclass(frozen=True, kw_only=True)
class CodecCard(Card):
    """What a trained codec is.

    Args:
        network: fields of `CodecConfig`.
        residual: root mean square error of decoded held-out images (intensities in [0, 1]).
        fidelity: PSNR of decoded held-out images (dB), and perplexity of the codes that they use.
    """

    kind = "codec"
    folder = "circuits"

    network: dict[str, Any]
    residual: float
    fidelity: dict[str, float] = field(default_factory=dict)

    @property
    def config(self) -> CodecConfig:
        return build(CodecConfig, self.network)


@dataclass(frozen=True, kw_only=True)
class CircuitCard(Card):
    """What a trained circuit is; its file holds the region graph, too.

    Args:
        shape: (height, width) of the pixels that its variables are.
        states, categories, leaves, spread: see `Circuit`.
        bits: of held-out data, per variable.
        codec: name and sha256 of the autoencoder whose codes the variables are; empty for pixels.
    """

    kind = "circuit"
    folder = "circuits"

    shape: tuple[int, int]
    states: int
    categories: int
    leaves: Leaves
    spread: float
    bits: dict[str, float] = field(default_factory=dict)
    codec: dict[str, str] = field(default_factory=dict)


def load_codec(name: str | Path) -> Codec:
    """A codec by the name of a shipped one, or by the path of its `.safetensors` file or card.

    Raises: PriorError for a file that is missing, truncated, a pickle, or of another hash than the card's.
    """
    return CodecCard.load(name, lambda card, _: Codec(card.config, card.residual))


def save_codec(codec: Codec, path: Path, **about: Any) -> CodecCard:
    """Write a codec to `path` (.safetensors) in half precision and the card beside it; returns the card.

    Args:
        about: the descriptive fields of `CodecCard`: training, fidelity, licence, limits.
    """
    state = {k: v.half() for k, v in codec.state_dict().items()}
    return CodecCard.save(
        path, state, network=codec.config.to_dict(), residual=codec.residual, **about
    )


def load_circuit(name: str | Path) -> Circuit:
    """A circuit by the name of a shipped one, or by the path of its `.safetensors` file or card.

    Raises: PriorError for a file that is missing, truncated, a pickle, or of another hash than the card's.
    """
    return CircuitCard.load(name, _circuit)


def save_circuit(circuit: Circuit, path: Path, **about: Any) -> CircuitCard:
    """Write a circuit to `path` (.safetensors) in half precision and the card beside it; returns the card.

    Args:
        about: the descriptive fields of `CircuitCard`: training, bits, codec, licence, limits.
    """
    state = {k: stored(k, v) for k, v in circuit.state_dict().items()}
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
    """The circuit of a card and the graph among its arrays, which is taken out."""
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


def stored(name: str, value: Tensor) -> Tensor:
    """An entry of a circuit's state as on disk: probabilities above 6e-8 in half precision, where padding stays zero; the rest in single."""
    if not name.startswith(("weight_", "table")):
        return value.float().contiguous()
    return (
        torch.where(value > 0, (value / value.amax(-1, keepdim=True)).clamp_min(6e-8), 0)
        .half()
        .contiguous()
    )


def pack(sums: tuple[tuple[tuple[int, ...], ...], ...]) -> Tensor:
    """Partitions as rows (region, partition, child) of an int32 matrix."""
    rows = [
        (r, p, child)
        for r, region in enumerate(sums)
        for p, partition in enumerate(region)
        for child in partition
    ]
    return torch.tensor(rows, dtype=torch.int32)


def unpack(rows: Tensor) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """The inverse of `pack`."""
    regions: dict[int, dict[int, list[int]]] = {}
    for r, p, child in rows.tolist():
        regions.setdefault(r, {}).setdefault(p, []).append(child)
    return tuple(
        tuple(tuple(children) for children in region.values()) for region in regions.values()
    )
