"""Denoisers of deepinv and of the packages it took them from: DRUNet, GSDRUNet, SCUNet, RAM.

They work on intensities in [0, 1] at noise up to about 50 of 255, so that they serve methods that
start from the measurement (plug-and-play), not samplers that start from noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from inverse.measurement.deepinv_import import deepinv
from inverse.priors.card_schema import Blocks, Width
from inverse.priors.foreign.architecture import Architecture, count
from inverse.priors.networks.parametrisations import from_deepinv
from inverse.priors.prior import Prior
from inverse.registry.types import Positive

TRUSTED = 2 * 50 / 255
"""Largest noise level of the trainings, model units [-1, 1]."""


@dataclass(frozen=True)
class DRUNet(Architecture):
    """The denoiser of DPIR.

    Args:
        channels: of an image.
        widths: feature channels of the four levels.
        blocks: residual blocks of each level.
        activation: R for ReLU, E for ELU, L for leaky ReLU, s for softplus.
    """

    name = "drunet"
    reference = "Zhang et al., TPAMI 2021, https://github.com/cszn/DPIR"
    limits = "a denoiser for noise up to 50 of 255; it was not trained as a generative prior"

    channels: Width = 3
    widths: tuple[Width, Width, Width, Width] = (64, 128, 256, 512)
    blocks: Blocks = 4
    activation: Literal["R", "E", "L", "s"] = "R"

    @classmethod
    def read(cls, weights: dict[str, Tensor]) -> dict[str, Any]:
        blocks = count(weights, "m_body.{}.res.0.weight") or 1  # a single one has no number
        return {
            "channels": weights["m_tail.weight"].shape[0],
            "widths": (
                weights["m_head.weight"].shape[0],
                *(weights[f"m_down{i}.{blocks}.weight"].shape[0] for i in (1, 2, 3)),
            ),
            "blocks": blocks,
        }

    def network(self) -> nn.Module:
        return self._drunet()

    def _drunet(self) -> nn.Module:
        models = deepinv("models.drunet")
        sizes = {"nc": self.widths, "nb": self.blocks, "act_mode": self.activation}
        return models.DRUNet(self.channels, self.channels, pretrained=None, **sizes)

    def prior(self, network: nn.Module) -> Prior:
        return from_deepinv(network, (self.channels, None, None), sigma_max=TRUSTED)


@dataclass(frozen=True)
class GSDRUNet(DRUNet):
    """A gradient-step denoiser: x - weight grad |x - N(x, sigma)|^2 / 2 with a DRUNet N.

    Args:
        weight: of the gradient.
    """

    name = "gsdrunet"
    reference = "Hurault et al., ICLR 2022, https://github.com/samuro95/GSPnP"

    blocks: Blocks = 2
    activation: Literal["R", "E", "L", "s"] = "E"
    weight: Positive = 1.0

    @classmethod
    def read(cls, weights: dict[str, Tensor]) -> dict[str, Any]:
        prefix = "student_grad.model."
        return super().read(
            {k.removeprefix(prefix): w for k, w in weights.items() if k.startswith(prefix)}
        )

    def network(self) -> nn.Module:
        return GradientStep(self._drunet(), self.weight)


class GradientStep(nn.Module):
    """The gradient-step denoiser, differentiable: x (B, C, H, W), sigma (B, 1, 1, 1) -> same."""

    def __init__(self, denoiser: nn.Module, weight: float):
        super().__init__()
        self.student_grad, self.weight = nn.ModuleDict({"model": denoiser}), weight

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        differentiable = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            if not x.requires_grad:
                x = x.clone().requires_grad_()
            residual = x - self.student_grad["model"](x, sigma)
            (pulled,) = torch.autograd.grad(
                residual, x, residual, create_graph=differentiable, retain_graph=differentiable
            )
        x_hat = x - self.weight * pulled
        return x_hat if differentiable else x_hat.detach()


@dataclass(frozen=True)
class SCUNet(Architecture):
    """A blind denoiser of real photographs: it ignores the noise level.

    Args:
        channels: of an image.
        width: feature channels of the finest level.
        blocks: blocks of the seven stages.
    """

    name = "scunet"
    reference = "Zhang et al., MIR 2023, https://github.com/cszn/SCUNet"
    limits = "a blind denoiser: it guesses the noise level from its input"

    channels: Width = 3
    width: Width = 64
    blocks: tuple[Blocks, Blocks, Blocks, Blocks, Blocks, Blocks, Blocks] = (4,) * 7

    @classmethod
    def read(cls, weights: dict[str, Tensor]) -> dict[str, Any]:
        first = {"m_down1": 0, "m_down2": 0, "m_down3": 0, "m_body": 0}
        stages = first | {"m_up3": 1, "m_up2": 1, "m_up1": 1}  # the first entry enlarges
        head = weights["m_head.0.weight"]
        return {
            "channels": head.shape[1],
            "width": head.shape[0],
            "blocks": tuple(
                sum(k.startswith(f"{stage}.") and k.endswith(".conv1_1.weight") for k in weights)
                for stage in stages
            ),
        }

    def network(self) -> nn.Module:
        sizes = {"config": self.blocks, "dim": self.width, "pretrained": None, "device": None}
        with torch.device("cpu"):  # its constructor reads values
            return deepinv("models.scunet").SCUNet(self.channels, **sizes)

    def prior(self, network: nn.Module) -> Prior:
        return from_deepinv(network, (self.channels, None, None), sigma_max=TRUSTED)


@dataclass(frozen=True)
class RAM(Architecture):
    """The reconstruct-anything model as a denoiser; a plug-in calls it with an operator.

    Args:
        heads: numbers of channels that the network has an input and an output for.
        channels: of the images to denoise.
    """

    name = "reconstruct-anything"
    reference = "Terris et al., 2025, https://arxiv.org/abs/2503.08915"
    limits = "a denoiser for noise up to about 50 of 255; it was not trained as a generative prior"

    heads: tuple[Width, ...] = (1, 2, 3)
    channels: Width = 3

    @classmethod
    def read(cls, weights: dict[str, Tensor]) -> dict[str, Any]:
        weights["fact_realign"]  # raises KeyError for another network
        heads = tuple(
            weights[f"m_head.conv{i}.weight"].shape[1] - 2
            for i in range(count(weights, "m_head.conv{}.weight"))
        )
        return {"heads": heads, "channels": max(heads)}

    def network(self) -> nn.Module:
        return deepinv("models").RAM(list(self.heads), pretrained=False)

    def prior(self, network: nn.Module) -> Prior:
        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            return network(x, sigma=sigma.flatten())

        prior = from_deepinv(denoise, (self.channels, None, None), sigma_max=TRUSTED)
        prior.network = network
        return prior
