"""Networks of EDM: DDPM++ and NCSN++ (`edm`), and ADM (`edm-adm`), under EDM's preconditioning.

Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, NeurIPS 2022,
https://arxiv.org/abs/2206.00364; layouts of https://github.com/NVlabs/edm, networks of deepinv.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from inverse.errors import OptionError, PriorError
from inverse.measurement.deepinv_import import deepinv
from inverse.priors.card_schema import Blocks, Width
from inverse.priors.foreign.architecture import Architecture, count
from inverse.priors.networks.parametrisations import IMAGES
from inverse.priors.prior import NetworkPrior, Prior


@dataclass(frozen=True)
class EDMArchitecture(Architecture):
    """What the networks of EDM share.

    Args:
        side: of the images (pixels).
        channels: of an image.
        width: base width.
        multipliers: feature channels of each level in base widths, finest first.
        blocks: residual blocks of each level.
        attention: sides at which there is attention (pixels).
        embedding: width of the embedding in base widths.
        classes: number of classes of a conditional network, 0 for none.
        augmentations: inputs of the augmentation pipeline, 0 without it.
        label: the class of a conditional network.
    """

    reference = "Karras et al., NeurIPS 2022, https://github.com/NVlabs/edm"

    side: Width = 64
    channels: Width = 3
    width: Width = 128
    multipliers: tuple[Width, ...] = (1, 2, 2, 2)
    blocks: Blocks = 4
    attention: tuple[Width, ...] = (16,)
    embedding: Width = 4
    classes: int = 0
    augmentations: int = 9
    label: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_label(self.name, self.label, self.classes)

    @classmethod
    def read(cls, weights: dict[str, Tensor]) -> dict[str, Any]:
        sides = level_sides(weights)
        head = weights[f"enc.{sides[0]}x{sides[0]}_conv.weight"]
        width = cls._width(weights, head)
        levels = [f"enc.{side}x{side}_block0" for side in sides]
        embedding = weights["map_layer0.weight"].shape[0]
        return {
            "side": sides[0],
            "channels": head.shape[1],
            "width": width,
            "multipliers": tuple(
                weights[f"{level}.conv0.weight"].shape[0] // width for level in levels
            ),
            "blocks": count(weights, f"enc.{sides[0]}x{sides[0]}_block{{}}.conv0.weight"),
            "attention": tuple(
                side
                for side, level in zip(sides, levels, strict=True)
                if f"{level}.qkv.weight" in weights
            ),
            "embedding": embedding // width,
            "classes": inputs(weights, "map_label.weight"),
            "augmentations": inputs(weights, "map_augment.weight"),
        }

    @classmethod
    def _width(cls, weights: dict[str, Tensor], head: Tensor) -> int:
        """The base width, from the weights of the first convolution."""
        return head.shape[0]

    def options(self) -> dict[str, Any]:
        """The arguments of deepinv's constructors."""
        return {
            "img_resolution": self.side,
            "in_channels": self.channels,
            "out_channels": self.channels,
            "label_dim": self.classes,
            "augment_dim": self.augmentations,
            "model_channels": self.width,
            "channel_mult": self.multipliers,
            "channel_mult_emb": self.embedding,
            "num_blocks": self.blocks,
            "attn_resolutions": self.attention,
            "pretrained": None,
        }

    def prior(self, network: Any) -> Prior:
        def predicted(x: Tensor, noise: Tensor) -> Tensor:
            return network.forward_unet(x, noise, one_hot(self.label, self.classes, x))

        return edm_prior(network, predicted, self)


@dataclass(frozen=True)
class EDM(EDMArchitecture):
    """DDPM++ or NCSN++.

    Args:
        fourier: whether it is NCSN++, with Fourier features of the noise level.
    """

    name = "edm"

    fourier: bool = False

    @classmethod
    def read(cls, weights: dict[str, Tensor]) -> dict[str, Any]:
        return super().read(weights) | {"fourier": "map_noise.freqs" in weights}

    def network(self) -> nn.Module:
        kind = "ncsn" if self.fourier else "ddpm"
        return deepinv("models").NCSNpp(model_type=kind, **self.options())


@dataclass(frozen=True)
class EDMWithADM(EDMArchitecture):
    """The network of guided diffusion, in EDM's layout."""

    name = "edm-adm"

    width: Width = 192
    multipliers: tuple[Width, ...] = (1, 2, 3, 4)
    blocks: Blocks = 3
    attention: tuple[Width, ...] = (32, 16, 8)
    augmentations: int = 0

    @classmethod
    def read(cls, weights: dict[str, Tensor]) -> dict[str, Any]:
        weights["out_norm.weight"]  # raises KeyError for the other networks of EDM
        return super().read(weights)

    @classmethod
    def _width(cls, weights: dict[str, Tensor], head: Tensor) -> int:
        return weights["map_layer0.weight"].shape[1]

    def network(self) -> nn.Module:
        return deepinv("models").ADMUNet(**self.options())


class Preconditioned(nn.Module):
    """A network under a function of it, so that its weights move with the prior."""

    def __init__(self, network: nn.Module, function: Any):
        super().__init__()
        self.network, self.function = network, function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


def edm_prior(network: nn.Module, predicted: Any, layout: Any) -> Prior:
    """The prior of a network F(c_in x, log(sigma) / 4) for images of one size in [-1, 1].

    Args:
        network: holds the weights.
        predicted: F.
        layout: has `channels`, `side`, `classes`, `label` and a name.

    Raises: PriorError for a conditional network without a class.
    """
    if layout.classes and layout.label is None:
        raise PriorError(
            f"the network is conditional on {layout.classes} classes; state one in --network of "
            f'`inverse prior convert`: {{"architecture": "{layout.name}", "label": 0}}'
        )
    shape = (layout.channels, layout.side, layout.side)
    return NetworkPrior(Preconditioned(network, predicted), shape, 0.5, **IMAGES)


def check_label(name: str, label: int | None, classes: int) -> None:
    """Raises OptionError for a label that is not the number of a class."""
    if label is not None and not 0 <= label < classes:
        raise OptionError(f"{name}: label must be below the {classes} classes, got {label}")


def one_hot(label: int | None, classes: int, x: Tensor) -> Tensor | None:
    """The class of each row of x: (B, classes), or None without a label."""
    if label is None:
        return None
    labels = torch.full((len(x),), label, device=x.device)
    return nn.functional.one_hot(labels, classes).to(x.dtype)


def level_sides(weights: dict[str, Tensor]) -> list[int]:
    """Sides of the levels of an encoder, finest first, from names such as enc.64x64_block0."""
    names = {k.split(".")[1].split("_")[0] for k in weights if k.startswith("enc.")}
    sides = sorted((int(name.split("x")[0]) for name in names), reverse=True)
    if not sides:
        raise LookupError("enc.")
    return sides


def inputs(weights: dict[str, Tensor], name: str) -> int:
    """Inputs of a linear layer, 0 if there is none."""
    return weights[name].shape[1] if name in weights else 0
