"""Eight-bit priors: int8 weights of convolutions and linear maps, uint8 inputs of convolutions.

    Q(x) = s (clip(round(x / s) + z, 0, 2^b - 1) - z)

Weights are rounded symmetrically, with a scale s for each output channel. Inputs have a scale s and
a zero point z for each convolution, after a division of each input channel by its own factor c_j,
which multiplies the weights of that channel (`equalising_factors`). A scale is the fraction of the
full range with the least |x - Q(x)|^2.4 (`fit_scale`). Inputs are calibrated on pairs (x, sigma) of
the full-precision reverse process at times t ~ N(0.4 T, (0.4 T)^2), truncated to [0, T]: mostly at
low noise, as published. The image and the inputs of transposed convolutions and linear maps are not
rounded.

Source: Shang et al., Post-training Quantization on Diffusion Models, CVPR 2023,
https://arxiv.org/abs/2211.15736. Their T is the number of DDPM steps; this module uses log sigma
between the prior's limits as time. `reconstruction` fits the blocks afterwards, as they do. The
factors of the channels are those of Xiao et al., SmoothQuant, ICML 2023,
https://arxiv.org/abs/2211.10438.
"""

from __future__ import annotations

import functools
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
"""Exponent of the rounding error that a scale minimises."""

FRACTIONS = torch.linspace(0.4, 1.0, 31).tolist()
"""Candidate scales, as fractions of the full range."""

CALIBRATION_INPUTS = 50_000
"""Number of input values of a convolution that calibrate its scale."""


def rounded(x: Tensor, scale: Tensor, bits: int = 8) -> Tensor:
    """The integers nearest to x / scale from -(2^(bits-1) - 1) to 2^(bits-1) - 1; shape of x."""
    limit = 2 ** (bits - 1) - 1
    return (x / scale).round().clamp(-limit, limit)


def fit_scale(x: Tensor, bits: int = 8) -> Tensor:
    """The scale of each row that minimises the sum of |x - Q(x)|^2.4: x (n, m) -> (n, 1).

    The candidates are fractions of the row's largest value.
    """
    largest = x.abs().amax(1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny * 1e3)
    full = largest / (2 ** (bits - 1) - 1)
    scales = torch.stack([fraction * full for fraction in FRACTIONS])
    errors = torch.stack(
        [(x - s * rounded(x, s, bits)).abs().pow(POWER).sum(1, keepdim=True) for s in scales]
    )
    return scales.gather(0, errors.argmin(0, keepdim=True))[0]


def fit_range(x: Tensor) -> tuple[float, int]:
    """Scale and zero point of uint8 inputs x (n,), by the same error; zero is representable."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 1e-6)
    best = (float("inf"), 1.0, 0)
    for fraction in FRACTIONS:
        scale = fraction * (high - low) / 255
        zero = round(-fraction * low / scale)
        quantized = scale * ((x / scale).round() + zero).clamp(0, 255).sub(zero)
        error = float((x - quantized).abs().pow(POWER).sum())
        best = min(best, (error, scale, zero))
    return best[1], best[2]


class Int8(nn.Module):
    """Base of the int8 layers: an int8 weight, a scale for each output channel, a bias.

    Args:
        layer: the float layer.
        axis: dimension of the output channels in its weight.
        fit: whether to fit the scales; otherwise they are 1 until loaded.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, layer: Any, axis: int, fit: bool):
        super().__init__()
        weight: Tensor = layer.weight.detach()
        rows = weight.float().transpose(0, axis).flatten(1)
        shape = [1] * weight.ndim
        shape[axis] = -1
        scale = fit_scale(rows) if fit else torch.ones(len(rows))
        self.register_buffer("scale", scale.reshape(shape))
        self.register_buffer("weight", rounded(weight.float(), self.scale).to(torch.int8))
        self.register_buffer("bias", layer.bias.detach().float())

    def dequantized(self, like: Tensor) -> Tensor:
        """The weight in floating point, in the dtype and on the device of `like`."""
        return self.weight.to(like) * self.scale.to(like)


class Int8Linear(Int8):
    """A linear map."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dequantized(x), self.bias.to(x))


class Int8ConvTranspose(Int8):
    """A transposed convolution of stride 2."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.dequantized(x), self.bias.to(x), stride=2)


