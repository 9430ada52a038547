"""A prior that scales the deviations of another prior from its mean."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inverse.priors.prior import Prior


class AmplifiedPrior(Prior):
    """The law of mean + amplitude (x0 - mean), with x0 drawn from another prior:

        D(x, sigma) = mean + amplitude (D_native(z, sigma / amplitude) - mean)
        z = mean + (x - mean) / amplitude

    Its Jacobian is that of the native denoiser, since the factors amplitude and 1 / amplitude
    cancel; the gradient skips both, so that they add no rounding error.

    The trusted noise levels are those of the native prior, so that a method uses the same levels.
    The native prior is evaluated at sigma / amplitude, which `native_sigma` returns.

    Args:
        native: the prior whose deviations are scaled, in the same units.
        amplitude: positive factor.
        mean: centre of the scaling, model units; broadcasts to one x.
    """

    def __init__(self, native: Prior, amplitude: float | Tensor, mean: Tensor):
        levels = {"sigma_min": native.sigma_min, "sigma_max": native.sigma_max}
        super().__init__(native.shape, shift=native.shift, scale=native.scale, **levels)
        self.native, self.exact, self.affine = native, native.exact, native.affine
        self.register_buffer("amplitude", torch.as_tensor(amplitude).to(mean).clone())
        self.register_buffer("mean", mean.clone())

    amplitude: Tensor
    mean: Tensor

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
        z = _with_gradient_of(x, self.mean + (x.detach() - self.mean) / self.amplitude)
        x0_hat = self.native(z, sigma / self.amplitude)
        return _with_gradient_of(x0_hat, self.mean + self.amplitude * (x0_hat.detach() - self.mean))

    def native_sigma(self, sigma: Tensor | float) -> Tensor | float:
        return self.native.native_sigma(torch.as_tensor(sigma).to(self.amplitude) / self.amplitude)

    def decode(self, x: Tensor) -> Tensor:
        return self.native.decode(x)

    def decode_adjoint(self, v: Tensor) -> Tensor:
        return self.native.decode_adjoint(v)

    def encode(self, u: Tensor) -> Tensor:
        return self.native.encode(u)


class _Relabelled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient, None


def _with_gradient_of(x: Tensor, value: Tensor) -> Tensor:
    """`value` in the forward pass; its gradient passes to x unchanged."""
    return _Relabelled.apply(x, value) if x.requires_grad else value
