"""Samplers against the exact flow of a mixture, published formulas and known laws, in float64."""

from __future__ import annotations

import functools
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp

from inverse.errors import InverseError, OptionError
from inverse.priors.analytic import GaussianPrior, MixturePrior
from inverse.registry.discovery import registry
from inverse.sampling.integrator import Rule, exact, mean_reverting, multistep, uniform, vp_time
from inverse.sampling.options import configured, thresholded
from inverse.sampling.samplers import SAMPLERS as CORE
from inverse.sampling.samplers import ancestral, ddim, euler, heun
from inverse.sampling.schedules import SCHEDULES, schedule
from inverse.sampling.traits import traits
from inverse.seeding import Generators

F64 = torch.float64
START, END = -3.0, 2.5  # lambda
SAMPLERS = {name: entry.thing for name, entry in registry().table("inverse_samplers").items()}
DECLARED = {name: found for name, f in SAMPLERS.items() if (found := traits(f))}
STOCHASTIC = [name for name, found in DECLARED.items() if found.stochastic]
ADAPTIVE = {name: found.order for name, found in DECLARED.items() if found.adaptive}
ORDER = {
    name: found.order
    for name, found in DECLARED.items()
    if found.order and not (found.stochastic or found.adaptive)
}


@functools.cache
def posterior_law() -> MixturePrior:
    """Three Gaussians in the plane given a noisy projection; the denoiser is exact."""
    means = torch.tensor([[1.5, 0.3], [-1.0, 1.2], [-0.2, -1.4]], dtype=F64)
    prior = MixturePrior(
        torch.tensor([0.4, 0.35, 0.25], dtype=F64),
        means,
        torch.tensor([0.1625, 0.26, 0.19], dtype=F64),
    )
    return prior.given(torch.tensor([[1.0, 0.5]], dtype=F64), 1.0, torch.tensor([0.2], dtype=F64))


@functools.cache
def flow() -> tuple[torch.Tensor, torch.Tensor]:
    """64 starts at lambda = -3, and their ends at 2.5 by the ODE dx / dlambda = D - x."""
    x = math.exp(-START) * torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=F64)

    def slope(at: float, flat: np.ndarray) -> np.ndarray:
        x = torch.tensor(flat).reshape(64, 2)
        return (posterior_law()(x, torch.tensor(math.exp(-at), dtype=F64)) - x).numpy().ravel()

    end = solve_ivp(
        slope, (START, END), x.numpy().ravel(), method="DOP853", rtol=1e-12, atol=1e-12
    ).y[:, -1]
    return x, torch.tensor(end).reshape(64, 2)


def uniform_lambda(steps: int) -> torch.Tensor:
    """Levels uniform in lambda.

    Doubling steps divide the first interval, which gives multistep methods their history.
    """
    h = (END - START) / steps
    lam = [START + h * i for i in range(steps + 1)]
    lam[1:1] = [START + h * 2.0**-k for k in range(14, 0, -1)]
    return torch.tensor(lam, dtype=F64).neg().exp()


def grid(steps: int) -> torch.Tensor:
    """Levels uniform in lambda."""
    return torch.linspace(START, END, steps + 1, dtype=F64).neg().exp()


def last(iterates):
    *_, x = iterates
    return x


def rmse(name: str, steps: int) -> float:
    x, end = flow()
    return float(
        (last(SAMPLERS[name](posterior_law(), x, uniform_lambda(steps), None)) - end)
        .square()
        .mean()
        .sqrt()
    )


def test_every_sampler_of_the_core_declares_its_traits():
    assert set(CORE) <= set(DECLARED)


@pytest.mark.parametrize("name", ORDER)
def test_order_of_convergence(name):
    slope = math.log2(rmse(name, 160) / rmse(name, 320))
    assert abs(slope - ORDER[name]) < 0.15  # 0.15: next order's term at h = 0.02


