"""A prior that corrects the denoiser of a Gaussian by a network."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor

from inverse.priors.analytic import FieldLaw
from inverse.priors.networks.unet import UNet, UNetConfig
from inverse.priors.prior import NetworkPrior
from inverse.rows import like


class CorrectedPrior(NetworkPrior):
    """The denoiser G of a Gaussian N(m, C) and a network F that corrects it, on a fixed grid:

        D(x, sigma) = G(x, sigma) + c_out F([(G - m) / g, (x - G) / r, statics], log(sigma) / 4)
        c_out = e g / sqrt(e^2 + g^2)

    with s = sigma and

        e^2 = tr C s^2 (C + s^2)^-1 / n     mean square error of G on its own Gaussian
        g^2 = tr C^2 (C + s^2)^-1 / n       mean square of G - m
        r^2 = tr s^4 (C + s^2)^-1 / n       mean square of x - G

    The statics are m and the square root of C's diagonal, standardised; they give the position to
    a network of local filters. F starts at zero. As sigma grows, c_out vanishes and G is exact in
    the limit.

    Args:
        law: the Gaussian, model units, (channels, H, W).
        config: architecture of F; its channels are set to the law's. On a globe, F is circular and
            its output is constant at each pole.

    Source: the preconditioning of Karras et al., Elucidating the Design Space of Diffusion-Based
        Generative Models, NeurIPS 2022, for a Gaussian that is not white.
    """

    def __init__(self, law: FieldLaw, config: UNetConfig):
        channels, shift_varies = law.mean.shape[0], torch.is_tensor(law.shift)
        expected = replace(
            config, channels=channels, extra=3 * channels, circular=config.circular or law.circular
        )
        law = copy.deepcopy(law).float()
        units = law.units | ({"shift": 0.0} if shift_varies else {})
        super().__init__(UNet(expected), law.shape, law.deviation, **units)
        self.law, self.halo, self.stride = law, None, 1
        if shift_varies:  # a shift for each entry is a buffer, which moves with the weights
            del self.shift
            self.register_buffer("shift", torch.as_tensor(law.shift).clone(), persistent=False)
        statics = torch.cat([law.decode(law.mean), law.spread])
        deviation = statics.flatten(1).std(1).clamp_min(1e-6)[:, None, None]
        standardised = (statics - statics.mean((1, 2), keepdim=True)) / deviation
        self.register_buffer("statics", standardised, persistent=False)

    law: FieldLaw
    statics: Tensor

    def scales(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """e, g and r, model units: sigma (B,) -> (B,) each."""
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

    def loss(
        self, x0: Tensor, sigma: Tensor, noise: Tensor, region: Tensor | None = None
    ) -> Tensor:
        """Mean square denoising error over e^2; it is 1 for G on its own Gaussian.

        x0, noise (B, *shape), sigma (B,), weights of pixels `region` (B, 1, H, W) or None -> ().
        """
        error = self(x0 + like(sigma, x0) * noise, sigma) - x0
        weighted = error.square() if region is None else region * error.square()
        return (weighted / like(self.scales(sigma)[0], x0) ** 2).mean()
