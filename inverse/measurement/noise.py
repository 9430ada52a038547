"""Noise models: they draw a measurement y from a clean one, and compute its likelihood.

`sigma` and every other parameter is in the units of the measurement y.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from inverse.errors import NoiseError


class Noise(ABC):
    """A conditional distribution p(y | clean) of measurements."""

    @abstractmethod
    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Draw y given the clean measurement: (B, *out_shape) -> same; `clean` is not modified."""

    @abstractmethod
    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """log p(y | clean) in nats: (B, *out_shape) twice -> (B,).

        A subclass may omit terms in y alone; its docstring then says so.
        """


class GaussianNoise(Noise):
    """Additive white noise of a linear detector: y ~ N(clean, sigma^2).

    Args:
        sigma: standard deviation in the units of y, >= 0; a tensor (*out_shape) where it varies.
        observed: boolean (*out_shape), false at entries of y that are not measurements (the hole of
            an inpainting problem). They carry no noise and no likelihood; A must be zero there.

    `noiseless` is true if any sigma is 0, and `level` is the root mean square of sigma.
    log_prob: all terms.
    Raises: NoiseError for a negative or infinite sigma; `log_prob` for sigma = 0, which has no
        density.
    """

    def __init__(self, sigma: float | Tensor, observed: Tensor | None = None):
        try:
            if isinstance(sigma, bool) or torch.as_tensor(sigma).is_complex():
                raise TypeError("it is no real number")
            self.sigma = torch.as_tensor(sigma, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise NoiseError(
                f"Gaussian noise: sigma must be a number or an array of them, got {sigma!r:.80}"
            ) from error
        self.observed = observed
        if not bool((self.sigma >= 0).all() and self.sigma.isfinite().all()):
            raise NoiseError(f"Gaussian noise: sigma must be finite and at least 0, got {sigma}")
        self.noiseless = bool((self.sigma == 0).any())
        self.level = float(self.sigma.square().mean().sqrt())
        self._variances: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self._normalisers: dict[
            tuple[torch.device, torch.dtype, torch.Size], tuple[Tensor, Tensor]
        ] = {}

    def variance(self, y: Tensor) -> Tensor:
        """sigma^2 in the dtype and on the device of y: () or (*out_shape).

        It is copied once per device and dtype, since a copy makes the host wait.
        """
        key = (y.device, y.dtype)
        if key not in self._variances:
            self._variances[key] = (self.sigma**2).to(*key)
        return self._variances[key]

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        noise = self.sigma.to(clean) * _randn(clean, generator)
        return clean + (noise if self.observed is None else noise * self.observed.to(clean))

    def chi_square(self, y: Tensor, clean: Tensor) -> Tensor:
        """Mean of ((y - clean) / sigma)^2 over the measurements: (B, *out_shape) twice -> (B,)."""
        squares = (y - clean).square() / self.variance(y)
        if self.observed is None:
            return squares.flatten(1).mean(1)
        return (squares * self.weights(y)).flatten(1).sum(1) / self.weights(y).sum()

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        if self.noiseless:
            raise NoiseError("Gaussian noise: sigma = 0 has no density; use a positive sigma_y")
        count, normaliser = self._normaliser(y)
        return -0.5 * count * self.chi_square(y, clean) - normaliser

    def _normaliser(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The number of measurements, and the sum of log(sigma sqrt(2 pi)) over them; cached."""
        key = (y.device, y.dtype, y.shape[1:])
        if key not in self._normalisers:
            w = self.weights(y)
            log_terms = self.sigma.to(y).log() + 0.5 * math.log(2 * math.pi)
            self._normalisers[key] = (w.sum(), (log_terms * w).sum())
        return self._normalisers[key]

    def weights(self, y: Tensor) -> Tensor:
        """1 where an entry of y is a measurement and 0 where it is not: (*out_shape)."""
        if self.observed is None:
            return torch.ones_like(y[0])
        return self.observed.to(y).expand(y.shape[1:])

    def __repr__(self) -> str:
        level = f"{self.sigma.item():g}" if self.sigma.ndim == 0 else str(tuple(self.sigma.shape))
        return f"GaussianNoise({level})"


class PoissonNoise(Noise):
    """Counting noise of a photon detector: y ~ gain * Poisson(clean / gain).

    Args:
        gain: units of y per photon, > 0 (deepinv's convention).

    log_prob: all terms; it is the log-probability of the k = y / gain photons, and log k! is
        log Gamma(k + 1) where k is not an integer.
    Raises: NoiseError for a gain that is not positive, or a clean measurement that is negative
        beyond rounding.
    """

    def __init__(self, gain: float):
        self.gain = _number(gain)
        if not 0 < self.gain < math.inf:
            raise NoiseError(f"Poisson noise: gain must be positive, got {gain!r:.80}")

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        return torch.poisson(_non_negative(clean) / self.gain, generator=generator) * self.gain

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        photons = _non_negative(clean) / self.gain
        k = y / self.gain
        return (torch.xlogy(k, photons) - photons - torch.lgamma(k + 1)).flatten(1).sum(1)

    def __repr__(self) -> str:
        return f"PoissonNoise({self.gain:g})"


class LaplaceNoise(Noise):
    """Additive heavy-tailed noise: y ~ Laplace(clean, b); log_prob is complete.

    Args:
        b: scale in the units of y, > 0.

    Raises: NoiseError for a scale that is not positive.
    """

    def __init__(self, b: float):
        self.b = _number(b)
        if not 0 < self.b < math.inf:
            raise NoiseError(f"Laplace noise: b must be positive, got {b!r:.80}")

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        up, down = (torch.empty_like(clean).exponential_(generator=generator) for _ in range(2))
        return clean + self.b * (up - down)

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        return -((y - clean).abs() / self.b + math.log(2 * self.b)).flatten(1).sum(1)

    def __repr__(self) -> str:
        return f"LaplaceNoise({self.b:g})"


_FROM_DEEPINV: dict[str, Callable[..., Noise]] = {
    "GaussianNoise": lambda model: GaussianNoise(model.sigma.squeeze()),
    "PoissonNoise": lambda model: PoissonNoise(
        float(model.gain) if bool(model.normalize) else _refuse_unnormalised()
    ),
    "LaplaceNoise": lambda model: LaplaceNoise(float(model.b)),
    "ZeroNoise": lambda model: GaussianNoise(0.0),
}


def likelihood_of(noise_model: object) -> Noise:
    """The `Noise` of a deepinv noise model; a `Noise` is returned unchanged.

    Raises: NoiseError for any other model.
    """
    if isinstance(noise_model, Noise):
        return noise_model
    name = type(noise_model).__name__
    if name not in _FROM_DEEPINV:
        raise NoiseError(
            f"no likelihood is known for the noise model {name}; "
            f"known: {', '.join(sorted(_FROM_DEEPINV))}, or pass an inverse.Noise"
        )
    return _FROM_DEEPINV[name](noise_model)


def _refuse_unnormalised() -> float:
    raise NoiseError(
        "Poisson noise with normalize=False is in photons; "
        "use normalize=True so that y has the units of A(x)"
    )


def _non_negative(clean: Tensor) -> Tensor:
    if bool((clean < -1e-6).any()):
        raise NoiseError(
            "Poisson noise: the clean measurement must not be negative, "
            f"its minimum is {clean.min().item():.3g}"
        )
    return clean.clamp_min(0)


def _randn(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)


def _number(value: Any) -> float:
    """A value as a float; NaN for what is no number."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return float("nan")
