"""Stationary Gaussian fields: a law that is diagonal in Fourier, exact for images of any size."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from inverse.analytic import LOG_2PI, AnalyticPrior


class FieldPrior(AnalyticPrior):
    """A stationary Gaussian field on a torus of any size: independent Fourier coefficients, D = mean + F^-1 S / (S + sigma^2) F (x - mean).

    Args:
        mean: () or (channels, height, width), model units.
        spectrum: S, called with height and width -> (height, width), the variance of each coefficient of the unitary
            transform, with S(f) = S(-f). Its mean over the frequencies is the variance of a pixel.
        shape: (channels, height, width), None for any size.
    """

    def __init__(self, mean: Tensor, spectrum: Callable[[int, int], Tensor], shape: tuple[int | None, ...] = (1, None, None), **units: float):
        super().__init__(shape, **units)
        self.register_buffer("mean", mean.clone())
        self.spectrum = spectrum

    def sized(self, height: int, width: int) -> FieldPrior:
        """The same field on a torus of one size."""
        return FieldPrior(self.mean.expand(self.shape[0] or 1, height, width), self.spectrum, (self.shape[0], height, width), **self.units)

    @property
    def covariance(self) -> Tensor:
        n = math.prod(self._size)
        unit = torch.eye(n, dtype=self.mean.dtype, device=self.mean.device).reshape(n, *self._size)
        return _filter(unit, self._spectrum(unit)).reshape(n, n)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        S = self._spectrum(x)
        return self.mean + _filter(x - self.mean, S / (S + self._variance(x, sigma)))

    def log_density(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        total = self._spectrum(x) + self._variance(x, sigma)
        power = torch.fft.fft2(x - self.mean, norm="ortho").abs().square()
        return -0.5 * (power / total + total.log() + LOG_2PI).flatten(1).sum(1)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        white = torch.randn(count, *self._size, generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        return self.mean + _filter(white, self._spectrum(white).sqrt())

    def given(self, transfer: Tensor, sigma_y: float, y: Tensor) -> FieldPrior:
        """The law of x given y = F^-1 transfer F decode(x) + N(0, sigma_y^2): transfer (height, width) complex, y (channels, height, width)."""
        a, S = transfer * self.scale, self._spectrum(y)
        total = a.abs().square() * S + sigma_y**2
        residual = torch.fft.fft2(y, norm="ortho") - transfer * torch.fft.fft2(self.decode(self.mean).expand(y.shape), norm="ortho")
        mean = self.mean + torch.fft.ifft2(a.conj() * S / total * residual, norm="ortho").real
        posterior = S * sigma_y**2 / total
        return FieldPrior(mean, lambda height, width: posterior, tuple(y.shape), **self.units)

    def log_evidence(self, transfer: Tensor, sigma_y: float, y: Tensor) -> Tensor:
        """log p(y) in nats: ()."""
        blurred = torch.fft.ifft2(transfer * torch.fft.fft2(self.decode(self.mean).expand(y.shape))).real
        S = (transfer * self.scale).abs().square() * self._spectrum(y)
        return FieldPrior(blurred, lambda height, width: S, tuple(y.shape)).log_density(y[None], sigma_y)[0]

    @property
    def _size(self) -> tuple[int, ...]:
        return tuple(n or 1 for n in self.shape)

    def _spectrum(self, x: Tensor) -> Tensor:
        return self.spectrum(*x.shape[-2:]).to(x.device, x.dtype)

    def _variance(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        return torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, 1, 1, 1) ** 2


def matern(std: float, length: float, smoothness: float = 2.5) -> Callable[[int, int], Tensor]:
    """The spectrum of a Matern field on a torus, S(f) = c (2 smoothness / (2 pi length)^2 + |f|^2)^-(smoothness + 1), f in cycles per pixel.

    Args:
        std: standard deviation of a pixel, which fixes c at every size.
        length: correlation length (pixels).
        smoothness: derivatives that exist, rounded up.
    """

    def spectrum(height: int, width: int) -> Tensor:
        fy, fx = (torch.fft.fftfreq(n, dtype=torch.float64) for n in (height, width))
        S = (2 * smoothness / (2 * math.pi * length) ** 2 + fy[:, None] ** 2 + fx**2) ** -(smoothness + 1)
        return S * (std**2 / S.mean())

    return spectrum


def _filter(x: Tensor, response: Tensor) -> Tensor:
    """x (B, C, H, W) with its Fourier coefficients multiplied by a real, even response (..., H, W)."""
    return torch.fft.irfft2(torch.fft.rfft2(x) * response[..., : x.shape[-1] // 2 + 1], s=x.shape[-2:])
