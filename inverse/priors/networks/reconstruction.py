"""Block-wise reconstruction of an int8 network: each block is fitted to its float original.

The blocks are fitted in the order of evaluation, each on the inputs that the rounded blocks before
it produce. Free are the scale of each output channel, the biases, and the steps of the rounded
inputs; roundings pass gradients straight through. The integers of the weights stay.

Source: the second step of Shang et al., Post-training Quantization on Diffusion Models, CVPR 2023,
https://arxiv.org/abs/2211.15736, after Li et al., BRECQ, ICLR 2021, https://arxiv.org/abs/2102.05426,
and Esser et al., Learned Step Size Quantization, ICLR 2020, https://arxiv.org/abs/1902.08153. BRECQ
also learns which way weights round; here they round to nearest.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inverse.priors.networks.quantize import Int8, Int8Conv, Int8ConvTranspose, Int8Linear
from inverse.priors.networks.unet import Block
from inverse.priors.prior import NetworkPrior


def reconstruct(
    prior: NetworkPrior,
    original: NetworkPrior,
    pairs: tuple[Tensor, Tensor],
    iterations: int = 100,
    batch: int = 8,
    rate: float = 1e-3,
) -> list[tuple[str, float, float]]:
    """Fit the blocks of an int8 prior, in place, to those of the float prior it came from.

    Args:
        prior: see `quantize.quantize`.
        original: the float prior.
        pairs: x (n, C, H, W) and sigma (n,).
        iterations: steps of Adam for each block.
        batch: pairs in each step.
        rate: of the logarithms of scales and steps, and of the biases in units of their spread.

    Returns: name, mean square error before, and after, of each block; a block whose error did not
        fall keeps its parameters.
    """
    report = []
    for name in units(prior.network):
        inputs = _recorded(prior, name, pairs, batch, outputs=False)
        targets = _recorded(original, name, pairs, batch, outputs=True)
        unit = prior.network.get_submodule(name)
        targets = [(target,) for (target,) in targets]
        report.append((name, *_fit(unit, inputs, targets, iterations, rate)))
    return report


def units(network: nn.Module) -> list[str]:
    """Names of the parts that are fitted together, in the order of evaluation of a `UNet`."""
    kinds = (Block, Int8Conv, Int8ConvTranspose)
    names = {name: module for name, module in network.named_modules() if isinstance(module, kinds)}
    inside = [n for n in names if any(n.startswith(f"{m}.") for m in names)]
    order = {"head": 0, "down": 1, "shrink": 1, "grow": 2, "up": 2, "tail": 3}
    levels = 1 + max((int(n.split(".")[1]) for n in names if n.startswith("down.")), default=0)

    def place(name: str) -> tuple[int, ...]:
        part, *rest = name.split(".")
        level = int(rest[0]) if rest else 0
        depth = level if part in ("down", "shrink") else levels - level
        return order.get(part, 3), depth, part in ("shrink", "up"), *(int(i) for i in rest[1:])

    return sorted((n for n in names if n not in inside), key=place)


class _Stop(Exception):
    """The forward pass reached the part that is recorded."""


def _recorded(
    prior: NetworkPrior, name: str, pairs: tuple[Tensor, Tensor], batch: int, outputs: bool
) -> list[tuple[Any, ...]]:
    """Inputs, or outputs as tuples of one, of a part of the network for each batch of pairs."""
    found: list[tuple[Any, ...]] = []
    part = prior.network.get_submodule(name)

    def before(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        found.append(tuple(a.clone() if isinstance(a, Tensor) else a for a in arguments))
        raise _Stop

    def after(_: nn.Module, __: Any, output: Tensor) -> None:
        found.append((output.clone(),))
        raise _Stop

    hook = part.register_forward_hook(after) if outputs else part.register_forward_pre_hook(before)
    try:
        with torch.no_grad():
            for x, sigma in zip(pairs[0].split(batch), pairs[1].split(batch), strict=True):
                try:
                    prior(x, sigma)
                except _Stop:
                    continue
    finally:
        hook.remove()
    return found


class _Free:
    """The free parameters of an int8 layer, which stands in for its forward pass."""

    def __init__(self, layer: Int8):
        self.layer = layer
        self.spread = layer.scale.mean() * layer.weight.float().abs().mean() + 1e-12
        self.log_scale = torch.zeros_like(layer.scale).requires_grad_()
        self.bias = torch.zeros_like(layer.bias).requires_grad_()
        self.log_step = torch.zeros(()).requires_grad_()

    def forward(self, x: Tensor) -> Tensor:
        layer: Any = self.layer
        if isinstance(layer, Int8Conv):
            x = layer.divided(x)
        if isinstance(layer, Int8Conv) and float(layer.step) > 0:
            step, zero = layer.step * self.log_step.exp(), layer.zero
            x = step * (_straight(x / step) + zero).clamp(0, 255).sub(zero)
        weight = layer.weight.float() * (layer.scale * self.log_scale.exp())
        bias = layer.bias + self.bias * self.spread
        if isinstance(layer, Int8Linear):
            return F.linear(x, weight, bias)
        if isinstance(layer, Int8ConvTranspose):
            return F.conv_transpose2d(x, weight, bias, stride=2)
        return F.conv2d(x, weight, bias, layer.stride, layer.padding)

    def keep(self) -> None:
        """Write the fitted values into the layer."""
        layer: Any = self.layer
        with torch.no_grad():
            layer.scale.mul_(self.log_scale.exp())
            layer.bias.add_(self.bias * self.spread)
            if isinstance(layer, Int8Conv):
                layer.step.mul_(self.log_step.exp())
                layer.packed = None


def _straight(x: Tensor) -> Tensor:
    return x + (x.round() - x).detach()


def _fit(
    unit: nn.Module,
    inputs: list[tuple[Any, ...]],
    targets: list[tuple[Any, ...]],
    iterations: int,
    rate: float,
) -> tuple[float, float]:
    layers = [m for m in unit.modules() if isinstance(m, Int8)]
    free = [_Free(layer) for layer in layers]
    values = [v for f in free for v in (f.log_scale, f.bias, f.log_step)]
    optimizer = torch.optim.Adam(values, lr=rate)
    scale = torch.stack([t.square().mean() for (t,) in targets]).mean().clamp_min(1e-20)

    def error(i: int) -> Tensor:
        return (unit(*inputs[i]) - targets[i][0]).square().mean() / scale

    def total() -> float:
        with torch.no_grad():
            return float(torch.stack([error(i) for i in range(len(inputs))]).mean())

    for layer, stand_in in zip(layers, free, strict=True):
        layer.forward = stand_in.forward  # type: ignore[method-assign, assignment]
    try:
        before = total()
        with torch.enable_grad():
            for step in range(iterations):
                for group in optimizer.param_groups:
                    group["lr"] = rate * (1 - step / iterations)
                optimizer.zero_grad()
                error(step % len(inputs)).backward()
                optimizer.step()
        after = total()
    finally:
        for layer in layers:
            del layer.forward
    if after < before:
        for stand_in in free:
            stand_in.keep()
    return before, min(before, after)