class Int8Conv(Int8):
    """A convolution; its inputs are rounded if `step` is positive.

    On a CPU that sums products of integers exactly, and without gradients, oneDNN multiplies the
    integers. Otherwise, the same rounded numbers are multiplied as floats, and gradients ignore the
    rounding (straight-through).
    """

    step: Tensor
    zero: Tensor
    factors: Tensor

    def __init__(self, conv: nn.Conv2d, axis: int, fit: bool, factors: Tensor | None = None):
        if factors is not None:
            equalised = nn.utils.skip_init(
                nn.Conv2d, *conv.weight.shape[1::-1], conv.kernel_size, conv.stride, conv.padding
            )
            equalised.load_state_dict(
                {"weight": conv.weight * factors[None, :, None, None], "bias": conv.bias}
            )
            conv = equalised
        super().__init__(conv, axis, fit)
        self.register_buffer("factors", torch.ones(1) if factors is None else factors.clone())
        self.stride: list[int] = [int(n) for n in conv.stride]
        self.padding: list[int] = [int(n) for n in conv.padding]
        self.packed: Tensor | None = None
        self.register_buffer("step", torch.zeros(()))
        self.register_buffer("zero", torch.zeros(()))

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        # files of earlier versions have no factors
        factors = state.setdefault(f"{prefix}factors", torch.ones(1))
        self.factors = torch.ones(factors.shape).to(self.factors)
        super()._load_from_state_dict(state, prefix, *rest)

    def divided(self, x: Tensor) -> Tensor:
        """x with each channel over its factor."""
        return x if len(self.factors) == 1 else x / self.factors.to(x)[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        step, zero = float(self.step), int(self.zero)
        differentiated = torch.is_grad_enabled() and x.requires_grad
        supported = x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)
        if step > 0 and supported and not differentiated and sums_integers_exactly():
            return self.integers(x, step, zero)
        x = self.divided(x)
        if step > 0:
            x = x + (step * ((x / step).round() + zero).clamp(0, 255).sub(zero) - x).detach()
        return F.conv2d(x, self.dequantized(x), self.bias.to(x), self.stride, self.padding)

    def integers(self, x: Tensor, step: float, zero: int) -> Tensor:
        """The convolution with inputs (step, zero) in oneDNN's integers, on the CPU: as forward."""
        onednn = torch.ops.onednn
        scale = self.scale.flatten().float()
        geometry = (self.stride, self.padding, [1, 1], 1)
        if self.packed is None:
            weight = self.weight.contiguous()
            self.packed = onednn.qconv_prepack(weight, scale, step, zero, *geometry, None)
        grid = 1 / (step * self.factors.to(x.device, torch.float32))
        q = (
            (x.float() * (grid if len(grid) == 1 else grid[:, None, None]))
            .round_()
            .add_(zero)
            .clamp_(0, 255)
            .to(torch.uint8)
        )
        zero_points = torch.zeros(len(scale), dtype=torch.int64)
        weights = (self.packed, scale, zero_points, self.bias.float())
        output: tuple[Any, ...] = (1.0, 0, x.dtype, "none", [], "")
        return onednn.qconv_pointwise(q, step, zero, *weights, *geometry, *output)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"packed": None}  # a packed weight can be neither copied nor pickled


@functools.cache
def sums_integers_exactly() -> bool:
    """Whether oneDNN's integer convolutions are exact on this processor.

    Without the instructions of VNNI, sums of two products are cut to 16 bits, and 2 x 255 x 127
    exceeds them.
    """
    conv = nn.utils.skip_init(nn.Conv2d, 8, 8, 1)  # draws nothing of the global generator
    nn.init.ones_(conv.weight)
    nn.init.zeros_(conv.bias)
    layer = Int8Conv(conv.requires_grad_(False), 0, True)
    x = torch.full((1, 8, 4, 4), 255.0)
    with torch.no_grad():
        exact = F.conv2d(x, layer.dequantized(x), layer.bias)
        return torch.allclose(layer.integers(x, 1.0, 0), exact, rtol=1e-3)


INT8_LAYERS: dict[type, tuple[Any, int]] = {
    nn.Conv2d: (Int8Conv, 0),
    nn.ConvTranspose2d: (Int8ConvTranspose, 1),
    nn.Linear: (Int8Linear, 0),
}
"""The int8 layer of each float layer, and the dimension of the output channels in its weight."""


def replace_with_int8(
    network: nn.Module, fit: bool = True, factors: dict[str, Tensor] | None = None
) -> nn.Module:
    """Replace convolutions, transposed convolutions and linear maps by int8 layers, in place.

    Weights are rounded; inputs are rounded after calibration.

    Args:
        fit: whether to fit the scales; otherwise they are 1 until loaded.
        factors: of the input channels of convolutions, by name; see `equalising_factors`.
    """
    for name, layer in list(network.named_modules()):
        if type(layer) in INT8_LAYERS:
            int8_layer, axis = INT8_LAYERS[type(layer)]
            parent, _, leaf = name.rpartition(".")
            known = {"factors": factors[name]} if factors and name in factors else {}
            setattr(network.get_submodule(parent), leaf, int8_layer(layer, axis, fit, **known))
    return network


