"""Circuits and codecs on disk: a file of parameters in half precision, and the card beside it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inverse.circuits.circuit import Circuit, Leaves
from inverse.circuits.codec import Codec, CodecConfig
from inverse.circuits.graph import RegionGraph
from inverse.errors import InputError, OptionError, PriorError
from inverse.shelf import read_card, verified, write_card, write_weights


@dataclass(frozen=True)
class CodecCard:
    """What a trained codec is; the weights, in half precision, are `file` beside it.

    Args:
        name: of the codec; the card is `<name>.json`.
        sha256: of the file.
        network: fields of `CodecConfig`.
        residual: root mean square error of decoded held-out images (intensities in [0, 1]).
        training: data, command, seed, steps, loss, machine, hours.
        fidelity: PSNR of decoded held-out images (dB), and perplexity of the codes that they use.
        licence: of the weights and the terms of the data.
        limits: what it is known not to do.
    """

    name: str
    file: str
    sha256: str
    network: dict[str, Any]
    residual: float
    training: dict[str, Any] = field(default_factory=dict)
    fidelity: dict[str, float] = field(default_factory=dict)
    licence: str = ""
    limits: str = ""

    @property
    def config(self) -> CodecConfig:
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in self.network.items()}
        return CodecConfig(**fields)


def save_codec(codec: Codec, path: Path, **about: Any) -> CodecCard:
    """Write a codec to `path` (.safetensors) in half precision and the card beside it; returns the card.

    Args:
        about: the descriptive fields of `CodecCard`: training, fidelity, licence, limits.
    """
    digest = write_weights("codec", path, {k: v.half() for k, v in codec.state_dict().items()})
    card = CodecCard(path.stem, path.name, digest, codec.config.to_dict(), codec.residual, **about)
    write_card(card, path)
    return card


def load_codec(name: str | Path) -> Codec:
    """A codec by the name of a shipped one, or by the path of its `.safetensors` file or card.

    Raises: PriorError for a file that is missing, truncated, a pickle, or of another hash than the card's.
    """
    path, card = read_card("codec", name, CodecCard)
    state = verified("codec", path, card.file, card.sha256)
    try:
        codec = Codec(card.config, card.residual)
        codec.load_state_dict({k: v.float() for k, v in state.items()})
    except (KeyError, RuntimeError, TypeError, OptionError) as error:
        raise PriorError(f"codec {path.with_name(card.file)}: does not fit its card ({str(error).splitlines()[0]})") from error
    return codec.eval().requires_grad_(False)


def codec_card(name: str | Path) -> CodecCard:
    """The card of a codec, by the same names."""
    return read_card("codec", name, CodecCard)[1]


@dataclass(frozen=True)
class CircuitCard:
    """What a trained circuit is; the parameters, in half precision, and the region graph are `file` beside it.

    Args:
        name: of the circuit; the card is `<name>.json`.
        sha256: of the file.
        shape: (height, width) of the pixels that its variables are.
        states, categories, leaves, spread: see `Circuit`.
        training: data, command, seed, epochs, seconds.
        bits: of held-out data, per variable.
        codec: name and sha256 of the autoencoder whose codes the variables are; empty for pixels.
        licence: of the parameters and the terms of the data.
        limits: what it is known not to do.
    """

    name: str
    file: str
    sha256: str
    shape: tuple[int, int]
    states: int
    categories: int
    leaves: Leaves
    spread: float
    training: dict[str, Any] = field(default_factory=dict)
    bits: dict[str, float] = field(default_factory=dict)
    codec: dict[str, str] = field(default_factory=dict)
    licence: str = ""
    limits: str = ""


def circuit_card(name: str | Path) -> tuple[Path, CircuitCard]:
    """Path and contents of a circuit's card, by the name of a shipped one, or by the path of its `.safetensors` file or card."""
    path, card = read_card("circuit", name, CircuitCard)
    return path, replace(card, shape=(card.shape[0], card.shape[1]))


def load_circuit(name: str | Path) -> Circuit:
    """A circuit by the name of a shipped one, or by the path of its `.safetensors` file or card.

    Raises: PriorError for a file that is missing, truncated, a pickle, or of another hash than the card's.
    """
    path, card = circuit_card(name)
    state = verified("circuit", path, card.file, card.sha256)
    try:
        graph = RegionGraph(tuple(state.pop("variables").tolist()), unpack(state.pop("partitions")))
        ties = state.pop("ties").tolist() if "ties" in state else None
        circuit = Circuit(graph, card.states, card.categories, leaves=card.leaves, spread=card.spread, shape=card.shape, ties=ties)
        circuit.load_state_dict({k: v.float() for k, v in state.items()})
    except (KeyError, RuntimeError, InputError) as error:
        raise PriorError(f"circuit {path.with_name(card.file)}: does not fit its card ({str(error).splitlines()[0]})") from error
    return circuit


def save_circuit(circuit: Circuit, path: Path, **about: Any) -> CircuitCard:
    """Write a circuit to `path` (.safetensors) in half precision and the card beside it; returns the card.

    Args:
        about: the descriptive fields of `CircuitCard`: training, bits, codec, licence, limits.
    """
    state = {k: stored(k, v) for k, v in circuit.state_dict().items()}
    state |= {"variables": torch.tensor(circuit.graph.variables, dtype=torch.int32), "partitions": pack(circuit.graph.sums)}
    if len(circuit.ties.unique()) < len(circuit.ties):
        state["ties"] = circuit.ties.int()
    own = {name: getattr(circuit, name) for name in ("shape", "states", "categories", "leaves", "spread")}
    card = CircuitCard(name=path.stem, file=path.name, sha256=write_weights("circuit", path, state), **own, **about)
    write_card(card, path)
    return card


def stored(name: str, value: Tensor) -> Tensor:
    """An entry of a circuit's state as on disk: probabilities above 6e-8 in half precision, where padding stays zero; the rest in single."""
    if not name.startswith(("weight_", "table")):
        return value.float().contiguous()
    return torch.where(value > 0, (value / value.amax(-1, keepdim=True)).clamp_min(6e-8), 0).half().contiguous()


def pack(sums: tuple[tuple[tuple[int, ...], ...], ...]) -> Tensor:
    """Partitions as rows (region, partition, child) of an int32 matrix."""
    rows = [(r, p, child) for r, region in enumerate(sums) for p, partition in enumerate(region) for child in partition]
    return torch.tensor(rows, dtype=torch.int32)


def unpack(rows: Tensor) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """The inverse of `pack`."""
    regions: dict[int, dict[int, list[int]]] = {}
    for r, p, child in rows.tolist():
        regions.setdefault(r, {}).setdefault(p, []).append(child)
    return tuple(tuple(tuple(children) for children in region.values()) for region in regions.values())
