"""Stationary Gaussian fields: laws that are diagonal in Fourier space, exact for any image size."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from inverse.priors.analytic import LOG_2PI, AnalyticPrior


class FieldPrior(AnalyticPrior):
    """A stationary Gaussian field on a torus, with independent Fourier coefficients:

        D(x, sigma) = mean + F^-1 S / (S + sigma^2) F (x - mean)

    A field has any number of axes after the channels; below they are (height, width).

    Args:
        mean: () or (channels, height, width), model units; height and width may be 1.
        spectrum: S, called with height and width -> (height, width) or (channels, height, width).
            It is the variance of each coefficient of the unitary transform, S(f) = S(-f). Its mean
            over the frequencies is the variance of a pixel.
        shape: (channels, height, width), with None for any length.
        colours: (channels, channels), orthogonal; each column is a mixture of channels that is
            independent of the others. None if the channels themselves are independent.
    """

    colours: Tensor | None

    def __init__(
        self,
        mean: Tensor,
        spectrum: Callable[..., Tensor],
        shape: tuple[int | None, ...] = (1, None, None),
        colours: Tensor | None = None,
        **units: float,
    ):
        super().__init__(shape, **units)
        self.register_buffer("mean", mean.clone())
        self.register_buffer("colours", colours)
        self.spectrum = spectrum

    def sized(self, *size: int) -> FieldPrior:
        """The same field on a torus of a fixed size (pixels); its spectrum is computed once."""
        mean = self.mean.expand(self.shape[0] or 1, *size)
        S = self.spectrum(*size).to(mean)
        return FieldPrior(
            mean,
            lambda *size: S,
            (self.shape[0], *size),
            self.colours,
            **self.units,
        )

    @property
    def largest_variance(self) -> float:
        return float(self.spectrum(*self.shape[1:]).max())

    @property
    def covering_level(self) -> float:
        return self.sigma_max if None in self.shape else super().covering_level

    @property
    def covariance(self) -> Tensor:
        n = math.prod(self._size)
        unit = torch.eye(n, dtype=self.mean.dtype, device=self.mean.device).reshape(n, *self._size)
        return self.spectral(unit, lambda S: S).reshape(n, n)

    def spectral(self, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        """f(C) x, with f applied to the spectrum: (B, channels, height, width) -> same."""
        response = f(self._spectrum(x))[..., : x.shape[-1] // 2 + 1]
        size = x.shape[self._axes[0] :]
        filtered = torch.fft.irfftn(
            torch.fft.rfftn(self._mixtures(x), dim=self._axes) * response, s=size, dim=self._axes
        )
        return filtered if self.colours is None else self._mixed(filtered, self.colours.T)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.mean + self.spectral(
            x - self.mean, lambda S: S / (S + self._variance(x, sigma))
        )

    def log_density(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        total = self._spectrum(x) + self._variance(x, sigma)
        mixtures = self._mixtures(x - self.mean)
        power = torch.fft.fftn(mixtures, dim=self._axes, norm="ortho").abs().square()
        return -0.5 * (power / total + total.log() + LOG_2PI).flatten(1).sum(1)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        white = torch.randn(
            count, *self._size, generator=generator, dtype=self.mean.dtype, device=self.mean.device
        )
        return self.mean + self.spectral(white, torch.sqrt)

    def given(self, transfer: Tensor, sigma_y: float, y: Tensor) -> FieldPrior:
        """The law of x given y = F^-1 transfer F decode(x) + N(0, sigma_y^2 I).

        Args:
            transfer: (height, width), complex.
            sigma_y: standard deviation of the noise, units of y, > 0.
            y: (channels, height, width).
        """
        a, S = transfer * self.scale, self._spectrum(y)
        total = a.abs().square() * S + sigma_y**2
        residual = y - self._blurred(transfer, y)
        back = self._filtered(a.conj(), residual)
        posterior = S * sigma_y**2 / total
        return FieldPrior(
            self.mean + self.spectral(back, lambda S: S / total),
            lambda *size: posterior,
            tuple(y.shape),
            self.colours,
            **self.units,
        )

    def log_evidence(self, transfer: Tensor, sigma_y: float, y: Tensor) -> Tensor:
        """log p(y) in nats, (); arguments as in `given`."""
        S = (transfer * self.scale).abs().square() * self._spectrum(y)
        return FieldPrior(
            self._blurred(transfer, y), lambda *size: S, tuple(y.shape), self.colours
        ).log_density(y[None], sigma_y)[0]

    def _blurred(self, transfer: Tensor, y: Tensor) -> Tensor:
        """The measurement of the mean: (channels, height, width)."""
        return self._filtered(transfer, self.decode(self.mean).expand(y.shape))

    def _filtered(self, transfer: Tensor, x: Tensor) -> Tensor:
        spectrum = transfer * torch.fft.fftn(x, dim=self._axes)
        return torch.fft.ifftn(spectrum, dim=self._axes).real

    def _mixtures(self, x: Tensor) -> Tensor:
        """The independent mixtures of channels: (..., channels, height, width) -> same."""
        return x if self.colours is None else self._mixed(x, self.colours)

    def _mixed(self, x: Tensor, colours: Tensor) -> Tensor:
        channels = self._axes[0] - 1
        return (x.movedim(channels, -1) @ colours).movedim(-1, channels)

    @property
    def _axes(self) -> tuple[int, ...]:
        """The axes of the field, (-2, -1) for images."""
        return tuple(range(1 - len(self.shape), 0))

    @property
    def _size(self) -> tuple[int, ...]:
        return tuple(n or 1 for n in self.shape)

    def _spectrum(self, x: Tensor) -> Tensor:
        return self.spectrum(*x.shape[self._axes[0] :]).to(x.device, x.dtype)

    def _variance(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        levels = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
        return levels.reshape(-1, *(1 for _ in self.shape)) ** 2


class MeasuredField:
    """A field on a torus given y = A decode(x) + N(0, sigma_y^2 I), for any A of few measurements.

    Draws are those of the field, corrected by the innovation of a measurement of their own:

        x = u + S A^T M^-1 (y - A u - sigma_y z),    M = A S A^T + sigma_y^2 I

    The law has a mean, draws and the variance of each Fourier coefficient, and no denoiser.

    Args:
        field: the law of x, of a fixed size.
        matrix: A (m, n), acting on physical units.
        sigma_y: standard deviation of the noise, units of y, > 0.
        y: (m,).

    Source: Doucet, A Note on Efficient Conditional Simulation of Gaussian Distributions, 2010.
    """

    def __init__(self, field: FieldPrior, matrix: Tensor, sigma_y: float, y: Tensor):
        self._field, self._matrix, self._sigma_y, self._y = field, matrix, sigma_y, y
        self.scale, self.decode = field.scale, field.decode
        H = (matrix * field.scale).reshape(-1, *field._size)
        CH = field.spectral(H, lambda S: S)
        M = H.flatten(1) @ CH.flatten(1).T + sigma_y**2 * torch.eye(len(H), dtype=H.dtype)
        L = torch.linalg.cholesky(M)
        self._gain = torch.cholesky_solve(CH.flatten(1), L)
        white = torch.linalg.solve_triangular(L, CH.flatten(1), upper=False).reshape(CH.shape)
        removed = torch.fft.fft2(white, norm="ortho").abs().square().sum(0)
        self._variances = (field._spectrum(white) - removed).clamp_min(0)
        r = self._innovation(field.mean.expand(1, *field._size))
        self.mean = field.mean + (r @ self._gain).reshape(field._size)
        whitened = torch.linalg.solve_triangular(L, r.T, upper=False)
        terms = 0.5 * (whitened.square() + LOG_2PI).sum() + L.diagonal().log().sum()
        self.log_evidence = -float(terms)
        """log p(y), nats."""

    def spectrum(self, height: int, width: int) -> Tensor:
        """Variance of each coefficient of the unitary Fourier transform: (1, height, width)."""
        return self._variances

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Independent draws of x given y: (count, *shape), model units."""
        u = self._field.sample(count, generator)
        z = torch.randn(count, len(self._y), generator=generator, dtype=u.dtype)
        r = self._innovation(u) - self._sigma_y * z
        return u + (r @ self._gain).reshape(u.shape)

    def _innovation(self, x: Tensor) -> Tensor:
        """y - A decode(x): (B, *shape) -> (B, m)."""
        return self._y - self.decode(x).flatten(1) @ self._matrix.T