@pytest.mark.parametrize(
    ("name", "order"), [("dpmpp-3m", 3), ("deis-tab2", 3), ("deis-tab3", 4), ("rho-ab", 4)]
)
@pytest.mark.parametrize("name_of_grid", ["log-uniform", "karras", "cosine"])
def test_a_multistep_sampler_starts_with_single_steps_of_its_order(name, order, name_of_grid):
    """On plain grids, whose first interval is as long as the others.

    The cosine grid has a long first interval; 320 steps are not yet the limit there.
    """
    x, end = flow()
    errors = {
        (steps, start): float(
            (
                last(SAMPLERS[name](posterior_law(), x, sigmas, None, single_start=start)) - end
            ).norm()
        )
        for steps in (160, 320)
        for sigmas in [schedule(name_of_grid, steps + 1, math.exp(-END), math.exp(-START))[:-1]]
        for start in (True, False)
    }
    slope = math.log2(errors[160, True] / errors[320, True])
    assert slope > order - (0.15 if name_of_grid != "cosine" else 0.75)
    assert errors[320, True] < errors[320, False]


def test_single_steps_take_two_more_evaluations_in_each_step_but_the_order_minus_one():
    calls = []
    *_, _ = SAMPLERS["deis-tab3"](
        lambda x, sigma: calls.append(sigma) or posterior_law()(x, sigma), flow()[0], grid(10), None
    )
    assert len(calls) == 10 + 2 * 3


@pytest.mark.parametrize(("steps", "order"), [((80, 161), 3), ((81, 159), 2), ((82, 160), 2)])
def test_fast_is_of_third_order_where_it_ends_with_order_two_and_of_second_elsewhere(steps, order):
    """A last step of order k has an error of N^-(k + 1), against N^-3 of all others."""
    x, end = flow()
    error = [
        last(SAMPLERS["dpm-solver-fast"](posterior_law(), x, grid(n), None)) - end for n in steps
    ]
    slope = math.log(float(error[0].norm() / error[1].norm())) / math.log(steps[1] / steps[0])
    assert abs(slope - order) < 0.25  # the grid of 81 intervals is still some way from its limit


def test_fast_spends_as_many_evaluations_as_there_are_intervals():
    for n in range(1, 12):
        for levels in (grid(n), torch.cat([grid(n), torch.zeros(1, dtype=F64)])):
            calls = []
            last(
                SAMPLERS["dpm-solver-fast"](
                    lambda x, sigma, calls=calls: calls.append(1) or posterior_law()(x, sigma),
                    flow()[0],
                    levels,
                    None,
                )
            )
            assert len(calls) == len(levels) - 1


@pytest.mark.parametrize(
    ("name", "tolerances"), [("dpm-solver-12", (1e-4, 1e-5)), ("dpm-solver-23", (1e-7, 1e-8))]
)
def test_adaptive_error_falls_with_the_evaluations_at_its_order(name, tolerances):
    """The average over the starts, each with its own steps.

    A tenth of the tolerance gives a tenth of the error.
    """
    (x, end), errors, counts = flow(), [], []
    for tolerance in tolerances:
        used = torch.zeros(64, 1, dtype=F64)

        def denoise(x, sigma, used=used):
            used += sigma > math.exp(-END)  # rows that have arrived wait at or below the last level
            return posterior_law()(x, sigma)

        errors.append(
            float(
                (last(SAMPLERS[name](denoise, x, grid(1), None, atol=tolerance, rtol=0.0)) - end)
                .square()
                .mean()
                .sqrt()
            )
        )
        counts.append(float(used.mean()))
    assert (
        abs(math.log(errors[0] / errors[1]) / math.log(counts[1] / counts[0]) - ADAPTIVE[name])
        < 0.15
    )
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.1)


def test_adaptive_steps_are_those_of_the_fixed_solvers():
    """With a large tolerance and a long first step they are one step of DPM-Solver-2 and -3."""
    x, sigmas = flow()[0], torch.tensor([1.5, 1.45], dtype=F64)
    for name, fixed in [("dpm-solver-12", "dpm-solver-2"), ("dpm-solver-23", "dpm-solver-3")]:
        found = list(SAMPLERS[name](posterior_law(), x, sigmas, None, atol=1e9))
        assert len(found) == 1
        assert torch.allclose(
            found[0], last(SAMPLERS[fixed](posterior_law(), x, sigmas, None)), rtol=0, atol=1e-13
        )


