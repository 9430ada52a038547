"""The work of `inverse train-circuit`: images in, a circuit and its card out."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from inverse.errors import InputError, OptionError
from inverse.io.files import strict_json
from inverse.io.image_sets import load_images
from inverse.seeding import seeded
from inverse.training.crops import random_crops
from inverse.training.progress import SecondInterrupt, check_weights_path, stops_at_signals
from inverse_plugins.circuits.cards import CodecCard, load_codec, save_circuit
from inverse_plugins.circuits.circuit import Circuit, Leaves
from inverse_plugins.circuits.codec import Codec
from inverse_plugins.circuits.distillation import distil
from inverse_plugins.circuits.expectation_maximisation import fit, log_likelihoods, quantise
from inverse_plugins.circuits.graph import RegionGraph
from inverse_plugins.circuits.hidden_chow_liu import hclt

MINIMA = {"batch": 0, "pseudocount": 0, "seed": 0, "size": 1, "shrink": 1, "states": 1}
MINIMA |= {"crops": 1, "epochs": 1, "categories": 2}


@dataclass(frozen=True)
class CircuitConfig:
    """Settings of `inverse train-circuit`.

    Args:
        size: side of the circuit, in pixels after shrinking, or in codes.
        codec: name or file of an autoencoder, for a circuit over its codes; empty for a circuit
            over pixels.
        tie: side of the squares of variables that share one table, for quad; 1 for no ties.
        shrink: side of the squares of pixels that are averaged first.
        categories: number of intensity levels; with a codec, its number of codes.
        states: number of latent states.
        structure: hclt (hidden Chow-Liu tree) or quad (halving in both directions; over codes it
            starts at clusters of the codec's features).
        leaves: categorical or gaussian.
        spread: whether values lie between the levels: each is then Gaussian around its level, with
            the variance of rounding.
        crops: number of random crops of images that are larger than the circuit; images of its size
            are used whole.
        epochs: sweeps over the data.
        batch: rows of each M-step; 0 for all.
        pseudocount: observations spread evenly over each distribution at each M-step.
        step: fraction of the way to the batch's maximum in the first and the last epoch.
        seed: random seed for crops, initialisation and order.

    Raises: OptionError for a value out of range, or options that exclude each other.
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
        for name, minimum in MINIMA.items():
            value = getattr(self, name)
            if not value >= minimum:
                option = "levels" if name == "categories" else name
                raise OptionError(
                    f"train-circuit: {option} must be at least {minimum}, got {value:g}"
                )
        if self.codec and (self.shrink != 1 or self.spread or self.leaves != "categorical"):
            raise OptionError(
                "train-circuit: codes have no order: "
                "with --codec leave out --shrink, --spread and --leaves"
            )
        may_tie = self.structure == "quad" and self.leaves == "categorical"
        if self.tie < 1 or self.size % self.tie or (self.tie > 1 and not may_tie):
            raise OptionError(
                "train-circuit: --tie must divide --size, and is for --structure quad with "
                f"categorical leaves, got {self.tie}"
            )


@dataclass(frozen=True)
class CircuitData:
    """Data of one training.

    Args:
        training: categories of the training images (N, n), integers.
        held_out: categories of the held-out images (M, n), integers.
        features: features of the codes of the training images (N, n, code_width), half precision;
            None for pixels.
        unit: "pixel" or "code", for messages.
    """

    training: Tensor
    held_out: Tensor
    features: Tensor | None
    unit: str


def circuit_data(
    sources: list[Path], validation: Path | None, codec: Codec | None, config: CircuitConfig
) -> CircuitData:
    """Training and held-out data; without `validation`, every tenth image is held out.

    Raises: InputError if either part is empty, or if images are missing or too small.
    """

    def read(paths: list[Path], key: str) -> tuple[Tensor, Tensor | None]:
        if codec is None:
            return pixel_data(paths, config, key), None
        return token_data(codec, paths, config, key)

    x, features = read(sources, "circuit crops")
    if validation is not None:
        held_out, _ = read([validation], "held-out crops")
    else:
        tenth = torch.arange(len(x)) % 10 == 0
        x, held_out = x[~tenth], x[tenth]
        features = None if features is None else features[~tenth]
    if not len(x) or not len(held_out):
        raise InputError(
            f"train-circuit: found {len(x)} images to train on and {len(held_out)} to hold out; "
            "both need at least 1"
        )
    return CircuitData(x, held_out, features, "code" if codec else "pixel")


def pixel_data(sources: list[Path], config: CircuitConfig, *key: str | int) -> Tensor:
    """Intensity levels of images or of random crops: (N, size^2), integers."""
    images = crops(sources, config.size * config.shrink, 1, config, *key)
    averaged = torch.nn.functional.avg_pool2d(images, config.shrink)
    return quantise(averaged.flatten(1), config.categories)


def token_data(
    codec: Codec, sources: list[Path], config: CircuitConfig, *key: str | int
) -> tuple[Tensor, Tensor]:
    """Codes of images or of random crops, and their features before quantisation.

    Codes are (N, size^2), integers; features (N, size^2, code_width), half precision.
    """
    codes, features = [], []
    side, channels = config.size * codec.config.factor, codec.config.channels
    for u in crops(sources, side, channels, config, *key).split(250):
        z = codec.features(u)
        codes.append(codec.distances(z).argmin(-1).flatten(1))
        features.append(z.flatten(2).mT.half())
    return torch.cat(codes), torch.cat(features)


def crops(
    sources: list[Path], side: int, channels: int, config: CircuitConfig, *key: str | int
) -> Tensor:
    """Images (N, channels, side, side), intensities in [0, 1].

    All images are used if each has this side; otherwise random crops, equally often from every
    source.

    Args:
        sources: folders or files of images, see `io.image_sets.load_images`.
        config: its `crops` is the number of random crops.
        key: with the seed of the config, key of the random stream.
    """
    images = [load_images(path, side, channels) for path in sources]
    every = [image for source in images for image in source]
    if all(image.shape[:2] == (side, side) for image in every):
        return torch.from_numpy(np.stack(every)).permute(0, 3, 1, 2).float() / 255
    parts = [
        random_crops(images, side, 1000, seeded(config.seed, *key, i))
        for i in range(-(-config.crops // 1000))
    ]
    return torch.cat(parts)[: config.crops]


def initial_circuit(
    x: Tensor, features: Tensor | None, config: CircuitConfig, **options: Any
) -> Circuit:
    """The circuit before training.

    Args:
        x: data (N, n).
        features: of the codes (N, n, code_width); None for pixels.
        options: further arguments of `Circuit`.
    """
    if config.structure == "hclt":
        return hclt(x, config.categories, config.states, seed=config.seed, **options)
    circuit = Circuit(
        RegionGraph.quad_split(config.size, config.size),
        config.states,
        config.categories,
        generator=seeded(config.seed, "circuit"),
        ties=_square_ties(config.size, config.tie),
        **options,
    )
    if features is None:
        return circuit
    return distil(circuit, x, features, config.pseudocount, config.seed)


def train_circuit(
    sources: list[Path],
    out: Path,
    config: CircuitConfig,
    about: dict[str, str],
    validation: Path | None = None,
) -> bool:
    """Train a circuit and write it with its card.

    After SIGINT or SIGTERM, the circuit of the last complete M-step is written.

    Args:
        sources: folders or files of training images, see `io.image_sets.load_images`.
        out: the circuit, .safetensors.
        config: settings of the training.
        about: licence and limits for the card.
        validation: images for the card's held-out bits per variable; by default every tenth of the
            training images, which is then left out of training.

    Returns: False after an interruption by the user.
    Raises: OptionError for another suffix; PriorError for a codec that cannot be read; InputError
        for too few images, or images that are missing or too small.
    """
    check_weights_path("train-circuit", out)
    started_at = time.monotonic()
    codec = load_codec(config.codec) if config.codec else None
    if codec is not None:
        config = replace(config, categories=codec.config.codes)
    data = circuit_data(sources, validation, codec, config)
    print(
        f"{len(data.training)} images of {config.size} x {config.size} {data.unit}s, "
        f"{len(data.held_out)} held out",
        file=sys.stderr,
    )
    spread = 1 / (config.categories - 1) / math.sqrt(12) if config.spread else 0.0
    options = {"leaves": config.leaves, "spread": spread, "shape": (config.size, config.size)}
    circuit = initial_circuit(data.training, data.features, config, **options)
    epochs, interrupted = _run_epochs(circuit, data, config, started_at)
    bits = {
        "held out": bits_per_variable(circuit, data.held_out),
        "training": bits_per_variable(circuit, data.training),
    }
    facts = {
        "data": ", ".join(path.name for path in sources),
        "images": len(data.training),
        "command": " ".join(["inverse", *sys.argv[1:]]),
        "epochs": epochs,
        "structure": config.structure,
        "seed": config.seed,
        "seconds": round(time.monotonic() - started_at),
        "torch": torch.__version__,
    }
    source = {}
    if codec is not None:
        codec_card = CodecCard.read(config.codec)
        source = {"name": codec_card.name, "sha256": codec_card.sha256}
    card = save_circuit(circuit, out, training=facts, bits=bits, codec=source, **about)
    print(strict_json({"circuit": str(out), "sha256": card.sha256, "bits": bits}))
    return not interrupted


def bits_per_variable(circuit: Circuit, x: Tensor) -> float:
    """Mean negative log-likelihood of at most 5000 random rows of x (N, n), bits per variable."""
    some = torch.randperm(len(x), generator=seeded("bits"))[:5000]
    return round(_bits(float(log_likelihoods(circuit, x[some]).mean()), x.shape[1]), 4)


@dataclass
class _Signals:
    """Whether SIGINT or SIGTERM came; see `stops_at_signals`."""

    stopping: bool = False


def _run_epochs(
    circuit: Circuit, data: CircuitData, config: CircuitConfig, started_at: float
) -> tuple[int, bool]:
    """Train in place with a report per epoch: epochs finished, and whether a signal came."""
    done, signals = 0, _Signals()
    sweeps = fit(
        circuit,
        data.training,
        config.epochs,
        batch=config.batch or None,
        pseudocount=config.pseudocount,
        step=config.step,
        seed=config.seed,
        stop=lambda: signals.stopping,
    )
    try:
        with stops_at_signals(signals):
            for done, likelihood in enumerate(sweeps, start=1):
                bits = _bits(likelihood, data.training.shape[1])
                print(
                    f"epoch {done}/{config.epochs}  {bits:.4f} bits per {data.unit}  "
                    f"{time.monotonic() - started_at:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )
    except SecondInterrupt:
        raise  # in the middle of an M-step
    except KeyboardInterrupt:
        return done, True
    return done, False


def _square_ties(size: int, tie: int) -> list[int] | None:
    """Table of each variable of a size x size grid whose tie x tie squares share one."""
    if tie == 1:
        return None
    side = torch.arange(size) // tie
    return (side[:, None] * (size // tie) + side).flatten().tolist()


def _bits(log_likelihood: float, variables: int) -> float:
    """Bits per variable of a log-likelihood (nats) of all variables."""
    return -log_likelihood / (variables * math.log(2))
