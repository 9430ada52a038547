"""Eight-bit priors: convolutions and linear maps with int8 weights, and uint8 inputs to the convolutions where the processor multiplies them.

    Q(x) = s (clip(round(x / s) + z, 0, 2^b - 1) - z)

Weights are rounded symmetrically, with a scale for each output channel; inputs with one scale and zero point for each convolution. A scale
is the fraction of the full range with the least |x - Q(x)|^2.4 (`scan`). Inputs are calibrated on pairs (x, sigma) of the full-precision
reverse process at times t ~ N(0.4 T, (0.4 T)^2), cut to [0, T]: mostly at little noise, as published. The image itself and what transposed
convolutions and linear maps take stay as they are.

Source: Shang et al., Post-training Quantization on Diffusion Models, CVPR 2023, https://arxiv.org/abs/2211.15736. There T counts the
steps of DDPM; here time is log sigma between the prior's limits. Their rounding is refined block by block; ours is not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inverse.errors import OptionError
from inverse.priors.networks.unet import UNet
from inverse.priors.prior import NetworkPrior, Prior
from inverse.sampling.samplers import heun
from inverse.seeding import Generators, seeded

POWER = 2.4
FRACTIONS = torch.linspace(0.4, 1.0, 31).tolist()
KEPT = 50_000
"""Inputs of a convolution that are kept for its scan."""


def rounded(x: Tensor, scale: Tensor, bits: int = 8) -> Tensor:
    """The integers nearest to x / scale in -(2^(b-1) - 1) .. 2^(b-1) - 1."""
    limit = 2 ** (bits - 1) - 1
    return (x / scale).round().clamp(-limit, limit)


def scan(x: Tensor, bits: int = 8) -> Tensor:
    """The scale of each row of x (n, m) that minimises the sum of |x - Q(x)|^2.4 over fractions of its largest value: (n, 1)."""
    full = x.abs().amax(1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny * 1e3) / (
        2 ** (bits - 1) - 1
    )
    scales = torch.stack([fraction * full for fraction in FRACTIONS])
    errors = torch.stack(
        [(x - s * rounded(x, s, bits)).abs().pow(POWER).sum(1, keepdim=True) for s in scales]
    )
    return scales.gather(0, errors.argmin(0, keepdim=True))[0]


def fit_range(x: Tensor) -> tuple[float, int]:
    """Scale and zero point of uint8 inputs x (n,) by the same measure; zero is always one of the values."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 1e-6)
    best = (float("inf"), 1.0, 0)
    for fraction in FRACTIONS:
        scale = fraction * (high - low) / 255
        zero = round(-fraction * low / scale)
        error = float(
            (x - scale * ((x / scale).round() + zero).clamp(0, 255).sub(zero))
            .abs()
            .pow(POWER)
            .sum()
        )
        best = min(best, (error, scale, zero))
    return best[1], best[2]


class Int8(nn.Module):
    """What the three kinds of layers share: an int8 weight, a scale for each of its output channels, a bias."""

    weight: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, layer: nn.Module, axis: int, fit: bool):
        super().__init__()
        weight: Tensor = layer.weight.detach()  # type: ignore[assignment, operator]
        rows = weight.float().transpose(0, axis).flatten(1)
        shape = [1] * weight.ndim
        shape[axis] = -1
        self.register_buffer("scale", (scan(rows) if fit else torch.ones(len(rows))).reshape(shape))
        self.register_buffer("weight", rounded(weight.float(), self.scale).to(torch.int8))
        self.register_buffer("bias", layer.bias.detach().float())  # type: ignore[operator, union-attr]

    def dequantized(self, like: Tensor) -> Tensor:
        return self.weight.to(like) * self.scale.to(like)


class Int8Linear(Int8):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dequantized(x), self.bias.to(x))


