"""Samplers: plain generators over a `denoise` callable and a schedule; each yields its iterates, the last is the answer.

    denoise(x, sigma) -> x0_hat        x (B, *shape), sigma ()
    sigmas                             (steps + 1,), decreasing, ending in 0

All live in the coordinate x = x0 + sigma n. The last step, into 0, is everywhere the final denoise x = x0_hat; a schedule
that stops above 0 is integrated at full order to its end and leaves the noise in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from inverse.evodiff import evodiff
from inverse.integrator import Denoise, Place, Rule, exact, multistep, predictor_corrector, singlestep, uniform, vp_time
from inverse.seeding import Generators

Sampler = Callable[[Denoise, Tensor, Tensor, Generators], Iterator[Tensor]]


def ddim(denoise: Denoise, x: Tensor, sigmas: Tensor, generator: Generators, eta: float = 0.0) -> Iterator[Tensor]:
    """Deterministic first-order sampler (eta = 0) up to the ancestral one (eta = 1), in the VE coordinate.

        x' = x0_hat + sqrt(t^2 - c^2) eps_hat + c z,    c = eta t sqrt(1 - t^2 / s^2),    eps_hat = (x - x0_hat) / s

    Source: Song, Meng, Ermon, Denoising Diffusion Implicit Models, ICLR 2021, eq. 12 and 16, divided by sqrt(alpha_bar).
    """
    levels = sigmas.tolist()
    for sigma, s, t in zip(sigmas, levels[:-1], levels[1:], strict=False):
        x0_hat = denoise(x, sigma)
        c = eta * t * (1 - (t / s) ** 2) ** 0.5
        x = x0_hat + ((t * t - c * c) ** 0.5 / s) * (x - x0_hat)
        if c > 0:
            x = x + c * generator.randn_like(x)
        yield x


def ancestral(denoise: Denoise, x: Tensor, sigmas: Tensor, generator: Generators) -> Iterator[Tensor]:
    """The ancestral sampler of DDPM (Ho et al., NeurIPS 2020) with the posterior variance: `ddim` with eta = 1."""
    return ddim(denoise, x, sigmas, generator, eta=1.0)


def euler(denoise: Denoise, x: Tensor, sigmas: Tensor, generator: Generators, churn: float = 0.0) -> Iterator[Tensor]:
    """First-order sampler of EDM, `heun` without its correction; without churn it is `ddim`."""
    return edm(denoise, x, sigmas, generator, churn, correct=False)


def heun(denoise: Denoise, x: Tensor, sigmas: Tensor, generator: Generators, churn: float = 0.0) -> Iterator[Tensor]:
    """Second-order sampler of EDM: Euler step, then the trapezoidal correction (two evaluations a step, one in the last)."""
    return edm(denoise, x, sigmas, generator, churn)


def edm(
    denoise: Denoise, x: Tensor, sigmas: Tensor, generator: Generators,
    churn: float = 0.0, low: float = 0.0, high: float = float("inf"), inflate: float = 1.0, correct: bool = True,
) -> Iterator[Tensor]:  # fmt: skip
    """The stochastic sampler of EDM: raise the level by fresh noise, then step down along the ODE.

    Args:
        churn, low, high, inflate: S_churn, S_tmin, S_tmax and S_noise of the paper.
        correct: with the trapezoidal correction.

    Source: Karras et al., NeurIPS 2022, https://arxiv.org/abs/2206.00364, algorithms 1 (churn = 0) and 2.
    """
    levels = sigmas.tolist()
    gamma = min(churn / (len(levels) - 1), 2**0.5 - 1)
    raised = [s * (1 + gamma) if low <= s <= high else s for s in levels[:-1]]
    for sigma, s, r, t, end in zip(sigmas.new_tensor(raised), levels, raised, levels[1:], sigmas[1:], strict=False):
        if r > s:
            x = x + inflate * (r * r - s * s) ** 0.5 * generator.randn_like(x)
        slope = (x - denoise(x, sigma)) / r
        ahead = x + (t - r) * slope
        if correct and t > 0:
            slope = 0.5 * (slope + (ahead - denoise(ahead, end)) / t)
            ahead = x + (t - r) * slope
        x = ahead
        yield x


def dpm_solver_2(denoise: Denoise, x: Tensor, sigmas: Tensor, generator: Generators) -> Iterator[Tensor]:
    """DPM-Solver-2, r1 = 1/2: noise prediction, two evaluations a step (Lu et al., NeurIPS 2022, algorithm 1)."""
    return singlestep(denoise, x, sigmas, generator, (1 / 2,), Rule("noise", average=uniform))


def dpm_solver_3(denoise: Denoise, x: Tensor, sigmas: Tensor, generator: Generators) -> Iterator[Tensor]:
    """DPM-Solver-3, r1 = 1/3, r2 = 2/3: noise prediction, three evaluations a step (Lu et al., NeurIPS 2022, algorithm 2)."""
    return singlestep(denoise, x, sigmas, generator, (1 / 3, 2 / 3), Rule("noise"))


def dpmpp_2s(denoise: Denoise, x: Tensor, sigmas: Tensor, generator: Generators) -> Iterator[Tensor]:
    """DPM-Solver++(2S), r1 = 1/2: data prediction, two evaluations a step (Lu et al., 2022, algorithm 1)."""
    return singlestep(denoise, x, sigmas, generator, (1 / 2,), Rule(average=uniform))


def dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Tensor, generator: Generators) -> Iterator[Tensor]:
    """DPM-Solver++(2M): data prediction, second order at one evaluation a step (Lu et al., 2022, algorithm 2)."""
    return multistep(denoise, x, sigmas, generator, 2, Rule(average=uniform))


def dpmpp_3m(denoise: Denoise, x: Tensor, sigmas: Tensor, generator: Generators) -> Iterator[Tensor]:
    """DPM-Solver++(3M) with the exact integrals of its parabola: third order, unlike the published codes."""
    return multistep(denoise, x, sigmas, generator, 3, Rule())


def dpmpp_3m_compat(denoise: Denoise, x: Tensor, sigmas: Tensor, generator: Generators) -> Iterator[Tensor]:
    """DPM-Solver++(3M) as published: the curvature at half its weight, which leaves second order."""
    return multistep(denoise, x, sigmas, generator, 3, Rule(average=published_3m))


def dpmpp_2m_sde(denoise: Denoise, x: Tensor, sigmas: Tensor, generator: Generators) -> Iterator[Tensor]:
    """SDE-DPM-Solver++(2M): the reverse SDE with two data predictions (Lu et al., 2022, appendix)."""
    return multistep(denoise, x, sigmas, generator, 2, Rule(eta=1.0))


def deis_tab1(denoise: Denoise, x: Tensor, sigmas: Tensor, generator: Generators) -> Iterator[Tensor]:
    """DEIS tAB1: noise prediction linear in the time of the linear VP process; second order (Zhang and Chen, ICLR 2023)."""
    return multistep(denoise, x, sigmas, generator, 2, Rule("noise", clock=vp_time))


def deis_tab2(denoise: Denoise, x: Tensor, sigmas: Tensor, generator: Generators) -> Iterator[Tensor]:
    """DEIS tAB2: noise prediction quadratic in VP time; third order (Zhang and Chen, ICLR 2023)."""
    return multistep(denoise, x, sigmas, generator, 3, Rule("noise", clock=vp_time))


def deis_tab3(denoise: Denoise, x: Tensor, sigmas: Tensor, generator: Generators) -> Iterator[Tensor]:
    """DEIS tAB3: noise prediction cubic in VP time; fourth order (Zhang and Chen, ICLR 2023)."""
    return multistep(denoise, x, sigmas, generator, 4, Rule("noise", clock=vp_time))


def rho_ab(denoise: Denoise, x: Tensor, sigmas: Tensor, generator: Generators) -> Iterator[Tensor]:
    """DEIS rhoAB3: Adams-Bashforth of fourth order in sigma itself, where dx = eps dsigma (Zhang and Chen, ICLR 2023; the LMS of k-diffusion)."""
    return multistep(denoise, x, sigmas, generator, 4, Rule("noise", clock=np.asarray, average=uniform))


def unipc(denoise: Denoise, x: Tensor, sigmas: Tensor, generator: Generators) -> Iterator[Tensor]:
    """UniPC-2 (B2): 2M, each step corrected through its own end at no cost; third order (Zhao et al., NeurIPS 2023)."""
    return predictor_corrector(denoise, x, sigmas, generator, 2, 2, Rule(average=published_unipc))


def unipc_3(denoise: Denoise, x: Tensor, sigmas: Tensor, generator: Generators) -> Iterator[Tensor]:
    """UniPC-3 (B2): the exact 3M, corrected; fourth order, for unguided denoisers (Zhao et al., NeurIPS 2023)."""
    return predictor_corrector(denoise, x, sigmas, generator, 3, 3, Rule(average=published_unipc))


def evodiff_exact(denoise: Denoise, x: Tensor, sigmas: Tensor, generator: Generators) -> Iterator[Tensor]:
    """EVODiff with consistent constants: 2M, corrected by the trapezoid of its two ends at no cost; second order."""
    return predictor_corrector(denoise, x, sigmas, generator, 2, 1, Rule(average=uniform))


def published_3m(count: int, z: float, place: Place | None) -> np.ndarray:
    """Moments behind the released 3M: exact, but m_1 uniform in the two-node start-up and m_2 halved after it."""
    return uniform(count, z, place) if count < 3 else exact(count, z, place) * [1, 1, 0.5]


def published_unipc(count: int, z: float, place: Place | None) -> np.ndarray:
    """Moments behind UniPC with B(h) = e^h - 1: uniform where there is one difference only, exact otherwise."""
    return uniform(count, z, place) if count < 3 else exact(count, z, place)


def thresholded(denoise: Denoise, quantile: float = 0.995, ceiling: float = 1.0) -> Denoise:
    """Dynamic thresholding: clip each sample's x0_hat at its own quantile of |x0_hat|, if above the ceiling, and rescale (Saharia et al., 2022)."""

    def clipped(x: Tensor, sigma: Tensor) -> Tensor:
        x0_hat = denoise(x, sigma)
        s = torch.quantile(x0_hat.flatten(1).abs(), quantile, dim=1).clamp_min(ceiling).reshape(-1, *[1] * (x.ndim - 1))
        return x0_hat.clamp(-s, s) * (ceiling / s)

    return clipped


SAMPLERS: dict[str, Sampler] = {
    "ddim": ddim,
    "dpm-solver-1": ddim,
    "ancestral": ancestral,
    "ddpm": ancestral,
    "euler": euler,
    "heun": heun,
    "dpm-solver-2": dpm_solver_2,
    "dpm-solver-3": dpm_solver_3,
    "dpmpp-2s": dpmpp_2s,
    "dpmpp-2m": dpmpp_2m,
    "dpmpp-3m": dpmpp_3m,
    "dpmpp-3m-compat": dpmpp_3m_compat,
    "dpmpp-2m-sde": dpmpp_2m_sde,
    "deis-tab1": deis_tab1,
    "deis-tab2": deis_tab2,
    "deis-tab3": deis_tab3,
    "rho-ab": rho_ab,
    "unipc": unipc,
    "unipc-3": unipc_3,
    "evodiff": evodiff,
    "evodiff-exact": evodiff_exact,
}
"""The samplers of the core; plug-ins add theirs through the `inverse_samplers` hook."""