def calibration_pairs(
    prior: NetworkPrior,
    count: int,
    side: int,
    steps: int = 20,
    seed: int = 0,
    times: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Pairs (x, sigma) of the full-precision reverse process, in model units.

    Args:
        count: number of pairs.
        side: side of the images (pixels).
        steps: number of steps of the sampler (Heun).
        seed: random seed of the draws and the times.
        times: (count,) in [0, 1], from low to high noise; by default `calibration_times`.

    Returns: x (count, C, side, side) and sigma (count,).
    """
    assert prior.shape[0] is not None
    low, high = max(prior.sigma_min, 0.01), min(prior.sigma_max, 80.0)
    sigmas = torch.logspace(torch.tensor(high).log10(), torch.tensor(low).log10(), steps + 1)
    generator = Generators.for_samples(seed, count, 1)
    x = sigmas[0] * generator.randn_like(torch.empty(count, prior.shape[0], side, side))
    with torch.no_grad():
        path = torch.stack([x, *heun(prior, x, sigmas, generator)])
    if times is None:
        times = calibration_times(count, seed)
    index = steps - (times * steps).round().long()
    return path[index, torch.arange(count)], sigmas[index]


def calibration_times(count: int, seed: int = 0) -> Tensor:
    """Draws of N(0.4, 0.4^2) truncated to [0, 1]: (count,)."""
    draws = 0.4 + 0.4 * torch.randn(20 * count, generator=seeded(seed, "calibration times"))
    return draws[(draws >= 0) & (draws <= 1)][:count]


def check_quantizable(prior: Prior) -> None:
    """Check that a prior has a float `UNet` on a flat grid.

    Raises: OptionError otherwise, also for a prior that is already quantised.
    """
    network = getattr(prior, "network", None)
    if (
        type(prior) is not NetworkPrior
        or not isinstance(network, UNet)
        or type(network.head) is not nn.Conv2d
    ):
        raise OptionError(
            "prior quantize: needs a float network of `inverse train` for flat images, "
            f"got {getattr(prior, 'name', type(prior).__name__)}"
        )


def quantize(
    prior: NetworkPrior, pairs: tuple[Tensor, Tensor] | None, batch: int = 8
) -> NetworkPrior:
    """The prior with int8 weights, changed in place.

    Args:
        pairs: x (n, C, H, W) and sigma (n,) that calibrate the rounding of inputs; None to leave
            inputs unrounded.
        batch: number of pairs per evaluation.

    Raises: OptionError for a prior without a float `UNet` on a flat grid.
    """
    check_quantizable(prior)
    inputs_of: dict[str, list[Tensor]] = {}
    factors: dict[str, Tensor] = {}
    if pairs is not None:
        convolutions = [
            (name, m)
            for name, m in prior.network.named_modules()
            if type(m) is nn.Conv2d and name != "head"
        ]
        hooks = [
            m.register_forward_pre_hook(_subsample(inputs_of.setdefault(name, []), len(pairs[0])))
            for name, m in convolutions
        ]
        with torch.no_grad():
            for x, sigma in zip(pairs[0].split(batch), pairs[1].split(batch), strict=True):
                prior(x, sigma)
        for hook in hooks:
            hook.remove()
        for name, conv in convolutions:
            factors[name] = equalising_factors(torch.cat(inputs_of[name], 1), conv)
    replace_with_int8(prior.network, factors=factors)
    for name, inputs in inputs_of.items():
        layer: Any = prior.network.get_submodule(name)
        step, zero = fit_range((torch.cat(inputs, 1) / factors[name][:, None]).flatten())
        layer.step.fill_(step)
        layer.zero.fill_(zero)
    return prior


STRENGTH = 0.75
"""Exponent of the inputs' range in a channel's factor; 1 makes the ranges of all channels equal."""


def equalising_factors(x: Tensor, conv: nn.Conv2d, strength: float = STRENGTH) -> Tensor:
    """Factors c_j = range(x_j)^strength / range(W_j)^(1 - strength), of geometric mean 1: (C,).

    Args:
        x: inputs of the convolution (C, n).
        strength: how much of the spread of the ranges moves from inputs to weights.
    """
    inputs = x.abs().amax(1).clamp_min(1e-6)
    weights = conv.weight.detach().float().abs().amax((0, 2, 3)).clamp_min(1e-6)
    log = strength * inputs.log() - (1 - strength) * weights.log()
    return (log - log.mean()).exp()


def _subsample(kept: list[Tensor], count: int) -> Any:
    """A hook that appends evenly spaced pixels of a layer's inputs (C, n) to `kept`."""

    def hook(_: nn.Module, inputs: tuple[Tensor]) -> None:
        x = inputs[0].transpose(0, 1).flatten(1)
        stride = max(1, x.numel() * count // (CALIBRATION_INPUTS * len(inputs[0])))
        kept.append(x[:, ::stride].clone())

    return hook
