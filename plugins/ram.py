"""RAM: one network for many linear problems, which receives the operator and the noise level.

Terris, Hurault, Song, Tachella, Reconstruct Anything Model: a lightweight foundation model for
computational imaging, 2025, https://arxiv.org/abs/2503.08915. The network is deepinv's.
"""

from __future__ import annotations

from dataclasses import dataclass

import inverse
from inverse.priors.foreign.recognition import recognise
from inverse_plugins._pretrained import Pretrained


@dataclass(frozen=True)
class RAM(Pretrained):
    """deepinv's reconstruct-anything model with weights from a file (`inverse prior fetch ram`).

    It was trained for operators of norm 1, and does not use the prior.

    Args:
        weights: file of the weights (.pth, .pt, .ckpt, .tar, .safetensors).
    """

    name = "ram"
    reference = (
        "Terris et al., Reconstruct Anything Model: a lightweight foundation model for "
        "computational imaging, 2025, https://arxiv.org/abs/2503.08915"
    )
    equation = "x = RAM(y, A, sigma_y)"
    needs = ("linear", "gaussian", "white", "image")

    def network(self, weights):
        found = recognise(weights, self.weights, {"architecture": "reconstruct-anything"})
        network = found.layout.network()
        network.load_state_dict(found.weights)
        return network

    def reconstructor(self, network, posterior):
        def reconstruct(y, physics):
            physics.noise_model = None  # the level is passed
            return network(y, physics, sigma=posterior.sigma_y, img_size=posterior.shape)

        return reconstruct


@inverse.hookimpl
def inverse_methods():
    return [RAM]
