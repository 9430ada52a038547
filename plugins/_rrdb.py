"""RRDBNet, the network of ESRGAN and Real-ESRGAN, with the names of BasicSR's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inverse.errors import PriorError


class RRDBNet(nn.Module):
    """Residual dense blocks, then two enlargements by two: (1, C, h, w) -> (1, C, f h, f w).

    Args:
        channels: of the images.
        inputs: channels after unshuffling: C for factor 4, 4 C for factor 2, 16 C for factor 1.
        width, growth: feature channels, and those that a dense layer adds.
        blocks: number of blocks.
    """

    def __init__(self, channels: int, inputs: int, width: int, growth: int, blocks: int):
        super().__init__()
        self.unshuffle = {1: 1, 4: 2, 16: 4}[inputs // channels]
        self.conv_first = nn.Conv2d(inputs, width, 3, padding=1)
        self.body = nn.ModuleList(Block(width, growth) for _ in range(blocks))
        for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
            setattr(self, name, nn.Conv2d(width, width, 3, padding=1))
        self.conv_last = nn.Conv2d(width, channels, 3, padding=1)

    @property
    def factor(self) -> int:
        """Sides of the output per side of the input."""
        return 4 // self.unshuffle

    def forward(self, y: Tensor) -> Tensor:
        features = self.conv_first(F.pixel_unshuffle(y, self.unshuffle))
        x = features
        for block in self.body:
            x = block(x)
        x = features + self.get_submodule("conv_body")(x)
        for name in ("conv_up1", "conv_up2"):
            x = leaky(self.get_submodule(name)(F.interpolate(x, scale_factor=2.0)))
        return self.conv_last(leaky(self.get_submodule("conv_hr")(x)))


class Block(nn.Module):
    """Three dense blocks and a skip connection."""

    def __init__(self, width: int, growth: int):
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (Dense(width, growth) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * self.rdb3(self.rdb2(self.rdb1(x)))


class Dense(nn.Module):
    """Five convolutions, each of which sees the outputs of all before it."""

    def __init__(self, width: int, growth: int):
        super().__init__()
        for i in range(1, 6):
            out = width if i == 5 else growth
            setattr(self, f"conv{i}", nn.Conv2d(width + (i - 1) * growth, out, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        parts = [x]
        for i in range(1, 5):
            parts.append(leaky(self.get_submodule(f"conv{i}")(torch.cat(parts, 1))))
        return x + 0.2 * self.get_submodule("conv5")(torch.cat(parts, 1))


def leaky(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2."""
    return F.leaky_relu(x, 0.2)


def load_rrdb(weights: dict[str, Tensor], source: object) -> RRDBNet:
    """The network of a state dict.

    Raises: PriorError if the weights are of another network.
    """
    try:
        first, last = weights["conv_first.weight"], weights["conv_last.weight"]
        blocks = 1 + max(int(k.split(".")[1]) for k in weights if k.startswith("body."))
        growth = weights["body.0.rdb1.conv1.weight"].shape[0]
        network = RRDBNet(last.shape[0], first.shape[1], first.shape[0], growth, blocks)
        network.load_state_dict(weights)
    except (LookupError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[:2][-1].strip()
        raise PriorError(f"esrgan: {source} holds no RRDBNet of BasicSR ({reason})") from error
    return network
