"""Circuits on disk, and one `inverse train-circuit`: images in, a circuit and its card out."""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from inverse.circuit import Circuit, Leaves, RegionGraph
from inverse.circuit_fit import distil, fit, hclt, log_likelihoods, quantise
from inverse.codec import Codec
from inverse.codec_run import codec_card, load_codec
from inverse.dataset import load_images, random_crops
from inverse.errors import InputError, OptionError, PriorError
from inverse.run import check_writable
from inverse.seeding import seeded
from inverse.shelf import read_card, verified, write_card, write_weights


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


@dataclass(frozen=True)
class CircuitConfig:
    """How `inverse train-circuit` trains.

    Args:
        size: side of the circuit, in pixels after shrinking, or in codes.
        codec: name or file of an autoencoder, for a circuit over its codes; empty for one over pixels.
        tie: side of the squares of variables that share one table; 1 for none. Of quad.
        shrink: side of the squares of pixels that are averaged first.
        categories: intensity levels; with a codec, as many as it has codes.
        states: latent states.
        structure: hclt (a hidden Chow-Liu tree) or quad (halving in both directions; over codes it starts at clusters of the codec's features).
        leaves: categorical or gaussian.
        spread: whether values lie between levels: then each is taken as Gaussian around its level, with the variance of rounding.
        crops: random crops drawn from images that are larger than the circuit; images of its size are used whole.
        epochs: sweeps over the data.
        batch: rows per M-step; 0 for all.
        pseudocount: observations spread evenly over each distribution at each M-step.
        step: fraction of the way to a batch's maximum, first and last epoch.
        seed: of crops, initialisation and order.
    """

    name: ClassVar[str] = "train-circuit"

    size: int = 14
    codec: str = ""
    tie: int = 1
    shrink: int = 1
    categories: int = 16
    states: int = 32
    structure: Literal["hclt", "quad"] = "hclt"
    leaves: Leaves = "categorical"
    spread: bool = False
    crops: int = 50_000
    epochs: int = 10
    batch: int = 1000
    pseudocount: float = 0.1
    step: tuple[float, float] = (0.5, 0.05)
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.size, self.shrink, self.states, self.crops, self.epochs) < 1 or self.categories < 2 or min(self.batch, self.pseudocount) < 0:
            least = "size, shrink, states, crops and epochs must be at least 1, levels at least 2, batch and pseudocount at least 0"
            raise OptionError(f"train-circuit: {least}")
        if self.codec and (self.shrink != 1 or self.spread or self.leaves != "categorical"):
            raise OptionError("train-circuit: codes have no order: with --codec leave out --shrink, --spread and --leaves")
        if self.tie < 1 or self.size % self.tie or (self.tie > 1 and (self.structure != "quad" or self.leaves != "categorical")):
            raise OptionError(f"train-circuit: --tie must divide --size, and is for --structure quad with categorical leaves, got {self.tie}")


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


def training_data(sources: list[Path], config: CircuitConfig, *key: str | int) -> Tensor:
    """Quantised pixels of images, or of random crops of larger ones, (N, size^2); every source equally often where crops are drawn."""
    side = config.size * config.shrink
    pixels = crops(sources, side, 1, config, *key)
    return quantise(torch.nn.functional.avg_pool2d(pixels, config.shrink).flatten(1), config.categories)


