"""A prior that is a Gaussian and what a network has learnt beyond it."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor

from inverse.measurement.linalg import like
from inverse.priors.analytic import FieldLaw
from inverse.priors.networks.unet import UNet, UNetConfig
from inverse.priors.prior import NetworkPrior


class CorrectedPrior(NetworkPrior):
    """A Gaussian's denoiser G and a network F that corrects it, for fields on a grid that stays:

        D(x, sigma) = G(x, sigma) + c_out F([(G - m) / g, (x - G) / r, statics], log(sigma) / 4),    c_out = e g / sqrt(e^2 + g^2)

    where e^2 = tr C s^2 (C + s^2)^-1 / n is the mean square error of G on its own Gaussian, g^2 = tr C^2 (C + s^2)^-1 / n and
    r^2 = tr s^4 (C + s^2)^-1 / n are those of its answer and of its residual (s = sigma), and the statics are m and the square root
    of C's diagonal, standardised, which tell a network of local filters where it is. F starts at zero, and its reach vanishes as
    sigma grows, where G is what there is to know. It is the preconditioning of Karras et al. (NeurIPS 2022) for a Gaussian that is
    not white.

    Args:
        law: the Gaussian, model units; (channels, H, W).
        config: of F; its channels are the law's, and around a globe it is circular and of one value at each pole.
    """

    def __init__(self, law: FieldLaw, config: UNetConfig):
        channels, varies = law.mean.shape[0], torch.is_tensor(law.shift)
        expected = replace(
            config, channels=channels, extra=3 * channels, circular=config.circular or law.circular
        )
        law = copy.deepcopy(law).float()
        super().__init__(
            UNet(expected),
            law.shape,
            law.deviation,
            **(law.units | ({"shift": 0.0} if varies else {})),
        )
        self.law, self.halo, self.stride = law, None, 1
        if varies:  # a shift of its own at each entry moves with the weights
            del self.shift
            self.register_buffer("shift", torch.as_tensor(law.shift).clone(), persistent=False)
        statics = torch.cat([law.decode(law.mean), law.spread])
        deviation = statics.flatten(1).std(1).clamp_min(1e-6)[:, None, None]
        self.register_buffer(
            "statics", (statics - statics.mean((1, 2), keepdim=True)) / deviation, persistent=False
        )

    law: FieldLaw
    statics: Tensor

    def scales(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """e, g and r: sigma (B,) -> (B,) each."""
        (v, share), s2 = self.law.eigenvalues, sigma[:, None] ** 2

        def mean(f: Tensor) -> Tensor:
            return (f / (v + s2) * share).sum(1).sqrt()

        return mean(v * s2), mean(v**2), mean(s2**2)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(x.shape[0])
        gaussian = self.law(x, sigma)
        e, g, r = (like(scale, x) for scale in self.scales(sigma))
        inputs = torch.cat(
            [
                (gaussian - self.law.mean) / g,
                (x - gaussian) / r,
                self.statics.to(x).expand(len(x), -1, -1, -1),
            ],
            1,
        )
        raw = self.network(inputs, sigma.log() / 4).to(x.dtype)
        return gaussian + self.law.admissible(raw) * (e * g * torch.rsqrt(e**2 + g**2))

    def loss(self, x0: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
        """Mean square denoising error over e^2, which the Gaussian's own would be 1: x0, noise (B, *shape), sigma (B,) -> ()."""
        error = self(x0 + like(sigma, x0) * noise, sigma) - x0
        return (error.square() / like(self.scales(sigma)[0], x0) ** 2).mean()