class Int8ConvTranspose(Int8):
    """A transposed convolution of stride two."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.dequantized(x), self.bias.to(x), stride=2)


class Int8Conv(Int8):
    """A convolution; its inputs are rounded where `step` is positive.

    On a CPU without gradients oneDNN multiplies the integers. Elsewhere the same rounded numbers are multiplied as floats, and gradients pass
    the rounding as if it were not there.
    """

    step: Tensor
    zero: Tensor

    def __init__(self, conv: nn.Conv2d, axis: int, fit: bool):
        super().__init__(conv, axis, fit)
        self.stride: list[int] = [int(n) for n in conv.stride]
        self.padding: list[int] = [int(n) for n in conv.padding]
        self.packed: Tensor | None = None
        self.register_buffer("step", torch.zeros(()))
        self.register_buffer("zero", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        step, zero = float(self.step), int(self.zero)
        differentiated = torch.is_grad_enabled() and x.requires_grad
        if (
            step > 0
            and not differentiated
            and x.device.type == "cpu"
            and x.dtype in (torch.float32, torch.bfloat16)
        ):
            return self._integers(x, step, zero)
        if step > 0:
            x = x + (step * ((x / step).round() + zero).clamp(0, 255).sub(zero) - x).detach()
        return F.conv2d(x, self.dequantized(x), self.bias.to(x), self.stride, self.padding)

    def _integers(self, x: Tensor, step: float, zero: int) -> Tensor:
        op = torch.ops.onednn
        scale = self.scale.flatten().float()
        if self.packed is None:
            self.packed = op.qconv_prepack(
                self.weight.contiguous(),
                scale,
                step,
                zero,
                self.stride,
                self.padding,
                [1, 1],
                1,
                None,
            )
        q = (x.float() * (1 / step)).round_().add_(zero).clamp_(0, 255).to(torch.uint8)
        no_zeros = torch.zeros(len(scale), dtype=torch.int64)
        geometry = (self.stride, self.padding, [1, 1], 1)
        return op.qconv_pointwise(
            q,
            step,
            zero,
            self.packed,
            scale,
            no_zeros,
            self.bias.float(),
            *geometry,
            1.0,
            0,
            x.dtype,
            "none",
            [],
            "",
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"packed": None}  # a packed weight can be neither copied nor pickled


KINDS: dict[type, tuple[Any, int]] = {
    nn.Conv2d: (Int8Conv, 0),
    nn.ConvTranspose2d: (Int8ConvTranspose, 1),
    nn.Linear: (Int8Linear, 0),
}
"""What replaces each kind of layer, and where its weight has its output channels."""


def replace_with_int8(network: nn.Module, fit: bool = True) -> nn.Module:
    """Replace every convolution, transposed convolution and linear map, in place; weights are rounded, inputs not yet.

    Args:
        fit: scan for the scales; otherwise they are one, to be loaded.
    """
    for name, layer in list(network.named_modules()):
        if type(layer) in KINDS:
            kind, axis = KINDS[type(layer)]
            parent, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(parent), leaf, kind(layer, axis, fit))
    return network


def calibration(
    prior: NetworkPrior,
    count: int,
    side: int,
    steps: int = 20,
    seed: int = 0,
    times: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Pairs of the full-precision reverse process, x (count, C, side, side) and its sigma (count,).

    Args:
        times: in [0, 1], from little noise to much; by default `calibration_times`.
    """
    assert prior.shape[0] is not None
    low, high = max(prior.sigma_min, 0.01), min(prior.sigma_max, 80.0)
    sigmas = torch.logspace(torch.tensor(high).log10(), torch.tensor(low).log10(), steps + 1)
    generator = Generators.for_samples(seed, count, 1)
    x = sigmas[0] * generator.randn_like(torch.empty(count, prior.shape[0], side, side))
    with torch.no_grad():
        path = torch.stack([x, *heun(prior, x, sigmas, generator)])
    at = (
        steps
        - ((calibration_times(count, seed) if times is None else times) * steps).round().long()
    )
    return path[at, torch.arange(count)], sigmas[at]


def calibration_times(count: int, seed: int = 0) -> Tensor:
    """Times in [0, 1], N(0.4, 0.4^2) where it lies there: (count,)."""
    drawn = 0.4 + 0.4 * torch.randn(20 * count, generator=seeded(seed, "calibration times"))
    return drawn[(drawn >= 0) & (drawn <= 1)][:count]


def check_quantizable(prior: Prior) -> None:
    """Raises OptionError for a prior that is no network of ours, or is quantised already."""
    network = getattr(prior, "network", None)
    if (
        type(prior) is not NetworkPrior
        or not isinstance(network, UNet)
        or type(network.head) is not nn.Conv2d
    ):
        raise OptionError(
            f"prior quantize: needs a float network of `inverse train` on the plane; {getattr(prior, 'name', type(prior).__name__)} is none"
        )


def quantize(
    prior: NetworkPrior, pairs: tuple[Tensor, Tensor] | None, batch: int = 8
) -> NetworkPrior:
    """The prior with int8 weights, in place, and inputs rounded by what they are on `pairs` (x, sigma); None leaves inputs as they are."""
    check_quantizable(prior)
    seen: dict[str, list[Tensor]] = {}
    if pairs is not None:
        convolutions = [
            (name, m)
            for name, m in prior.network.named_modules()
            if type(m) is nn.Conv2d and name != "head"
        ]
        hooks = [
            m.register_forward_pre_hook(_keep(seen.setdefault(name, []), len(pairs[0])))
            for name, m in convolutions
        ]
        with torch.no_grad():
            for x, sigma in zip(pairs[0].split(batch), pairs[1].split(batch), strict=True):
                prior(x, sigma)
        for hook in hooks:
            hook.remove()
    replace_with_int8(prior.network)
    for name, inputs in seen.items():
        layer: Any = prior.network.get_submodule(name)
        step, zero = fit_range(torch.cat(inputs))
        layer.step.fill_(step)
        layer.zero.fill_(zero)
    return prior


def _keep(into: list[Tensor], count: int) -> Any:
    """A hook that keeps evenly spaced inputs."""

    def hook(_: nn.Module, inputs: tuple[Tensor]) -> None:
        x = inputs[0].flatten()
        into.append(x[:: max(1, x.numel() * count // (KEPT * len(inputs[0])))].clone())

    return hook