def matern(
    std: float, length: float, smoothness: float = 2.5, spacing: tuple[float, ...] | None = None
) -> Callable[..., Tensor]:
    """The spectrum of a Matern field on a torus of d axes:

        S(f) = c (2 smoothness / (2 pi length)^2 + |f|^2)^-(smoothness + d / 2)

    Args:
        std: standard deviation of a pixel; it determines c at every size.
        length: correlation length, in the units of spacing.
        smoothness: rounded up, the number of derivatives of the field, plus one.
        spacing: distance of pixels along each axis, to which f refers; 1 by default.

    Returns: a `spectrum` for `FieldPrior`.
    """

    def spectrum(*size: int) -> Tensor:
        corner = 2 * smoothness / (2 * math.pi * length) ** 2
        f2 = _frequencies(*size, spacing=spacing)
        S = (corner + f2) ** -(smoothness + len(size) / 2)
        return S * (std**2 / S.mean())

    return spectrum


def power_law(power: Tensor, corner: Tensor, exponent: Tensor) -> Callable[..., Tensor]:
    """S_c(f) = power_c (corner_c^2 + |f|^2)^-exponent_c, f in cycles per pixel, for every size.

    Args:
        power, corner, exponent: (channels,), positive. For photographs the exponent is about 1
            (Field, JOSA A 4, 1987).

    Returns: a `spectrum` for `FieldPrior`.
    """
    a, c, p = (v[:, None, None] for v in (power, corner, exponent))
    return lambda height, width: a * (c**2 + _frequencies(height, width)) ** -p


