"""Stationary Gaussian fields: a law that is diagonal in Fourier, exact for images of any size."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from inverse.priors.analytic import LOG_2PI, AnalyticPrior


class FieldPrior(AnalyticPrior):
    """A stationary Gaussian field on a torus of any size: independent Fourier coefficients, D = mean + F^-1 S / (S + sigma^2) F (x - mean).

    Args:
        mean: () or (channels, height, width), the last two 1 where they do not matter, model units.
        spectrum: S, called with height and width -> (height, width) or (channels, height, width), the variance of each
            coefficient of the unitary transform, with S(f) = S(-f). Its mean over the frequencies is the variance of a pixel.
        shape: (channels, height, width), None for any size.
        colours: (channels, channels) orthogonal; its columns are the mixtures of channels that are independent. None: the channels.
    """

    colours: Tensor | None

    def __init__(
        self,
        mean: Tensor,
        spectrum: Callable[[int, int], Tensor],
        shape: tuple[int | None, ...] = (1, None, None),
        colours: Tensor | None = None,
        **units: float,
    ):
        super().__init__(shape, **units)
        self.register_buffer("mean", mean.clone())
        self.register_buffer("colours", colours)
        self.spectrum = spectrum

    def sized(self, height: int, width: int) -> FieldPrior:
        """The same field on a torus of one size; its spectrum is computed once."""
        mean = self.mean.expand(self.shape[0] or 1, height, width)
        S = self.spectrum(height, width).to(mean)
        return FieldPrior(
            mean,
            lambda height, width: S,
            (self.shape[0], height, width),
            self.colours,
            **self.units,
        )

    @property
    def covariance(self) -> Tensor:
        n = math.prod(self._size)
        unit = torch.eye(n, dtype=self.mean.dtype, device=self.mean.device).reshape(n, *self._size)
        return self.spectral(unit, lambda S: S).reshape(n, n)

    def spectral(self, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        """f(C) x, f applied to the spectrum, the eigenvalues of C: (B, channels, height, width) -> same."""
        response = f(self._spectrum(x))[..., : x.shape[-1] // 2 + 1]
        filtered = torch.fft.irfft2(torch.fft.rfft2(self._turned(x)) * response, s=x.shape[-2:])
        return (
            filtered
            if self.colours is None
            else torch.einsum("cd,...dhw->...chw", self.colours, filtered)
        )

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.mean + self.spectral(
            x - self.mean, lambda S: S / (S + self._variance(x, sigma))
        )

    def log_density(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        total = self._spectrum(x) + self._variance(x, sigma)
        power = torch.fft.fft2(self._turned(x - self.mean), norm="ortho").abs().square()
        return -0.5 * (power / total + total.log() + LOG_2PI).flatten(1).sum(1)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        white = torch.randn(
            count, *self._size, generator=generator, dtype=self.mean.dtype, device=self.mean.device
        )
        return self.mean + self.spectral(white, torch.sqrt)

    def given(self, transfer: Tensor, sigma_y: float, y: Tensor) -> FieldPrior:
        """The law of x given y = F^-1 transfer F decode(x) + N(0, sigma_y^2): transfer (height, width) complex, y (channels, height, width)."""
        a, S = transfer * self.scale, self._spectrum(y)
        total = a.abs().square() * S + sigma_y**2
        residual = y - self._blurred(transfer, y)
        back = torch.fft.ifft2(a.conj() * torch.fft.fft2(residual)).real
        posterior = S * sigma_y**2 / total
        return FieldPrior(
            self.mean + self.spectral(back, lambda S: S / total),
            lambda height, width: posterior,
            tuple(y.shape),
            self.colours,
            **self.units,
        )

    def log_evidence(self, transfer: Tensor, sigma_y: float, y: Tensor) -> Tensor:
        """log p(y) in nats: ()."""
        S = (transfer * self.scale).abs().square() * self._spectrum(y)
        return FieldPrior(
            self._blurred(transfer, y), lambda height, width: S, tuple(y.shape), self.colours
        ).log_density(y[None], sigma_y)[0]

    def _blurred(self, transfer: Tensor, y: Tensor) -> Tensor:
        """The measurement of the mean: (channels, height, width)."""
        return torch.fft.ifft2(
            transfer * torch.fft.fft2(self.decode(self.mean).expand(y.shape))
        ).real

    def _turned(self, x: Tensor) -> Tensor:
        """The mixtures of channels that are independent: (..., channels, height, width) -> same."""
        return x if self.colours is None else torch.einsum("cd,...chw->...dhw", self.colours, x)

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
        S = (2 * smoothness / (2 * math.pi * length) ** 2 + _frequencies(height, width)) ** -(
            smoothness + 1
        )
        return S * (std**2 / S.mean())

    return spectrum


def power_law(power: Tensor, corner: Tensor, exponent: Tensor) -> Callable[[int, int], Tensor]:
    """S_c(f) = power_c (corner_c^2 + |f|^2)^-exponent_c, f in cycles per pixel, the same density at every size.

    Args:
        power, corner, exponent: (channels,), positive; of photographs the exponent is about 1 (Field, JOSA A 4, 1987).
    """
    a, c, p = (v[:, None, None] for v in (power, corner, exponent))
    return lambda height, width: a * (c**2 + _frequencies(height, width)) ** -p


def fit_power_law(images: list[Tensor], bins: int = 24) -> dict[str, list]:
    """Mean, independent mixtures of channels and their power laws, fitted to images: the arguments of `power_law_field`.

    The periodogram is that of each image times a Hann window, and the fit is least squares in log S over bins of log |f|, so that every
    octave counts alike. The corner, looked for between 1e-4 and 0.3 cycles a pixel, must also give the variance of a pixel: frequencies
    too low for the window, the brightness of a whole image among them, are seen in nothing else.

    Args:
        images: (channels, height, width) each, model units; a few suffice, since there are three numbers for a mixture of channels.
    """
    pixels = torch.cat([image.flatten(1) for image in images], 1).double()
    mean, (variances, colours) = pixels.mean(1), torch.linalg.eigh(pixels.cov())
    variances, colours = variances.flip(0), colours.flip(1)
    places, powers = [], []
    for image in images:
        window = torch.outer(
            *(torch.hann_window(n, periodic=True, dtype=torch.float64) for n in image.shape[1:])
        )
        turned = torch.einsum("cd,chw->dhw", colours, image.double() - mean[:, None, None])
        powers.append(
            (torch.fft.fft2(turned * window).abs() ** 2 / window.square().sum()).flatten(1)
        )
        places.append(_frequencies(*image.shape[1:]).flatten().sqrt())
    f, S = torch.cat(places), torch.cat(powers, 1)
    low = min(2 / min(image.shape[1:]) for image in images)  # below, the window mixes frequencies
    edges = torch.logspace(math.log10(low), math.log10(0.5), bins + 1, dtype=torch.float64)
    inside = [(f >= a) & (f < b) for a, b in pairwise(edges)]
    centre, level = zip(
        *((f[i].log().mean().exp(), S[:, i].mean(1).log()) for i in inside if bool(i.any())),
        strict=True,
    )
    f, S = torch.stack(centre), torch.stack(level, 1)
    law: dict[str, list] = {
        "mean": mean.tolist(),
        "colours": colours.tolist(),
        "power": [],
        "corner": [],
        "exponent": [],
    }
    grid = _frequencies(*images[0].shape[1:])
    for line, variance in zip(S, variances, strict=True):
        trials = []
        for corner in torch.logspace(-4, math.log10(0.3), 201, dtype=torch.float64):
            terms = torch.stack([torch.ones_like(f), -(corner**2 + f**2).log()], 1)
            solution = torch.linalg.lstsq(terms, line[:, None]).solution[:, 0]
            ratio = solution[0].exp() * (corner**2 + grid).pow(-solution[1]).mean() / variance
            misfit = (terms @ solution - line).square().mean() + ratio.log().square()
            trials.append((float(misfit), float(corner), *solution.tolist()))
        _, corner, log_power, exponent = min(trials)
        for name, value in {
            "power": math.exp(log_power),
            "corner": corner,
            "exponent": exponent,
        }.items():
            law[name].append(value)
    return law


def power_law_field(law: dict[str, list], **units: float) -> FieldPrior:
    """The field of what `fit_power_law` returns, for images of any size, float64."""
    fitted = {name: torch.tensor(value, dtype=torch.float64) for name, value in law.items()}
    spectrum = power_law(fitted["power"], fitted["corner"], fitted["exponent"])
    return FieldPrior(
        fitted["mean"][:, None, None],
        spectrum,
        (len(fitted["mean"]), None, None),
        fitted["colours"],
        **units,
    )


def _frequencies(height: int, width: int) -> Tensor:
    """|f|^2 in cycles per pixel: (height, width), float64."""
    fy, fx = (torch.fft.fftfreq(n, dtype=torch.float64) for n in (height, width))
    return fy[:, None] ** 2 + fx**2
