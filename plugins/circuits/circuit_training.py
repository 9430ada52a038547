"""One `inverse train-circuit`: images in, a circuit and its card out."""

from __future__ import annotations

import json
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
from inverse.io.image_sets import load_images
from inverse.seeding import seeded
from inverse.training.crops import random_crops
from inverse.training.progress import check_weights_path
from inverse_plugins.circuits.cards import CodecCard, load_codec, save_circuit
from inverse_plugins.circuits.circuit import Circuit, Leaves
from inverse_plugins.circuits.codec import Codec
from inverse_plugins.circuits.fit import fit, log_likelihoods, quantise
from inverse_plugins.circuits.graph import RegionGraph
from inverse_plugins.circuits.initialisation import distil, hclt


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
        for bound, given in (
            (0, {"batch": self.batch, "pseudocount": self.pseudocount, "seed": self.seed}),
            (
                1,
                {
                    "size": self.size,
                    "shrink": self.shrink,
                    "states": self.states,
                    "crops": self.crops,
                    "epochs": self.epochs,
                },
            ),
            (2, {"levels": self.categories}),
        ):
            if least := [
                f"{name} must be at least {bound}, got {value:g}"
                for name, value in given.items()
                if not value >= bound
            ]:
                raise OptionError(f"train-circuit: {least[0]}")
        if self.codec and (self.shrink != 1 or self.spread or self.leaves != "categorical"):
            raise OptionError(
                "train-circuit: codes have no order: with --codec leave out --shrink, --spread and --leaves"
            )
        if (
            self.tie < 1
            or self.size % self.tie
            or (self.tie > 1 and (self.structure != "quad" or self.leaves != "categorical"))
        ):
            raise OptionError(
                f"train-circuit: --tie must divide --size, and is for --structure quad with categorical leaves, got {self.tie}"
            )


def training_data(sources: list[Path], config: CircuitConfig, *key: str | int) -> Tensor:
    """Quantised pixels of images, or of random crops of larger ones, (N, size^2); every source equally often where crops are drawn."""
    side = config.size * config.shrink
    pixels = crops(sources, side, 1, config, *key)
    return quantise(
        torch.nn.functional.avg_pool2d(pixels, config.shrink).flatten(1), config.categories
    )


def crops(
    sources: list[Path], side: int, channels: int, config: CircuitConfig, *key: str | int
) -> Tensor:
    """Images of this side (N, channels, side, side) in [0, 1]: all of them if none is larger, or else random crops."""
    images = [load_images(path, side, channels) for path in sources]
    if all(image.shape[:2] == (side, side) for source in images for image in source):
        return (
            torch.from_numpy(np.stack([image for source in images for image in source]))
            .permute(0, 3, 1, 2)
            .float()
            / 255
        )
    return torch.cat(
        [
            random_crops(images, side, 1000, seeded(config.seed, *key, i))
            for i in range(-(-config.crops // 1000))
        ]
    )[: config.crops]


def token_data(
    codec: Codec, sources: list[Path], config: CircuitConfig, *key: str | int
) -> tuple[Tensor, Tensor]:
    """Codes of such images (N, size^2), and the features that they stand for (N, size^2, code_width) in half precision."""
    codes, features = [], []
    for u in crops(
        sources, config.size * codec.config.factor, codec.config.channels, config, *key
    ).split(250):
        z = codec.features(u)
        codes.append(codec.distances(z).argmin(-1).flatten(1))
        features.append(z.flatten(2).mT.half())
    return torch.cat(codes), torch.cat(features)


def start_circuit(
    x: Tensor, features: Tensor | None, config: CircuitConfig, **options: Any
) -> Circuit:
    """The circuit as training begins, for data x (N, n) and, of codes, their features."""
    if config.structure == "hclt":
        return hclt(x, config.categories, config.states, seed=config.seed, **options)
    side = torch.arange(config.size) // config.tie
    ties = (
        (side[:, None] * (config.size // config.tie) + side).flatten().tolist()
        if config.tie > 1
        else None
    )
    graph = RegionGraph.quad_split(config.size, config.size)
    circuit = Circuit(
        graph,
        config.states,
        config.categories,
        generator=seeded(config.seed, "circuit"),
        ties=ties,
        **options,
    )
    return (
        circuit
        if features is None
        else distil(circuit, x, features, config.pseudocount, config.seed)
    )


def train_circuit(
    sources: list[Path],
    out: Path,
    config: CircuitConfig,
    about: dict[str, str],
    validation: Path | None = None,
) -> bool:
    """Train and write `out` and its card; false if the user interrupted, and what the finished epochs reached is then written.

    Args:
        sources: see `io.image_sets.load_images`.
        out: the circuit, `.safetensors`.
        about: `licence` and `limits` for the card.
        validation: images for the card's held-out bits per variable; by default every tenth of the training images, left out of training.
    """
    check_weights_path("train-circuit", out)
    start, codec, features = (
        time.monotonic(),
        load_codec(config.codec) if config.codec else None,
        None,
    )
    if codec is not None:
        config = replace(config, categories=codec.config.codes)
        x, features = token_data(codec, sources, config, "circuit crops")
        held_out = (
            token_data(codec, [validation], config, "held-out crops")[0] if validation else x[:0]
        )
    else:
        x = training_data(sources, config, "circuit crops")
        held_out = training_data([validation], config, "held-out crops") if validation else x[:0]
    if validation is None:
        tenth = torch.arange(len(x)) % 10 == 0
        x, held_out, features = x[~tenth], x[tenth], None if features is None else features[~tenth]
    if not len(x) or not len(held_out):
        raise InputError("train-circuit: too few images to train on some and hold out others")
    shape, spread = (
        (config.size, config.size),
        1 / (config.categories - 1) / math.sqrt(12) if config.spread else 0.0,
    )
    unit = "code" if codec else "pixel"
    print(
        f"{len(x)} images of {config.size} x {config.size} {unit}s, {len(held_out)} held out",
        file=sys.stderr,
    )
    circuit = start_circuit(x, features, config, leaves=config.leaves, spread=spread, shape=shape)
    done, interrupted = 0, False
    try:
        sweeps = fit(
            circuit,
            x,
            config.epochs,
            batch=config.batch or None,
            pseudocount=config.pseudocount,
            step=config.step,
            seed=config.seed,
        )
        for done, likelihood in enumerate(sweeps, start=1):
            news = f"epoch {done}/{config.epochs}  {_bits(likelihood, x.shape[1]):.4f} bits per {unit}  {time.monotonic() - start:.0f} s"
            print(news, file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        interrupted = True
    bits = {
        name: bits_per_variable(circuit, part)
        for name, part in (("held out", held_out), ("training", x))
    }
    facts = {
        "data": ", ".join(path.name for path in sources),
        "images": len(x),
        "command": " ".join(["inverse", *sys.argv[1:]]),
        "epochs": done,
    }
    facts |= {
        "structure": config.structure,
        "seed": config.seed,
        "seconds": round(time.monotonic() - start),
        "torch": torch.__version__,
    }
    source = (
        {"name": (found := CodecCard.read(config.codec)).name, "sha256": found.sha256}
        if codec
        else {}
    )
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
