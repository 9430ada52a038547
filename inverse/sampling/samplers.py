"""Samplers: generators over a `denoise` callable and a schedule; the last iterate is the answer.

    denoise(x, sigma) -> x0_hat     x (B, *shape), sigma (), or (B, 1, ..., 1), a level for each row
    sigmas                          (steps + 1,), decreasing, ending in 0

All work in the coordinate x = x0 + sigma n. The last step, into 0, is the final denoise x =
x0_hat. A schedule that stops above 0 is integrated at full order to its end, and the noise
remains.

The parameters of a sampler after `generator` are its options, set by name: "ddim:eta=0.5"
(`configured`). `@sampler` declares its order and other traits, which the tests check.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import accumulate

import numpy as np
from torch import Tensor

from inverse.errors import OptionError
from inverse.sampling.adaptive import adaptive
from inverse.sampling.evodiff import evodiff
from inverse.sampling.integrator import (
    Denoise,
    Place,
    Rule,
    Scheme,
    exact,
    half_log_snr,
    multistep,
    predictor_corrector,
    singlestep,
    uniform,
    vp_time,
)
from inverse.sampling.schedules import transitions
from inverse.sampling.traits import sampler
from inverse.seeding import Generators

Sampler = Callable[..., Iterator[Tensor]]


@sampler(order=1)
def ddim(
    denoise: Denoise, x: Tensor, sigmas: Tensor, generator: Generators, eta: float = 0.0
) -> Iterator[Tensor]:
    """DDIM in the VE coordinate: first order, deterministic (eta = 0) to ancestral (eta = 1).

        x' = x0_hat + sqrt(t^2 - c^2) eps_hat + c z
        c = eta t sqrt(1 - t^2 / s^2),    eps_hat = (x - x0_hat) / s

    Source: Song, Meng, Ermon, Denoising Diffusion Implicit Models, ICLR 2021, eq. 12 and 16,
    divided by sqrt(alpha_bar).
    """
    _need(0 <= eta <= 1, f"eta must lie in [0, 1], got {eta:g}")
    for sigma, s, t in transitions(sigmas):
        x0_hat = denoise(x, sigma)
        c = eta * t * (1 - (t / s) ** 2) ** 0.5
        x = x0_hat + ((t * t - c * c) ** 0.5 / s) * (x - x0_hat)
        if c > 0:
            x = x + c * generator.randn_like(x)
        yield x


@sampler(stochastic=True)
def ancestral(
    denoise: Denoise, x: Tensor, sigmas: Tensor, generator: Generators
) -> Iterator[Tensor]:
    """The ancestral sampler of DDPM with the posterior variance: `ddim` with eta = 1.

    Source: Ho et al., NeurIPS 2020.
    """
    return ddim(denoise, x, sigmas, generator, eta=1.0)


@sampler(order=1)
def euler(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    generator: Generators,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Iterator[Tensor]:
    """First-order sampler of EDM, `heun` without its correction; without churn it is `ddim`."""
    return edm(denoise, x, sigmas, generator, s_churn, s_tmin, s_tmax, s_noise, correct=False)


@sampler(order=2, evaluations=2)
def heun(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    generator: Generators,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Iterator[Tensor]:
    """Second-order sampler of EDM: an Euler step, then the trapezoidal correction.

    A step takes two evaluations, the last one takes one.
    """
    return edm(denoise, x, sigmas, generator, s_churn, s_tmin, s_tmax, s_noise, correct=True)


def edm(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    generator: Generators,
    s_churn: float,
    s_tmin: float,
    s_tmax: float,
    s_noise: float,
    correct: bool,
) -> Iterator[Tensor]:
    """The stochastic sampler of EDM: raise the level by fresh noise, then step down along the ODE.

    Args:
        s_churn: amount of fresh noise over all steps.
        s_tmin, s_tmax: levels between which noise is added.
        s_noise: factor that inflates the fresh noise.
        correct: whether to apply the trapezoidal correction.

    Source: Karras et al., NeurIPS 2022, https://arxiv.org/abs/2206.00364, algorithms 1 (s_churn =
    0)
        and 2.
    """
    _need(
        s_churn >= 0 and s_noise > 0,
        f"s_churn must be at least 0 and s_noise positive, got {s_churn:g} and {s_noise:g}",
    )
    steps = list(transitions(sigmas))
    gamma = min(s_churn / len(steps), 2**0.5 - 1)
    raised = [s * (1 + gamma) if s_tmin <= s <= s_tmax else s for _, s, _ in steps]
    for sigma, r, (_, s, t), end in zip(
        sigmas.new_tensor(raised), raised, steps, sigmas[1:], strict=True
    ):
        if r > s:
            x = x + s_noise * (r * r - s * s) ** 0.5 * generator.randn_like(x)
        slope = (x - denoise(x, sigma)) / r
        ahead = x + (t - r) * slope
        if correct and t > 0:
            slope = 0.5 * (slope + (ahead - denoise(ahead, end)) / t)
            ahead = x + (t - r) * slope
        x = ahead
        yield x


DPM_1: Scheme = ((), Rule("noise"))
DPM_2: Scheme = ((1 / 2,), Rule("noise", average=uniform))
DPM_3: Scheme = ((1 / 3, 2 / 3), Rule("noise"))


@sampler(order=2, evaluations=2)
def dpm_solver_2(
    denoise: Denoise, x: Tensor, sigmas: Tensor, generator: Generators
) -> Iterator[Tensor]:
    """DPM-Solver-2, r1 = 1/2: noise prediction, two evaluations a step.

    Source: Lu et al., NeurIPS 2022, algorithm 1.
    """
    return singlestep(denoise, x, sigmas, generator, DPM_2)


@sampler(order=3, evaluations=3)
def dpm_solver_3(
    denoise: Denoise, x: Tensor, sigmas: Tensor, generator: Generators
) -> Iterator[Tensor]:
    """DPM-Solver-3, r1 = 1/3, r2 = 2/3: noise prediction, three evaluations a step.

    Source: Lu et al., NeurIPS 2022, algorithm 2.
    """
    return singlestep(denoise, x, sigmas, generator, DPM_3)


@sampler(spanning=True)
def dpm_solver_fast(
    denoise: Denoise, x: Tensor, sigmas: Tensor, generator: Generators
) -> Iterator[Tensor]:
    """DPM-Solver-fast: as many third-order steps as fit into one evaluation a level.

    The last step is of lower order (Lu et al., NeurIPS 2022, section 3.4). A step of order k spans
    k intervals of the schedule, as in the authors' code for grids that are not uniform in lambda.
    The interval into 0, if there is one, is the final denoise and has its own evaluation.
    """
    sigmas = sigmas.unique_consecutive()
    budget = len(sigmas) - 1 - bool(sigmas[-1] == 0)
    orders = (
        [3] * (budget // 3 - (budget % 3 == 0)) + [[2, 1], [1], [2]][budget % 3] if budget else []
    )
    ends = [0, *accumulate(orders), len(sigmas) - 1]
    return singlestep(
        denoise,
        x,
        sigmas[ends].unique_consecutive(),
        generator,
        *[(DPM_1, DPM_2, DPM_3)[k - 1] for k in orders],
        DPM_1,
    )


@sampler(order=2, adaptive=True)
def dpm_solver_12(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    generator: Generators,
    atol: float = 0.0078,
    rtol: float = 0.05,
) -> Iterator[Tensor]:
    """DPM-Solver-12, adaptive: second-order steps, checked against first-order ones.

    Source: Lu et al., NeurIPS 2022, appendix C.
    """
    return adaptive(denoise, x, sigmas, generator, 2, atol, rtol)


@sampler(order=3, adaptive=True)
def dpm_solver_23(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    generator: Generators,
    atol: float = 0.0078,
    rtol: float = 0.05,
) -> Iterator[Tensor]:
    """DPM-Solver-23, adaptive: third-order steps, checked against second-order ones.

    Source: Lu et al., NeurIPS 2022, appendix C.
    """
    return adaptive(denoise, x, sigmas, generator, 3, atol, rtol)


@sampler(order=2, evaluations=2)
def dpmpp_2s(
    denoise: Denoise, x: Tensor, sigmas: Tensor, generator: Generators
) -> Iterator[Tensor]:
    """DPM-Solver++(2S), r1 = 1/2: data prediction, two evaluations a step.

    Source: Lu et al., 2022, algorithm 1.
    """
    return singlestep(denoise, x, sigmas, generator, ((1 / 2,), Rule(average=uniform)))


@sampler(order=2)
def dpmpp_2m(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    generator: Generators,
    lower_order_final: bool = False,
) -> Iterator[Tensor]:
    """DPM-Solver++(2M): data prediction, second order at one evaluation a step.

    Source: Lu et al., 2022, algorithm 2.
    """
    return multistep(denoise, x, sigmas, generator, 2, Rule(average=uniform), lower_order_final)


@sampler(order=3, starting=4)
def dpmpp_3m(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    generator: Generators,
    lower_order_final: bool = False,
    single_start: bool = True,
) -> Iterator[Tensor]:
    """DPM-Solver++(3M) with the exact integrals of its parabola: third order.

    The published codes are of second order (`dpmpp-3m-compat`).
    """
    return multistep(denoise, x, sigmas, generator, 3, Rule(), lower_order_final, single_start)


@sampler(order=2)
def dpmpp_3m_compat(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    generator: Generators,
    lower_order_final: bool = False,
) -> Iterator[Tensor]:
    """DPM-Solver++(3M) as published: half the weight of the curvature, hence second order."""
    return multistep(
        denoise, x, sigmas, generator, 3, Rule(average=published_3m), lower_order_final
    )


@sampler(stochastic=True)
def dpmpp_2m_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    generator: Generators,
    eta: float = 1.0,
    lower_order_final: bool = False,
) -> Iterator[Tensor]:
    """SDE-DPM-Solver++(2M): the reverse SDE with two data predictions.

    eta = 0 is the ODE; values above 1 are allowed (Lu et al., 2022, appendix).
    """
    _need(eta >= 0, f"eta must be at least 0, got {eta:g}")
    return multistep(denoise, x, sigmas, generator, 2, Rule(eta=eta), lower_order_final)


def _deis(log_snr: bool) -> Rule:
    """Noise prediction, polynomial in VP time or in lambda = -log sigma."""
    return Rule("noise", clock=half_log_snr if log_snr else vp_time)


@sampler(order=2)
def deis_tab1(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    generator: Generators,
    lower_order_final: bool = False,
    log_snr: bool = False,
) -> Iterator[Tensor]:
    """DEIS tAB1: noise prediction linear in the time of the linear VP process; second order.

    Source: Zhang, Chen, ICLR 2023.
    """
    return multistep(denoise, x, sigmas, generator, 2, _deis(log_snr), lower_order_final)


@sampler(order=3, starting=4)
def deis_tab2(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    generator: Generators,
    lower_order_final: bool = False,
    single_start: bool = True,
    log_snr: bool = False,
) -> Iterator[Tensor]:
    """DEIS tAB2: noise prediction quadratic in VP time; third order.

    Source: Zhang, Chen, ICLR 2023.
    """
    return multistep(
        denoise, x, sigmas, generator, 3, _deis(log_snr), lower_order_final, single_start
    )


@sampler(order=4, starting=6)
def deis_tab3(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    generator: Generators,
    lower_order_final: bool = False,
    single_start: bool = True,
    log_snr: bool = False,
) -> Iterator[Tensor]:
    """DEIS tAB3: noise prediction cubic in VP time; fourth order.

    Source: Zhang, Chen, ICLR 2023.
    """
    return multistep(
        denoise, x, sigmas, generator, 4, _deis(log_snr), lower_order_final, single_start
    )


@sampler(order=4, starting=6)
def rho_ab(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    generator: Generators,
    lower_order_final: bool = False,
    single_start: bool = True,
) -> Iterator[Tensor]:
    """DEIS rhoAB3: fourth-order Adams-Bashforth in sigma, where dx = eps dsigma.

    Source: Zhang, Chen, ICLR 2023; it is the LMS sampler of k-diffusion.
    """
    return multistep(
        denoise,
        x,
        sigmas,
        generator,
        4,
        Rule("noise", clock=np.asarray, average=uniform),
        lower_order_final,
        single_start,
    )


@sampler(order=3)
def unipc(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    generator: Generators,
    lower_order_final: bool = False,
) -> Iterator[Tensor]:
    """UniPC-2 (B2): 2M, each step corrected by the value at its end at no cost; third order.

    Source: Zhao et al., NeurIPS 2023.
    """
    return predictor_corrector(
        denoise, x, sigmas, generator, 2, 2, Rule(average=published_unipc), lower_order_final
    )


@sampler(order=4)
def unipc_3(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    generator: Generators,
    lower_order_final: bool = False,
) -> Iterator[Tensor]:
    """UniPC-3 (B2): the exact 3M, corrected; fourth order, for unguided denoisers.

    Source: Zhao et al., NeurIPS 2023.
    """
    return predictor_corrector(
        denoise, x, sigmas, generator, 3, 3, Rule(average=published_unipc), lower_order_final
    )


@sampler(order=2)
def evodiff_exact(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    generator: Generators,
    lower_order_final: bool = False,
) -> Iterator[Tensor]:
    """EVODiff with consistent constants: 2M, corrected by a trapezoid at no cost; second order."""
    return predictor_corrector(
        denoise, x, sigmas, generator, 2, 1, Rule(average=uniform), lower_order_final
    )


def published_3m(count: int, z: float, place: Place | None) -> np.ndarray:
    """Moments of the released 3M.

    They are exact, but m_1 is uniform in the two-node start and m_2 is halved after it.
    """
    return uniform(count, z, place) if count < 3 else exact(count, z, place) * [1, 1, 0.5]


def published_unipc(count: int, z: float, place: Place | None) -> np.ndarray:
    """Moments of UniPC with B(h) = e^h - 1: uniform for one difference, exact otherwise."""
    return uniform(count, z, place) if count < 3 else exact(count, z, place)


def _need(condition: bool, words: str) -> None:
    if not condition:
        raise OptionError(f"sampler: {words}")


SAMPLERS: dict[str, Sampler] = {
    "ddim": ddim,
    "dpm-solver-1": ddim,
    "ancestral": ancestral,
    "ddpm": ancestral,
    "euler": euler,
    "heun": heun,
    "dpm-solver-2": dpm_solver_2,
    "dpm-solver-3": dpm_solver_3,
    "dpm-solver-fast": dpm_solver_fast,
    "dpm-solver-12": dpm_solver_12,
    "dpm-solver-23": dpm_solver_23,
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
