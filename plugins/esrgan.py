"""ESRGAN: a network that was trained to enlarge, as a point of comparison.

Wang et al., ESRGAN: Enhanced Super-Resolution Generative Adversarial Networks, ECCV workshops 2018,
https://arxiv.org/abs/1809.00219; Wang et al., Real-ESRGAN, ICCV workshops 2021,
https://arxiv.org/abs/2107.10833. Weights in the layout of BasicSR.
"""

from __future__ import annotations

from dataclasses import dataclass

import inverse
from inverse.errors import UnsupportedError
from inverse_plugins._pretrained import Pretrained
from inverse_plugins._rrdb import load_rrdb


@dataclass(frozen=True)
class ESRGAN(Pretrained):
    """The network of ESRGAN or Real-ESRGAN on the measurement alone, with weights from a file.

    It knows neither the operator nor the noise level nor the prior, and fits `super-resolution` at
    the factor of its weights.

    Args:
        weights: file of the weights (.pth, .pt, .ckpt, .tar, .safetensors).
    """

    name = "esrgan"
    reference = "Wang et al., ESRGAN, ECCV workshops 2018, https://arxiv.org/abs/1809.00219"
    equation = "x = RRDBNet(y)"
    needs = ("image",)

    def network(self, weights):
        return load_rrdb(weights, self.weights)

    def reconstructor(self, network, posterior):
        expected = (*posterior.y.shape[1:2], *(network.factor * s for s in posterior.y.shape[2:]))
        if expected != tuple(posterior.shape):
            raise UnsupportedError(
                f"esrgan: these weights enlarge {network.factor} times, from "
                f"{tuple(posterior.y.shape[1:])} to {expected}; the image is "
                f"{tuple(posterior.shape)}"
            )
        return lambda y, physics: network(y)


@inverse.hookimpl
def inverse_methods():
    return [ESRGAN]