def test_adaptive_ends_for_a_broken_denoiser_and_an_unattainable_tolerance():
    sigmas = torch.tensor([20.0, 0.1, 0.0])
    broken = last(
        SAMPLERS["dpm-solver-23"](
            lambda x, sigma: x * torch.tensor([[1.0], [math.nan]]), torch.ones(2, 1), sigmas, None
        )
    )
    assert broken.isnan().flatten().tolist() == [False, True]
    noisy = Generators.for_samples(0, 1, 1)
    steps = list(
        SAMPLERS["dpm-solver-12"](
            lambda x, sigma: noisy.randn_like(x),
            torch.ones(1, 1),
            sigmas,
            None,
            atol=1e-9,
            rtol=0.0,
        )
    )
    assert 10_000 < len(steps) < 12_000


def test_second_order_beats_first_and_evodiff_exact_beats_2m_at_twenty_steps():
    error = {
        name: rmse(name, 20)
        for name in ("ddim", "dpmpp-2m", "dpmpp-3m", "evodiff", "evodiff-exact", "unipc")
    }
    assert error["dpmpp-2m"] < error["ddim"] / 4
    assert error["evodiff-exact"] < error["dpmpp-2m"]
    assert error["unipc"] < error["dpmpp-2m"] / 2
    assert error["dpmpp-2m"] < error["evodiff"] < error["ddim"]


def released_evodiff(denoise, x, sigmas, above_twenty):
    """The demonstration's multistep loop in its own letters, kappa = sigma and alpha = 1, NumPy."""
    sig = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    pc = lambda a, b: np.clip((a * b).sum(1, keepdims=True) / (b * b).sum(1, keepdims=True), -2, 2)  # noqa: E731
    kappas, t_T, t_0 = sigmas, sigmas[0], sigmas[-1]
    models = [denoise(x, kappas[0])]
    k_s, k_t = kappas[:2]
    x = k_t / k_s * x + k_t * (1 / k_t - 1 / k_s) * models[0]
    models.append(denoise(x, k_t))
    for k_1, k_0, k_t in zip(kappas, kappas[1:], kappas[2:], strict=False):
        m1, m0 = models[-2:]
        h, r_logh = 1 / k_t - 1 / k_0, np.log(k_1 / k_0) / np.log(k_0 / k_t)
        euler = k_t / k_0 * x + k_t * h * m0
        weight = 0.5 * (1 - ((k_t + t_0) / (t_T + t_0)) ** 2)
        base = np.sqrt((k_t / k_0) / (k_0 / k_1))
        r1 = (1 - weight) * base + weight * pc(m0, m1)
        D1 = m0 - r1 * m1
        r_i = np.clip(sig(0.25 * np.abs(r1)) * r_logh, 0.25 * r_logh, 1.5 * r_logh)
        x = euler + 0.5 * k_t * h / r_i * D1
        mt = denoise(x, k_t)
        D2 = mt - ((1 - weight) * base + weight * pc(mt, m0)) * m0
        B_pre, B_next = D1 / r_logh / h, r_logh / h * D2
        eta = 0.5 * sig(np.abs(0.5 * pc(B_next + B_pre, B_next - B_pre)))
        B = -eta / r_logh * D1 + r_logh * (1 - eta) * D2
        shift = np.abs(pc(x - euler - 0.5 * k_t * h / r_i * B, D1) / (h * k_t)) - 0.5
        if above_twenty:
            D10 = (m0 - m1) / h
            shift = -shift * sig(pc(m0, D10) * (2 - (k_t / k_0) ** 2))
        x = euler + 0.5 * k_t * h / sig(shift) * B
        models.append(mt)
    return x


@pytest.mark.parametrize("steps", [12, 24])
def test_evodiff_is_the_released_loop(steps):
    """With fewer and with more than 20 steps, where the release changes the sign of a sigmoid."""
    x, _ = flow()
    sigmas = grid(steps)

    def denoise(x, sigma):
        return posterior_law()(torch.tensor(x), torch.tensor(sigma, dtype=F64)).numpy()

    expected = released_evodiff(denoise, x.numpy(), sigmas.numpy(), steps > 20)
    found = last(SAMPLERS["evodiff"](posterior_law(), x, sigmas, None))
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-10)


