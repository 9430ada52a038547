"""Circuits on disk, and one `inverse train-circuit`: images in, a circuit and its card out."""

from __future__ import annotations

import importlib.resources
import json
import math
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from inverse.assets import sha256
from inverse.circuit import Circuit, Leaves, RegionGraph
from inverse.circuit_fit import fit, hclt, log_likelihoods, quantise
from inverse.dataset import load_images, random_crops
from inverse.errors import InputError, OptionError, PriorError, suggestion
from inverse.result import replacing
from inverse.run import check_writable
from inverse.seeding import seeded


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
    licence: str = ""
    limits: str = ""


@dataclass(frozen=True)
class CircuitConfig:
    """How `inverse train-circuit` trains.

    Args:
        size: side of the circuit, in pixels after shrinking.
        shrink: side of the squares of pixels that are averaged first.
        categories: intensity levels.
        states: latent states.
        structure: hclt (a hidden Chow-Liu tree) or quad (halving in both directions).
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


def shipped_circuits() -> dict[str, Path]:
    """Cards of the circuits that ship with the package, by name."""
    folder = Path(str(importlib.resources.files("inverse_data")))
    return {path.stem: path for path in sorted(folder.glob("circuit-*.json"))}


def load_circuit(name: str | Path) -> Circuit:
    """A circuit by the name of a shipped one, or by the path of its `.safetensors` file or card.

    Raises: PriorError for a file that is missing, truncated, a pickle, or of another hash than the card's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(name)
    if not path.suffix and path.parent == Path("."):
        if str(name) not in shipped_circuits():
            raise PriorError(f"circuit '{name}' is not known; {suggestion(str(name), shipped_circuits())}, or the path of a .safetensors file with its card")
        path = shipped_circuits()[str(name)]
    elif path.suffix not in (".safetensors", ".json"):
        raise PriorError(f"circuit {name}: expected a .safetensors file with its card; nothing else is read")
    card = read_circuit_card(path.with_suffix(".json"))
    weights = path.with_name(card.file)
    if not weights.is_file():
        raise PriorError(f"circuit {weights}: no such file")
    if (found := sha256(weights)) != card.sha256:
        raise PriorError(f"circuit {weights}: sha256 is {found[:12]}..., the card says {card.sha256[:12]}...; the file is damaged or not the one described")
    try:
        state = load(weights.read_bytes())  # safetensors holds arrays alone: a pickle is refused here
        graph = RegionGraph(tuple(state.pop("variables").tolist()), unpack(state.pop("partitions")))
        circuit = Circuit(graph, card.states, card.categories, leaves=card.leaves, spread=card.spread, shape=card.shape)
        circuit.load_state_dict({k: v.float() for k, v in state.items()})
    except (SafetensorError, KeyError, RuntimeError, InputError) as error:
        raise PriorError(f"circuit {weights}: does not fit its card ({str(error).splitlines()[0]})") from error
    return circuit


def read_circuit_card(path: Path) -> CircuitCard:
    """Parse a card.

    Raises: PriorError if it is missing, not JSON, or lacks a field.
    """
    try:
        card = CircuitCard(**json.loads(path.read_text()))
    except FileNotFoundError as error:
        raise PriorError(f"circuit card {path}: no such file; a circuit needs its card beside it") from error
    except (OSError, ValueError, TypeError) as error:
        raise PriorError(f"circuit card {path}: not a valid card ({error})") from error
    return CircuitCard(**{**asdict(card), "shape": tuple(card.shape)})


