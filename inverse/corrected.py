"""A prior that is a Gaussian and what a network has learnt beyond it."""

from __future__ import annotations

import torch
from torch import Tensor

from inverse.analytic import LowRankPrior
from inverse.network import UNet, UNetConfig
from inverse.prior import NetworkPrior, like


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
        config: of F; `extra` must be channels + statics.
    """

    def __init__(self, law: LowRankPrior, config: UNetConfig):
        channels = law.mean.shape[0]
        expected = UNetConfig(config.channels, config.widths, config.blocks, config.embedding, extra=3 * channels, circular=config.circular)
        mean, variances, floor = (t.float() for t in (law.mean, law.variances, law.floor))
        law = LowRankPrior(mean, law.basis.float(), variances, floor, **law.units)
        spread = (law.basis.square() @ (variances - floor) + floor).sqrt().reshape(mean.shape)
        super().__init__(UNet(expected), law.shape, law.deviation, **law.units)
        self.law, self.halo, self.stride = law, None, 1
        statics = torch.cat([mean, spread])
        deviation = statics.flatten(1).std(1).clamp_min(1e-6)[:, None, None]
        self.register_buffer("statics", (statics - statics.mean((1, 2), keepdim=True)) / deviation, persistent=False)

    law: LowRankPrior
    statics: Tensor

    def scales(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """e, g and r: sigma (B,) -> (B,) each."""
        v, rest, n = self.law.variances, self.law.floor, self.law.mean.numel()
        s2 = sigma[:, None] ** 2
        total, last = 1 / (v + s2), 1 / (rest + s2[:, 0])

        def mean(f: Tensor, f_rest: Tensor) -> Tensor:
            return (((f * total).sum(1) + (n - len(v)) * f_rest * last) / n).sqrt()

        return mean(v * s2, rest * s2[:, 0]), mean(v**2 + 0 * s2, rest**2), mean(s2**2 + 0 * v, s2[:, 0] ** 2)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(x.shape[0])
        gaussian = self.law(x, sigma)
        e, g, r = (like(scale, x) for scale in self.scales(sigma))
        inputs = torch.cat([(gaussian - self.law.mean) / g, (x - gaussian) / r, self.statics.to(x).expand(len(x), -1, -1, -1)], 1)
        raw = self.network(inputs, sigma.log() / 4)
        return gaussian + raw.to(x.dtype) * (e * g * torch.rsqrt(e**2 + g**2))

    def loss(self, x0: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
        """Mean square denoising error over e^2, which the Gaussian's own would be 1: x0, noise (B, *shape), sigma (B,) -> ()."""
        error = self(x0 + like(sigma, x0) * noise, sigma) - x0
        return (error.square() / like(self.scales(sigma)[0], x0) ** 2).mean()