# --- the kernel -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "z", [-9.0, -1.0001, -0.9999, -0.02, 1e-4, 0.02, 0.9999, 1.0001, 4.0, 20.0]
)
def test_moments_are_their_integrals(z):
    assert np.allclose(uniform(4, z, None) * [1, 2, 3, 4], -math.expm1(-z))
    integrals = [
        quad(lambda w, k=k: z * math.exp(-z * (1 - w)) * w**k, 0, 1, epsabs=0, epsrel=1e-13)[0]
        for k in range(4)
    ]
    assert np.allclose(exact(4, z, None), integrals, rtol=1e-12, atol=0)
    assert np.allclose(exact(4, z, lambda w: w), integrals, rtol=1e-12, atol=0)


def test_weights_integrate_polynomials_exactly():
    """For data cubic in lambda and noise cubic in sigma, four nodes are exact up to rounding."""
    rule, s, t, nodes = Rule(eta=0.7), 2.0, 0.5, (2.0, 3.0, 7.0, 9.0)
    step, rate = rule.step(s, t, nodes), 1.7
    for k in range(4):
        integral = quad(
            lambda u, k=k: rate * math.exp(-rate * (math.log(s / t) - u)) * (u - math.log(s)) ** k,
            0,
            math.log(s / t),
            epsrel=1e-13,
        )[0]
        assert math.isclose(
            sum(w * (-math.log(n)) ** k for w, n in zip(step.weights, nodes, strict=True)),
            integral,
            rel_tol=1e-11,
        )
    step = Rule("noise", clock=np.asarray, average=uniform).step(s, t, nodes)
    for k in range(4):
        assert math.isclose(
            sum(w * n**k for w, n in zip(step.weights, nodes, strict=True)),
            (t ** (k + 1) - s ** (k + 1)) / (k + 1),
            rel_tol=1e-11,
        )


def test_vp_time_inverts_the_schedule():
    t = np.linspace(1e-4, 1, 50)
    sigma = np.sqrt(np.expm1(0.1 * t + 19.9 * t**2 / 2))
    assert np.allclose(vp_time(sigma), t, rtol=1e-12)


def test_order_one_is_ddim():
    x, sigmas = flow()[0], schedule("karras", 12, 0.01, 20.0)
    expected = torch.stack(list(ddim(posterior_law(), x, sigmas, None)))
    for rule in (Rule(), Rule("noise"), Rule(average=uniform), Rule("noise", clock=vp_time)):
        assert torch.allclose(
            torch.stack(list(multistep(posterior_law(), x, sigmas, None, 1, rule))),
            expected,
            rtol=0,
            atol=1e-12,
        )
    assert torch.allclose(
        torch.stack(list(euler(posterior_law(), x, sigmas, None))), expected, rtol=0, atol=1e-12
    )


def test_order_one_of_the_sde_is_the_ancestral_sampler():
    x, sigmas = flow()[0], schedule("karras", 12, 0.01, 20.0)
    streams = (Generators.for_samples(0, 1, 64) for _ in range(2))
    expected = last(ancestral(posterior_law(), x, sigmas, next(streams)))
    assert torch.allclose(
        last(multistep(posterior_law(), x, sigmas, next(streams), 1, Rule(eta=1.0))),
        expected,
        rtol=0,
        atol=1e-12,
    )


# --- the formulas as printed ------------------------------------------------------------------