def save_circuit(circuit: Circuit, path: Path, **about: Any) -> CircuitCard:
    """Write a circuit to `path` (.safetensors) in half precision and the card beside it; returns the card.

    Args:
        about: the descriptive fields of `CircuitCard`: training, bits, licence, limits.
    """
    from safetensors.torch import save

    if path.suffix != ".safetensors":
        raise PriorError(f"circuit {path}: parameters are written as .safetensors, not '{path.suffix}'")
    state = {k: stored(k, v) for k, v in circuit.state_dict().items()}
    state |= {"variables": torch.tensor(circuit.graph.variables, dtype=torch.int32), "partitions": pack(circuit.graph.sums)}
    with replacing(path) as temporary:
        temporary.write_bytes(save(state))
    own = {name: getattr(circuit, name) for name in ("shape", "states", "categories", "leaves", "spread")}
    card = CircuitCard(name=path.stem, file=path.name, sha256=sha256(path), **own, **about)
    with replacing(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(asdict(card), indent=2) + "\n")
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
    images = [load_images(path, side, 1) for path in sources]
    whole = all(image.shape[:2] == (side, side) for source in images for image in source)
    if whole:
        pixels = torch.cat([torch.from_numpy(image[..., 0].copy())[None] for source in images for image in source]).float()[:, None] / 255
    else:
        pixels = torch.cat([random_crops(images, side, 1000, seeded(config.seed, *key, i)) for i in range(-(-config.crops // 1000))])[: config.crops]
    return quantise(torch.nn.functional.avg_pool2d(pixels, config.shrink).flatten(1), config.categories)


def train_circuit(sources: list[Path], out: Path, config: CircuitConfig, about: dict[str, str], validation: Path | None = None) -> bool:
    """Train and write `out` and its card; false if the user interrupted, and what the finished epochs reached is then written.

    Args:
        sources: see `dataset.load_images`.
        out: the circuit, `.safetensors`.
        about: `licence` and `limits` for the card.
        validation: images for the card's held-out bits per pixel; by default every tenth of the training images, left out of training.
    """
    if out.suffix != ".safetensors":
        raise OptionError(f"train-circuit: --out must end in .safetensors, got '{out.name}'")
    check_writable(out.parent)
    start, x = time.monotonic(), training_data(sources, config, "circuit crops")
    if validation is None:
        tenth = torch.arange(len(x)) % 10 == 0
        x, held_out = x[~tenth], x[tenth]
    else:
        held_out = training_data([validation], config, "held-out crops")
    if not len(x) or not len(held_out):
        raise InputError("train-circuit: too few images to train on some and hold out others")
    shape, spread = (config.size, config.size), 1 / (config.categories - 1) / math.sqrt(12) if config.spread else 0.0
    options: dict[str, Any] = {"leaves": config.leaves, "spread": spread, "shape": shape}
    print(f"{len(x)} images of {config.size} x {config.size} pixels, {len(held_out)} held out", file=sys.stderr)
    if config.structure == "hclt":
        circuit = hclt(x, config.categories, config.states, seed=config.seed, **options)
    else:
        graph = RegionGraph.quad_split(*shape)
        circuit = Circuit(graph, config.states, config.categories, generator=seeded(config.seed, "circuit"), **options)
    done, interrupted = 0, False
    try:
        sweeps = fit(circuit, x, config.epochs, batch=config.batch or None, pseudocount=config.pseudocount, step=config.step, seed=config.seed)
        for done, likelihood in enumerate(sweeps, start=1):
            print(f"epoch {done}/{config.epochs}  {_bits(likelihood, x.shape[1]):.4f} bits per pixel  {time.monotonic() - start:.0f} s", file=sys.stderr)
    except KeyboardInterrupt:
        interrupted = True
    bits = {name: bits_per_pixel(circuit, part) for name, part in (("held out", held_out), ("training", x))}
    facts = {"data": ", ".join(path.name for path in sources), "images": len(x), "command": " ".join(["inverse", *sys.argv[1:]]), "epochs": done}
    facts |= {"structure": config.structure, "seed": config.seed, "seconds": round(time.monotonic() - start), "torch": torch.__version__}
    card = save_circuit(circuit, out, training=facts, bits=bits, **about)
    print(json.dumps({"circuit": str(out), "sha256": card.sha256, "bits": bits}))
    return not interrupted


def bits_per_pixel(circuit: Circuit, x: Tensor) -> float:
    """Of 5000 images of x (N, n), drawn at random, at most."""
    some = torch.randperm(len(x), generator=seeded("bits"))[:5000]
    return round(_bits(float(log_likelihoods(circuit, x[some]).mean()), x.shape[1]), 4)


def _bits(log_likelihood: float, variables: int) -> float:
    """Nats of an image to bits of a pixel."""
    return -log_likelihood / (variables * math.log(2))