def fit_power_law(images: list[Tensor], bins: int = 24) -> dict[str, list]:
    """Fit the mean, the independent mixtures of channels and their power laws to images.

    The periodogram of each image has a Hann window. The fit is least squares in log S over bins of
    log |f|, so that all octaves have equal weight. The corner is searched between 1e-4 and 0.3
    cycles per pixel. It must also give the variance of a pixel, which alone determines the
    frequencies that are too low for the window, such as the brightness of a whole image.

    Args:
        images: each (channels, height, width), model units. A few suffice, since each mixture of
            channels has three parameters.
        bins: number of bins of log |f|.

    Returns: the argument of `power_law_field`, in JSON types.
    """
    pixels = torch.cat([image.flatten(1) for image in images], 1).double()
    mean, (variances, colours) = pixels.mean(1), torch.linalg.eigh(torch.atleast_2d(pixels.cov()))
    variances, colours = variances.flip(0), colours.flip(1)
    frequencies, powers = [], []
    for image in images:
        window = torch.outer(
            *(torch.hann_window(n, periodic=True, dtype=torch.float64) for n in image.shape[1:])
        )
        mixtures = torch.einsum("cd,chw->dhw", colours, image.double() - mean[:, None, None])
        periodogram = torch.fft.fft2(mixtures * window).abs() ** 2 / window.square().sum()
        powers.append(periodogram.flatten(1))
        frequencies.append(_frequencies(*image.shape[1:]).flatten().sqrt())
    f, S = torch.cat(frequencies), torch.cat(powers, 1)
    # Below this frequency, the window mixes frequencies.
    low = min(2 / min(image.shape[1:]) for image in images)
    edges = torch.logspace(math.log10(low), math.log10(0.5), bins + 1, dtype=torch.float64)
    inside = [(f >= a) & (f < b) for a, b in pairwise(edges)]
    centre, level = zip(
        *((f[i].log().mean().exp(), S[:, i].mean(1).log()) for i in inside if bool(i.any())),
        strict=True,
    )
    f, S = torch.stack(centre), torch.stack(level, 1)
    law: dict[str, list] = {"mean": mean.tolist(), "colours": colours.tolist()}
    law |= {"power": [], "corner": [], "exponent": []}
    grid = _frequencies(*images[0].shape[1:])
    for log_S, variance in zip(S, variances, strict=True):
        trials = []
        for corner in torch.logspace(-4, math.log10(0.3), 201, dtype=torch.float64):
            terms = torch.stack([torch.ones_like(f), -(corner**2 + f**2).log()], 1)
            solution = torch.linalg.lstsq(terms, log_S[:, None]).solution[:, 0]
            ratio = solution[0].exp() * (corner**2 + grid).pow(-solution[1]).mean() / variance
            misfit = (terms @ solution - log_S).square().mean() + ratio.log().square()
            trials.append((float(misfit), float(corner), *solution.tolist()))
        _, corner, log_power, exponent = min(trials)
        law["power"].append(math.exp(log_power))
        law["corner"].append(corner)
        law["exponent"].append(exponent)
    return law


def power_law_field(law: dict[str, list], **units: float) -> FieldPrior:
    """The field of a power law from `fit_power_law`, for images of any size, float64."""
    fitted = {name: torch.tensor(value, dtype=torch.float64) for name, value in law.items()}
    spectrum = power_law(fitted["power"], fitted["corner"], fitted["exponent"])
    return FieldPrior(
        fitted["mean"][:, None, None],
        spectrum,
        (len(fitted["mean"]), None, None),
        fitted["colours"],
        **units,
    )


def _frequencies(*size: int, spacing: tuple[float, ...] | None = None) -> Tensor:
    """|f|^2 in cycles per unit of spacing: (*size), float64."""
    lines = [
        torch.fft.fftfreq(n, d, dtype=torch.float64) ** 2
        for n, d in zip(size, spacing or (1.0,) * len(size), strict=True)
    ]
    total = torch.zeros(())
    for line in lines:
        total = total[..., None] + line
    return total