def printed(name: str, D, x: torch.Tensor, sigmas: torch.Tensor, noise: Generators) -> torch.Tensor:
    """The papers' update rules with alpha = 1; eps = (x - D) / sigma, h = log(s / t)."""
    levels, m, em, level = sigmas.tolist(), [], math.expm1, sigmas.new_tensor
    eps = lambda x, s: (x - D(x, level(s))) / s  # noqa: E731
    for i, (s, t) in enumerate(pairwise(levels)):
        h, q = math.log(s / t), t / s
        if name in ("dpm-solver-2", "dpm-solver-3"):
            e = eps(x, s)
            r1, r2 = (1 / 2, 0) if name == "dpm-solver-2" else (1 / 3, 2 / 3)
            s1, s2 = s * math.exp(-r1 * h), s * math.exp(-r2 * h)
            D1 = eps(x - s1 * em(r1 * h) * e, s1) - e
            if name == "dpm-solver-2":
                x = x - t * em(h) * e - t / (2 * r1) * em(h) * D1
            else:
                D2 = (
                    eps(
                        x - s2 * em(r2 * h) * e - s2 * r2 / r1 * (em(r2 * h) / (r2 * h) - 1) * D1,
                        s2,
                    )
                    - e
                )
                x = x - t * em(h) * e - t / r2 * (em(h) / h - 1) * D2
            continue
        m.insert(0, D(x, level(s)))
        if name == "dpmpp-2s":
            s1 = math.sqrt(s * t)
            x = q * x - em(-h) * D(s1 / s * x - em(-h / 2) * m[0], level(s1))
        elif name == "dpmpp-2m-sde":
            c = -em(-2 * h)
            slope = (m[0] - m[1]) / (math.log(levels[i - 1] / s) / h) if i else 0 * m[0]
            x = (
                q * math.exp(-h) * x
                + c * m[0]
                + (1 - c / (2 * h)) * slope
                + t * math.sqrt(c) * noise.randn_like(x)
            )
        elif i == 0:
            x = q * x - em(-h) * m[0]
        elif name == "dpmpp-2m" or (i == 1 and name == "dpmpp-3m-compat"):
            r = math.log(levels[i - 1] / s) / h
            x = q * x - em(-h) * ((1 + 1 / (2 * r)) * m[0] - m[1] / (2 * r))
        elif i == 1:
            r, p2 = math.log(levels[0] / s) / h, em(-h) / h + 1
            x = q * x - em(-h) * m[0] + p2 * (m[0] - m[1]) / r
        else:
            r0, r1 = math.log(levels[i - 1] / s) / h, math.log(levels[i - 2] / levels[i - 1]) / h
            P, Q = (m[0] - m[1]) / r0, (m[1] - m[2]) / r1
            D1 = P + r0 / (r0 + r1) * (P - Q)
            D2 = (2 if name == "dpmpp-3m" else 1) * (P - Q) / (r0 + r1)
            p1, p2 = em(-h), em(-h) / h + 1
            x = q * x - p1 * m[0] + p2 * D1 - (p2 / h - 1 / 2) * D2
    return x


@pytest.mark.parametrize(
    "name",
    [
        "dpm-solver-2",
        "dpm-solver-3",
        "dpmpp-2s",
        "dpmpp-2m",
        "dpmpp-3m",
        "dpmpp-3m-compat",
        "dpmpp-2m-sde",
    ],
)
def test_sampler_is_the_printed_formula(name):
    x, sigmas = flow()[0], schedule("karras", 9, 0.05, 20.0)[:-1]
    streams = [Generators.for_samples(0, 1, 64) for _ in range(2)]
    expected = printed(name, posterior_law(), x, sigmas, streams[0])
    plain = {"single_start": False} if name == "dpmpp-3m" else {}
    assert torch.allclose(
        last(SAMPLERS[name](posterior_law(), x, sigmas, streams[1], **plain)),
        expected,
        rtol=0,
        atol=1e-11,
    )


# --- noise ------------------------------------------------------------------------------------


class Impulses:
    """Replaces random numbers: draw i is 1 in row i + 1 and 0 elsewhere.

    A linear sampler then returns the gain of each draw.
    """

    draws = 0

    def randn_like(self, x: torch.Tensor) -> torch.Tensor:
        self.draws += 1
        return torch.nn.functional.one_hot(torch.tensor(self.draws), len(x)).to(x).reshape(-1, 1)