def crops(sources: list[Path], side: int, channels: int, config: CircuitConfig, *key: str | int) -> Tensor:
    """Images of this side (N, channels, side, side) in [0, 1]: all of them if none is larger, or else random crops."""
    images = [load_images(path, side, channels) for path in sources]
    if all(image.shape[:2] == (side, side) for source in images for image in source):
        return torch.from_numpy(np.stack([image for source in images for image in source])).permute(0, 3, 1, 2).float() / 255
    return torch.cat([random_crops(images, side, 1000, seeded(config.seed, *key, i)) for i in range(-(-config.crops // 1000))])[: config.crops]


def token_data(codec: Codec, sources: list[Path], config: CircuitConfig, *key: str | int) -> tuple[Tensor, Tensor]:
    """Codes of such images (N, size^2), and the features that they stand for (N, size^2, code_width) in half precision."""
    codes, features = [], []
    for u in crops(sources, config.size * codec.config.factor, codec.config.channels, config, *key).split(250):
        z = codec.features(u)
        codes.append(codec.distances(z).argmin(-1).flatten(1))
        features.append(z.flatten(2).mT.half())
    return torch.cat(codes), torch.cat(features)


def start_circuit(x: Tensor, features: Tensor | None, config: CircuitConfig, **options: Any) -> Circuit:
    """The circuit as training begins, for data x (N, n) and, of codes, their features."""
    if config.structure == "hclt":
        return hclt(x, config.categories, config.states, seed=config.seed, **options)
    side = torch.arange(config.size) // config.tie
    ties = (side[:, None] * (config.size // config.tie) + side).flatten().tolist() if config.tie > 1 else None
    graph = RegionGraph.quad_split(config.size, config.size)
    circuit = Circuit(graph, config.states, config.categories, generator=seeded(config.seed, "circuit"), ties=ties, **options)
    return circuit if features is None else distil(circuit, x, features, config.pseudocount, config.seed)


def train_circuit(sources: list[Path], out: Path, config: CircuitConfig, about: dict[str, str], validation: Path | None = None) -> bool:
    """Train and write `out` and its card; false if the user interrupted, and what the finished epochs reached is then written.

    Args:
        sources: see `dataset.load_images`.
        out: the circuit, `.safetensors`.
        about: `licence` and `limits` for the card.
        validation: images for the card's held-out bits per variable; by default every tenth of the training images, left out of training.
    """
    if out.suffix != ".safetensors":
        raise OptionError(f"train-circuit: --out must end in .safetensors, got '{out.name}'")
    check_writable(out.parent)
    start, codec, features = time.monotonic(), load_codec(config.codec) if config.codec else None, None
    if codec is not None:
        config = replace(config, categories=codec.config.codes)
        x, features = token_data(codec, sources, config, "circuit crops")
        held_out = token_data(codec, [validation], config, "held-out crops")[0] if validation else x[:0]
    else:
        x = training_data(sources, config, "circuit crops")
        held_out = training_data([validation], config, "held-out crops") if validation else x[:0]
    if validation is None:
        tenth = torch.arange(len(x)) % 10 == 0
        x, held_out, features = x[~tenth], x[tenth], None if features is None else features[~tenth]
    if not len(x) or not len(held_out):
        raise InputError("train-circuit: too few images to train on some and hold out others")
    shape, spread = (config.size, config.size), 1 / (config.categories - 1) / math.sqrt(12) if config.spread else 0.0
    unit = "code" if codec else "pixel"
    print(f"{len(x)} images of {config.size} x {config.size} {unit}s, {len(held_out)} held out", file=sys.stderr)
    circuit = start_circuit(x, features, config, leaves=config.leaves, spread=spread, shape=shape)
    done, interrupted = 0, False
    try:
        sweeps = fit(circuit, x, config.epochs, batch=config.batch or None, pseudocount=config.pseudocount, step=config.step, seed=config.seed)
        for done, likelihood in enumerate(sweeps, start=1):
            news = f"epoch {done}/{config.epochs}  {_bits(likelihood, x.shape[1]):.4f} bits per {unit}  {time.monotonic() - start:.0f} s"
            print(news, file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        interrupted = True
    bits = {name: bits_per_variable(circuit, part) for name, part in (("held out", held_out), ("training", x))}
    facts = {"data": ", ".join(path.name for path in sources), "images": len(x), "command": " ".join(["inverse", *sys.argv[1:]]), "epochs": done}
    facts |= {"structure": config.structure, "seed": config.seed, "seconds": round(time.monotonic() - start), "torch": torch.__version__}
    source = {"name": (found := codec_card(config.codec)).name, "sha256": found.sha256} if codec else {}
    card = save_circuit(circuit, out, training=facts, bits=bits, codec=source, **about)
    print(json.dumps({"circuit": str(out), "sha256": card.sha256, "bits": bits}))
    return not interrupted


def bits_per_variable(circuit: Circuit, x: Tensor) -> float:
    """Of 5000 images of x (N, n), drawn at random, at most."""
    some = torch.randperm(len(x), generator=seeded("bits"))[:5000]
    return round(_bits(float(log_likelihoods(circuit, x[some]).mean()), x.shape[1]), 4)


def _bits(log_likelihood: float, variables: int) -> float:
    """Nats of an image to bits of a variable."""
    return -log_likelihood / (variables * math.log(2))
