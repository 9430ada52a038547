"""Samplers: plain generators over a `denoise` callable and a schedule; each yields its iterates, the last is the answer.

    denoise(x, sigma) -> x0_hat        x (B, *shape), sigma ()
    sigmas                             (steps + 1,), decreasing, ending in 0
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from inverse.seeding import Generators

Denoise = Callable[[Tensor, Tensor], Tensor]
Sampler = Callable[[Denoise, Tensor, Tensor, Generators], Iterator[Tensor]]


def ddim(denoise: Denoise, x: Tensor, sigmas: Tensor, generator: Generators, eta: float = 0.0) -> Iterator[Tensor]:
    """Deterministic first-order sampler (eta = 0) up to the ancestral one (eta = 1), in the VE coordinate.

        x' = x0_hat + sqrt(t^2 - c^2) eps_hat + c z,    c = eta t sqrt(1 - t^2 / s^2),    eps_hat = (x - x0_hat) / s

    Source: Song, Meng, Ermon, Denoising Diffusion Implicit Models, ICLR 2021, eq. 12 and 16, divided by sqrt(alpha_bar).
    """
    levels = sigmas.tolist()
    for s, t in zip(levels[:-1], levels[1:], strict=True):
        x0_hat = denoise(x, sigmas.new_tensor(s))
        c = eta * t * (1 - (t / s) ** 2) ** 0.5
        x = x0_hat + ((t * t - c * c) ** 0.5 / s) * (x - x0_hat)
        if c > 0:
            x = x + c * generator.randn_like(x)
        yield x


def ancestral(denoise: Denoise, x: Tensor, sigmas: Tensor, generator: Generators) -> Iterator[Tensor]:
    """The ancestral sampler of DDPM (Ho et al., NeurIPS 2020) with the posterior variance: `ddim` with eta = 1."""
    return ddim(denoise, x, sigmas, generator, eta=1.0)


def heun(denoise: Denoise, x: Tensor, sigmas: Tensor, generator: Generators) -> Iterator[Tensor]:
    """Second-order deterministic sampler: Euler step, then the trapezoidal correction (two evaluations a step, one in the last).

    Source: Karras et al., NeurIPS 2022, https://arxiv.org/abs/2206.00364, algorithm 1.
    """
    levels = sigmas.tolist()
    for s, t in zip(levels[:-1], levels[1:], strict=True):
        slope = (x - denoise(x, sigmas.new_tensor(s))) / s
        ahead = x + (t - s) * slope
        if t > 0:
            slope = 0.5 * (slope + (ahead - denoise(ahead, sigmas.new_tensor(t))) / t)
        x = x + (t - s) * slope
        yield x


SAMPLERS: dict[str, Sampler] = {"ddim": ddim, "ancestral": ancestral, "heun": heun}
"""The samplers of the core; plug-ins add theirs through the `inverse_samplers` hook."""