def variance(sampler, denoise, sigmas: torch.Tensor, initial: float) -> float:
    """The exact variance after sampling from N(0, initial) with a linear denoiser."""
    x = torch.zeros(2 * len(sigmas), 1, dtype=F64)
    x[0] = math.sqrt(initial)
    return float(last(sampler(denoise, x, sigmas, Impulses())).square().sum())


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_sde_keeps_the_marginals_of_a_known_image_at_any_step(order, eta):
    sigmas = torch.tensor([9.0, 4.0, 3.5, 0.2, 0.1], dtype=F64)
    sampler = functools.partial(multistep, order=order, rule=Rule(eta=eta))
    assert math.isclose(
        variance(sampler, lambda x, sigma: 0 * x, sigmas, 81.0), 0.01, rel_tol=1e-12
    )


@pytest.mark.parametrize(
    ("sampler", "order"),
    [
        (ancestral, 1),
        (functools.partial(ddim, eta=0.5), 1),
        (SAMPLERS["dpmpp-2m-sde"], 2),
        (functools.partial(multistep, order=2, rule=Rule(eta=0.5)), 2),
        (functools.partial(multistep, order=3, rule=Rule(eta=1.0)), 2),
        (functools.partial(heun, s_churn=20.0), 2),
    ],
)
def test_variance_of_a_gaussian_converges_at_its_order(sampler, order):
    law = GaussianPrior(torch.zeros(1, dtype=F64), torch.tensor(0.04, dtype=F64))
    end = math.exp(-END)
    error = [
        variance(
            sampler,
            law,
            torch.linspace(START, END, n + 1, dtype=F64).neg().exp(),
            0.04 + math.exp(6),
        )
        / (0.04 + end**2)
        - 1
        for n in (160, 320)
    ]
    assert abs(error[1]) < 0.02
    assert math.log2(abs(error[0] / error[1])) > order - 0.2


@pytest.mark.parametrize("name", STOCHASTIC)
def test_samples_have_the_law_within_monte_carlo_error(name):
    law, n = GaussianPrior(torch.zeros(1, dtype=F64), torch.tensor(0.04, dtype=F64)), 4000
    x = 20 * torch.randn(
        1, n, generator=torch.Generator().manual_seed(1), dtype=F64
    )  # one row of n: one stream, not n of them
    x = last(
        SAMPLERS[name](
            lambda x, sigma: law(x.T, sigma).T,
            x,
            schedule("log-uniform", 400, 0.005, 20.0),
            Generators.for_samples(0, 1, 1),
        )
    )
    assert abs(float(x.mean())) < 4 * 0.2 / math.sqrt(n)
    assert (
        abs(float(x.var()) / 0.04 - 1) < 4 * math.sqrt(2 / n) + 0.02
    )  # 0.02: the first-order bias at 400 steps


def test_eta_zero_draws_no_noise():
    x, sigmas = flow()[0], schedule("karras", 8, 0.01, 20.0)
    ode = last(multistep(posterior_law(), x, sigmas, None, 2, Rule(eta=0.0)))
    assert torch.equal(ode, last(multistep(posterior_law(), x, sigmas, None, 2, Rule())))
    assert torch.equal(
        last(SAMPLERS["dpmpp-2m-sde"](posterior_law(), x, sigmas, None, eta=0.0)), ode
    )


# --- every sampler ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("levels", sorted(SCHEDULES))
def test_final_denoise_ends_on_the_posterior_of_a_narrow_law(name, levels):
    """Ten levels and a final 0: the declared number of evaluations, and x0."""
    calls = []
    x0 = torch.tensor([0.3, -0.7], dtype=F64)

    def denoise(x, sigma):
        calls.append(float(sigma.min()))
        return x0.expand_as(x)

    sigmas = schedule(levels, 10, 0.02, 50.0)
    start = sigmas[0] * torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    x = last(SAMPLERS[name](denoise, start, sigmas, Generators.for_samples(0, 1, 4)))
    assert torch.allclose(x, x0.expand_as(x), atol=1e-9)
    declared = DECLARED.get(name)
    if declared and not declared.adaptive:
        assert len(calls) == 9 * declared.evaluations + declared.starting + 1
    assert min(calls) > 0


