"""A prior is a denoiser x0_hat = E[x0 | x0 + sigma n = x], n ~ N(0, I), at noise level sigma.

x and sigma are in model units. Wrappers turn VP, eps-, v- and flow networks into such a denoiser
(alpha_bar = 1 / (1 + sigma^2)), so that no other module depends on their parametrisation.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from inverse.priors.networks.unet import UNet, UNetConfig
from inverse.rows import like


class Prior(nn.Module):
    """Base of every prior; a subclass implements `forward` alone.

    Args:
        shape: shape of one sample, with None for any length, e.g. (3, None, None) for colour images
            of any size.
        shift, scale: physical = scale * model + shift; for images, physical units are intensities
            in [0, 1].
        sigma_min, sigma_max: smallest and largest trusted noise level (model units).
    """

    halo: int | None = None
    """Distance (pixels) beyond which no input changes an output pixel; None if not local.

    Only a local denoiser can be tiled.
    """

    stride = 1
    """Grid (pixels) on which a local denoiser is translation-equivariant; tiles start on it."""

    affine = True
    """Whether `decode` is scale * x + shift; false for a latent prior with a decoder network."""

    exact = False
    """Whether `forward` is the exact conditional mean of a known law."""

    def __init__(
        self,
        shape: tuple[int | None, ...],
        *,
        shift: float = 0.0,
        scale: float = 1.0,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
    ):
        super().__init__()
        self.shape, self.shift, self.scale = tuple(shape), float(shift), float(scale)
        self.sigma_min, self.sigma_max = float(sigma_min), float(sigma_max)

    def __repr__(self) -> str:
        """Name, shape, number of weights and noise levels, on one line."""
        name = getattr(self, "name", "")
        weights = sum(parameter.numel() for parameter in self.parameters())
        shape = ", ".join("any" if n is None else str(n) for n in self.shape)
        return (
            f"{type(self).__name__}({f'{name}, ' if name else ''}shape ({shape}), "
            f"{weights} weights, sigma {self.sigma_min:g} to {self.sigma_max:g})"
        )

    @property
    def device(self) -> torch.device | None:
        """The device of the weights; None for a prior without weights."""
        return next((tensor.device for tensor in (*self.parameters(), *self.buffers())), None)

    @property
    def covering_level(self) -> float:
        """Noise level (model units) from which x0 + sigma n is nearly N(0, sigma^2 I)."""
        return self.sigma_max

    def native_sigma(self, sigma: Tensor | float) -> Tensor | float:
        """The noise levels to compare with `sigma_min` and `sigma_max` for an evaluation at sigma.

        They are sigma itself, unless the prior wraps another at other levels.
        """
        return sigma

    @abstractmethod
    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x]: x (B, *shape), sigma () or (B,), model units -> (B, *shape)."""

    def score(self, x: Tensor, sigma: Tensor) -> Tensor:
        """grad log p_sigma(x) = (x0_hat - x) / sigma^2 (Tweedie): x (B, *shape) -> same."""
        return (self(x, sigma) - x) / like(sigma, x) ** 2

    def eps(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The noise estimate (x - x0_hat) / sigma: x (B, *shape) -> same."""
        return (x - self(x, sigma)) / like(sigma, x)

    def decode(self, x: Tensor) -> Tensor:
        """Model units -> physical units: (B, *shape) -> same, or images for a latent prior."""
        return x * self.scale + self.shift

    def decode_adjoint(self, v: Tensor) -> Tensor:
        """Adjoint of the linear part of `decode`: (B, *shape) -> same."""
        return v * self.scale

    def encode(self, u: Tensor) -> Tensor:
        """Physical units -> model units: (B, *shape) -> same."""
        return (u - self.shift) / self.scale

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether the prior denoises samples of this shape (without the batch dimension)."""
        return len(shape) == len(self.shape) and all(
            own in (None, length) for own, length in zip(self.shape, shape, strict=True)
        )


class NetworkPrior(Prior):
    """A network under the preconditioning of EDM:

        D(x, sigma) = c_skip x + c_out F(c_in x, log(sigma) / 4)

    Args:
        network: F, called with (B, C, H, W) and (B,). A `UNet` with one extra channel is told which
            pixels it sees (`seeing`), as a prior learnt from masked measurements alone.
        shape: shape of one sample.
        sigma_data: standard deviation of the training data, model units.

    Source: Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models,
        NeurIPS 2022, https://arxiv.org/abs/2206.00364, table 1.
    """

    power_law: dict[str, list] = {}
    """Mean and power spectrum of the training data (`field.fit_power_law`); empty if not fitted."""

    def __init__(
        self,
        network: nn.Module,
        shape: tuple[int | None, ...],
        sigma_data: float = 0.5,
        **units: float,
    ):
        super().__init__(shape, **units)
        self.network, self.sigma_data = network, float(sigma_data)
        config = getattr(network, "config", None)
        self.told_what_is_seen = False
        if isinstance(config, UNetConfig):
            self.halo, self.stride = config.halo, config.stride
            self.told_what_is_seen = config.extra == 1

    @classmethod
    def unet(cls, config: UNetConfig, sigma_data: float = 0.5, **units: float) -> NetworkPrior:
        """The prior of a `UNet` with initial weights, for images of any size."""
        return cls(UNet(config), (config.channels, None, None), sigma_data, **units)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(x.shape[0])
        if self.told_what_is_seen:
            return self.seeing(x, sigma, torch.ones_like(x[:, :1]))
        s = like(sigma, x)
        total = s**2 + self.sigma_data**2
        raw = self.network(x * total.rsqrt(), sigma.log() / 4)
        return x * (self.sigma_data**2 / total) + raw.to(x.dtype) * (
            s * self.sigma_data * total.rsqrt()
        )

    def seeing(self, x: Tensor, sigma: Tensor, seen: Tensor) -> Tensor:
        """E[x0 | the seen pixels of x], for a network with an extra channel.

        An unseen pixel has infinite noise: c_skip = c_in = 0 and c_out = sigma_data.

        x (B, C, H, W), sigma (B,), seen (B, 1, H, W) of zeros and ones -> (B, C, H, W).
        """
        s = like(sigma, x)
        total = s**2 + self.sigma_data**2
        raw = self.network(torch.cat([x * seen * total.rsqrt(), seen], 1), sigma.log() / 4)
        c_out = seen * (s * self.sigma_data * total.rsqrt()) + (1 - seen) * self.sigma_data
        return x * seen * (self.sigma_data**2 / total) + raw.to(x.dtype) * c_out

    def loss(
        self, x0: Tensor, sigma: Tensor, noise: Tensor, region: Tensor | None = None
    ) -> Tensor:
        """Mean denoising loss, weighted to unit size at every noise level.

        With weights w of pixels, the best denoiser is E[w x0 | x] / E[w | x].

        x0, noise (B, *shape), sigma (B,), region w (B, 1, H, W) or None -> ().
        """
        s = like(sigma, x0)
        weight = (s**2 + self.sigma_data**2) / (s * self.sigma_data) ** 2
        if region is not None:
            weight = weight * region
        return (weight * (self(x0 + s * noise, sigma) - x0).square()).mean()


class RescaledPrior(Prior):
    """A denoiser of other units: D(x, sigma) = (D_native(a x + b, a sigma) - b) / a.

    Args:
        native: the denoiser in native units a x + b, e.g. [0, 1] (a = b = 0.5) for model units
            [-1, 1].
        a, b: the affine map, a > 0.
    """

    def __init__(self, native: Prior, a: float, b: float):
        units = {"shift": native.scale * b + native.shift, "scale": native.scale * a}
        super().__init__(
            native.shape, **units, sigma_min=native.sigma_min / a, sigma_max=native.sigma_max / a
        )
        self.native, self.a, self.b = native, float(a), float(b)
        self.halo, self.stride, self.exact = native.halo, native.stride, native.exact

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return (self.native(self.a * x + self.b, torch.as_tensor(sigma) * self.a) - self.b) / self.a