@pytest.mark.parametrize("name", SAMPLERS)
def test_rows_are_independent(name):
    sigmas = schedule("karras", 6, 0.02, 20.0)
    start = 20 * torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=F64)

    def run(x, rows):
        denoise = lambda x, sigma: torch.tanh(x / (1 + sigma))  # noqa: E731
        return last(SAMPLERS[name](denoise, x, sigmas, Generators(rows)))

    streams = lambda: [torch.Generator().manual_seed(i) for i in range(3)]  # noqa: E731
    assert torch.equal(run(start, streams())[1:2], run(start[1:2], streams()[1:2]))


@pytest.mark.parametrize("name", SAMPLERS)
def test_repeated_levels_and_float32_give_finite_samples(name):
    law = posterior_law()
    sigmas = torch.tensor([20.0, 5.0, 5.0, 1.0, 0.2, 0.2, 0.05, 0.0])
    x = last(
        SAMPLERS[name](
            lambda x, sigma: law(x.double(), sigma.double()).float(),
            flow()[0].float(),
            sigmas,
            Generators.for_samples(0, 1, 64),
        )
    )
    assert x.dtype == torch.float32
    assert bool(x.isfinite().all())


# --- wrappers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_mean_reverting_process_is_the_mr_sampler(eta):
    """One step of MRS in its coordinate x_t = mu + alpha (x0 - mu) + s z is one step of ours."""
    spread = 0.2
    mu = torch.tensor([[0.5, -0.1]], dtype=F64)
    x = torch.tensor([[0.8, 0.3]], dtype=F64)
    native = lambda x, sigma: 0.3 * x + 0.1  # noqa: E731
    (a_s, s_s), (a_t, s_t) = ((a, spread * math.sqrt(1 - a * a)) for a in (0.4, 0.8))
    h, D = math.log(a_t / s_t * s_s / a_s), native(x, s_s)
    c, q = -math.expm1(-(1 + eta) * h), s_t / s_s * math.exp(-eta * h)
    z = Generators.for_samples(0, 1, 1).randn_like(x)
    expected = (
        q * x
        + a_t * c * D
        + mu * (1 - q - a_t * c)
        + s_t * math.sqrt(-math.expm1(-2 * eta * h)) * z
    )
    sigmas = torch.tensor([s_s / a_s, s_t / a_t], dtype=F64)
    ours = last(
        multistep(
            mean_reverting(native, mu, spread),
            mu + (x - mu) / a_s,
            sigmas,
            Generators.for_samples(0, 1, 1),
            1,
            Rule(eta=eta),
        )
    )
    assert torch.allclose(mu + a_t * (ours - mu), expected, atol=1e-14)


def test_thresholding_is_per_sample_and_idle_within_the_ceiling():
    inside, outside = torch.linspace(-1, 1, 100), torch.linspace(-3, 3, 100)
    both = torch.stack([inside, outside])[:, None]
    found = thresholded(lambda x, sigma: x, quantile=1.0)(both, torch.tensor(1.0))
    assert torch.equal(found[0, 0], inside)
    assert torch.allclose(found[1, 0], outside / 3)
    level = torch.quantile(outside.abs(), 0.9)
    found = thresholded(lambda x, sigma: x, quantile=0.9, ceiling=1.5)(both, torch.tensor(1.0))
    assert torch.allclose(found[1, 0], outside.clamp(-level, level) * 1.5 / level)


# --- options ----------------------------------------------------------------------------------


def test_settings_of_a_sampler_are_its_keyword_parameters():
    x, sigmas = flow()[0], schedule("karras", 8, 0.01, 20.0)
    streams = [Generators.for_samples(0, 1, 64) for _ in range(4)]
    eta = last(configured("ddim", ddim, "eta=0.5")(posterior_law(), x, sigmas, streams[0]))
    assert torch.equal(eta, last(ddim(posterior_law(), x, sigmas, streams[1], eta=0.5)))
    churned = last(
        configured("heun", heun, "s-churn=4, s_tmin=0.1,s_tmax=9,s_noise=1.01")(
            posterior_law(), x, sigmas, streams[2]
        )
    )
    assert torch.equal(
        churned, last(heun(posterior_law(), x, sigmas, streams[3], 4.0, 0.1, 9.0, 1.01))
    )
    assert not torch.equal(churned, last(heun(posterior_law(), x, sigmas, None)))


def test_churn_raises_the_levels_between_its_ends_only():
    seen, sigmas = [], torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=F64)
    denoise = lambda x, sigma: seen.append(float(sigma)) or 0 * x  # noqa: E731
    last(
        euler(
            denoise,
            torch.zeros(1, 1, dtype=F64),
            sigmas,
            Generators.for_samples(0, 1, 1),
            s_churn=0.3,
            s_tmin=3.0,
            s_tmax=5.0,
        )
    )
    assert seen == pytest.approx([8.0, 4.0 * 1.1, 2.0])


def test_every_sampler_has_the_common_options():
    x, sigmas = flow()[0], schedule("karras", 8, 0.01, 20.0)
    law = posterior_law()
    clipped = last(configured("ddim", ddim, "threshold=1,ceiling=0.25")(law, x, sigmas, None))
    assert torch.equal(clipped, last(ddim(thresholded(law, 1.0, 0.25), x, sigmas, None)))
    assert float(clipped.abs().max()) <= 0.25
    noisy = last(
        configured("dpmpp-2m", SAMPLERS["dpmpp-2m"], "final_denoise=off")(law, x, sigmas, None)
    )
    assert torch.equal(noisy, last(SAMPLERS["dpmpp-2m"](law, x, sigmas[:-1], None)))


@pytest.mark.parametrize("name", ["dpmpp-2m", "dpmpp-3m", "deis-tab3", "unipc-3"])
def test_lower_order_final_uses_no_more_nodes_than_steps_left(name):
    """The order of the last steps falls to one.

    The last but one step of a run is the last step of a shorter run with one order less.
    """
    x, sigmas = flow()[0], grid(12)
    full = list(SAMPLERS[name](posterior_law(), x, sigmas, None))
    lower = list(SAMPLERS[name](posterior_law(), x, sigmas, None, lower_order_final=True))
    order = {"dpmpp-2m": 2, "dpmpp-3m": 3, "deis-tab3": 4, "unipc-3": 3}[name]
    same = [torch.equal(a, b) for a, b in zip(full, lower, strict=True)]
    assert same == [True] * (13 - order) + [False] * (order - 1)
    if name == "dpmpp-2m":
        assert torch.allclose(
            lower[-1], last(ddim(posterior_law(), lower[-2], sigmas[-2:], None)), rtol=0, atol=1e-13
        )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("etaa=0.5", "has no option 'etaa'; did you mean 'eta'"),
        ("eta=much", "eta must be a number, got 'much'"),
        ("eta", "name=value after the colon"),
        ("eta=1.5", "eta must lie in"),
        ("threshold=2", "threshold must lie in"),
        ("ceiling=0", "ceiling be positive"),
    ],
)
def test_an_invalid_setting_gives_a_one_line_error(settings, words):
    with pytest.raises(InverseError, match=words):
        last(configured("ddim", ddim, settings)(posterior_law(), flow()[0], grid(3), None))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("heun", "s_churn=-1"),
        ("euler", "s_noise=0"),
        ("dpmpp-2m-sde", "eta=-1"),
        ("dpm-solver-23", "atol=0"),
    ],
)
def test_a_setting_out_of_range_is_refused(name, settings):
    with pytest.raises(OptionError, match=settings.split("=")[0]):
        last(configured(name, SAMPLERS[name], settings)(posterior_law(), flow()[0], grid(3), None))


def test_cosine_and_flow_schedules_are_uniform_in_their_own_time():
    cosine, flow = SCHEDULES["cosine"](9, 0.01, 80.0), SCHEDULES["flow"](9, 0.01, 80.0)
    offset = math.cos(0.008 / 1.008 * math.pi / 2)
    angle = (offset / (1 + cosine**2).sqrt()).acos()
    t = flow / (1 + flow)
    for even in (angle, t):
        assert torch.allclose(even.diff(), even.diff().mean().expand(8), rtol=1e-9)
