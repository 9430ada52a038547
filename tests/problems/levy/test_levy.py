"""Walks: the Gibbs sampler and the denoiser, against the joint law, quadrature and closed forms."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch

import inverse
from inverse.errors import InputError, OptionError
from inverse.priors.analytic import GaussianPrior
from inverse_problems.levy.chains import effective_size, split_rhat
from inverse_problems.levy.gibbs import Gibbs
from inverse_problems.levy.increments import (
    BernoulliLaplaceIncrements,
    GaussianIncrements,
    LaplaceIncrements,
    StudentIncrements,
)
from inverse_problems.levy.walk import WalkPrior

F64 = torch.float64
LAWS = {
    "gaussian": GaussianIncrements(0.5),
    "laplace": LaplaceIncrements(0.8),
    "bernoulli-laplace": BernoulliLaplaceIncrements(1.5, rate=0.3),
    "student-1": StudentIncrements(0.7, df=1),
    "student-2": StudentIncrements(1.0, df=2),
    "student-3": StudentIncrements(1.2, df=3),
}
every_law = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
VIEW = torch.tensor([[1.0, 0.3], [0.2, 1.0]], dtype=F64)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=inverse.seeded("levy tests", seed), dtype=F64)


# --- the Gibbs sampler ------------------------------------------------------------------------


def geweke(gibbs, law, sweeps=8, count=20000):
    """Largest |z| between draws of the joint law of (u, y) and chains of sweeps and y | u.

    The chains start in the joint law. A correct sweep leaves them there, and all chains are
    independent.

    Source: Geweke, Getting It Right, JASA 2004, without the autocorrelation.
    """
    T, generator = gibbs.matrix.shape[1], inverse.seeded("geweke")
    empty = torch.empty(count, T, dtype=F64)

    def measure(u):
        clean = u.cumsum(1) @ gibbs.matrix.T
        return clean + gibbs.sigma_y * torch.randn(clean.shape, generator=generator, dtype=F64)

    def statistics(u, y):
        bounded, size = torch.tanh(u / law.scale), torch.log1p(u.abs())
        pairs = bounded[:, 1:] * bounded[:, :-1]
        return torch.cat(
            [
                bounded,
                size,
                size**2,
                (u == 0).to(u),
                size[:, 1:] * size[:, :-1],
                pairs,
                torch.tanh(y),
                bounded[:, :1] * torch.tanh(y),
            ],
            1,
        )

    u = law.sample(empty, generator)
    y = measure(u)
    for _ in range(sweeps):
        u = gibbs.sweep(u, y, generator)
        y = measure(u)
    fresh = law.sample(empty, generator)
    a, b = statistics(u, y), statistics(fresh, measure(fresh))
    return float(
        (
            (a.mean(0) - b.mean(0)).abs() / ((a.var(0) + b.var(0)) / count).sqrt().clamp_min(1e-12)
        ).max()
    )


GEWEKE_VIEW = torch.tensor(
    [[1.0, 0.5, 0.0, 0.0], [0.0, 1.0, -0.5, 0.0], [0.3, 0.0, 0.5, 1.0]], dtype=F64
)


@every_law
def test_sweeps_preserve_the_joint_law(law):
    # 0.1 % of correct samplers exceed 4.2, for about 40 statistics
    assert geweke(Gibbs(law, GEWEKE_VIEW, 0.7), law) < 4.2


@dataclass(frozen=True)
class WrongVariances(LaplaceIncrements):
    def variances(self, u, generator):
        return 1.1 * super().variances(u, generator)


@dataclass(frozen=True)
class WrongRate(BernoulliLaplaceIncrements):
    @property
    def spike(self):
        return 0.95 * (1 - self.rate)


@pytest.mark.parametrize(
    ("wrong", "true"),
    [(WrongVariances(0.8), LAWS["laplace"]), (WrongRate(1.5, rate=0.3), LAWS["bernoulli-laplace"])],
)
def test_the_joint_law_detects_a_small_error(wrong, true):
    assert geweke(Gibbs(wrong, GEWEKE_VIEW, 0.7), true) > 6


def quadrature(law, view, sigma_y, y, reach=12.0, count=4001):
    """Mean (2,) and second moments (2, 2) of x given y, and P(u = 0) (2,), by quadrature.

    x = (u_1, u_1 + u_2). Each set of non-zero increments has a trapezoid rule; the nodes u = scale
    sinh(v) reach the heavy tails.
    """
    top = math.asinh(reach / law.scale * 3)
    v = torch.linspace(-top, top, count, dtype=F64)
    u = law.scale * v.sinh()
    weight = (1 - law.spike) * law.density(u) * law.scale * v.cosh() * (v[1] - v[0])
    options = [(u, weight)] + (
        [(torch.zeros(1, dtype=F64), torch.tensor([law.spike], dtype=F64))] if law.spike else []
    )
    total = 0.0
    mean = torch.zeros(2, dtype=F64)
    second = torch.zeros(2, 2, dtype=F64)
    zero = torch.zeros(2, dtype=F64)
    for (u1, w1), (u2, w2) in itertools.product(options, options):
        x = torch.stack(torch.broadcast_tensors(u1[:, None], u1[:, None] + u2), -1)
        p = w1[:, None] * w2 * torch.exp(-0.5 * ((y - x @ view.T) / sigma_y).square().sum(-1))
        total = total + p.sum()
        mean += (p[..., None] * x).sum((0, 1))
        second += torch.einsum("ij,ija,ijb->ab", p, x, x)
        zero += p.sum() * torch.tensor([float(len(u1) == 1), float(len(u2) == 1)], dtype=F64)
    return mean / total, second / total, zero / total


@every_law
@pytest.mark.parametrize("y", [(0.3, 0.1), (2.5, 0.4)])
def test_two_steps_agree_with_quadrature(law, y):
    y = torch.tensor(y, dtype=F64)
    mean, second, zero = quadrature(law, VIEW, 0.5, y, count=801)
    chains = Gibbs(law, VIEW, 0.5).run(
        y[None], inverse.seeded("two steps"), chains=400, burn_in=30, keep=50
    )[0]
    per_chain = chains.mean(1)  # 400 independent means
    assert ((per_chain.mean(0) - mean).abs() < 4.5 * per_chain.std(0) / 20).all()
    squares = torch.einsum("cna,cnb->cab", chains, chains) / chains.shape[1]
    assert ((squares.mean(0) - second).abs() < 4.5 * squares.std(0) / 20).all()
    u = chains.diff(dim=-1, prepend=torch.zeros_like(chains[..., :1]))
    still = (u == 0).to(F64).mean(1)
    assert ((still.mean(0) - zero).abs() <= 4.5 * still.std(0) / 20).all()


def test_gaussian_increments_match_the_closed_form():
    problem = inverse.get_problem("levy", increments="gaussian", view="convolution")
    y = problem.posterior(3, dtype=F64).y
    exact = problem.exact(y)
    chains = problem.gibbs().run(y, inverse.seeded("closed form"), chains=8, burn_in=1, keep=500)[0]
    pooled = chains.flatten(0, 1)  # sweeps are independent
    z = (pooled.mean(0) - exact.mean) / (exact.covariance.diagonal() / len(pooled)).sqrt()
    assert z.abs().max() < 4.5
    white = torch.linalg.solve_triangular(
        torch.linalg.cholesky(exact.covariance), (pooled - exact.mean).T, upper=False
    )
    assert white.cov().sub(torch.eye(64, dtype=F64)).abs().max() < 5.5 * math.sqrt(2 / len(pooled))


@pytest.mark.parametrize("increments", ["bernoulli-laplace", "student-1"])
def test_chains_from_different_starts_agree(increments):
    """Student-1 walks have jumps in gaps; without exchanges the R-hat of imputation is 45."""
    problem = inverse.get_problem("levy", increments=increments, view="imputation")
    y = problem.posterior(1, dtype=F64).y
    chains = problem.exact(y, burn_in=60, keep=120).chains
    assert split_rhat(chains).max() < 1.1
    assert effective_size(chains).median() > 60


def test_diagnostics_on_chains_of_known_correlation():
    rho, noise = 0.8, normal(4, 5000, 3)
    chains = torch.empty_like(noise)
    chains[:, 0] = noise[:, 0]
    for i in range(1, 5000):
        chains[:, i] = rho * chains[:, i - 1] + math.sqrt(1 - rho**2) * noise[:, i]
    assert effective_size(chains).allclose(
        torch.full((3,), 20000 * (1 - rho) / (1 + rho), dtype=F64), rtol=0.25
    )
    assert split_rhat(chains).max() < 1.02
    shifted = chains + torch.tensor([0.0, 0.0, 2.0, 2.0], dtype=F64)[:, None, None]
    expected = math.sqrt(1 + 8 / 7)  # eight half chains, means 0 or 2 in equal numbers, variance 1
    assert split_rhat(shifted).allclose(torch.full((3,), expected, dtype=F64), rtol=0.05)


# --- the denoiser -----------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.003, 0.1, 0.7, 4.0, 50.0])
def test_denoising_gaussian_walks_matches_the_closed_form(sigma):
    T, std = 40, 0.17
    t = torch.arange(1.0, T + 1, dtype=F64)
    closed = GaussianPrior(torch.zeros_like(t), std**2 * torch.minimum(t[:, None], t))
    walk = WalkPrior(GaussianIncrements(std), T)
    x = closed.sample(6, inverse.seeded("walks")) + sigma * normal(6, T)
    level = torch.tensor(sigma, dtype=F64)
    mean, variance = walk.moments(x, level)
    assert (mean - closed(x, level)).abs().max() < 2e-3 * sigma
    assert variance.allclose(
        closed.given(torch.eye(T, dtype=F64), sigma, x[0]).covariance.diagonal().expand(6, -1),
        rtol=1e-2,
    )


@every_law
@pytest.mark.parametrize("sigma", [0.05, 0.6, 3.0])
def test_denoising_two_steps_matches_quadrature(law, sigma):
    walk, eye = WalkPrior(law, 2), torch.eye(2, dtype=F64)
    for y in ([0.02, -0.03], [0.4, 1.5], [3.0, 2.9]):
        y = torch.tensor(y, dtype=F64)
        mean, second, _ = quadrature(law, eye, sigma, y, reach=60.0, count=1001)
        found, variance = walk.moments(y[None], sigma)
        assert (found[0] - mean).abs().max() < 3e-3 * sigma
        assert variance[0].allclose((second - mean.outer(mean)).diagonal(), rtol=2e-2)


@pytest.mark.parametrize("name", ["laplace", "bernoulli-laplace", "student-1", "student-3"])
def test_denoiser_and_sampler_agree(name):
    """Denoiser and sampler share only the law; z-scores of the means over 12 times 3 entries."""
    law, T, sigma = LAWS[name], 12, 0.8
    walk = WalkPrior(law, T)
    y = walk.sample(3, inverse.seeded("agree", name)) + sigma * normal(3, T)
    chains = Gibbs(law, torch.eye(T, dtype=F64), sigma).run(
        y, inverse.seeded("agree"), chains=20, burn_in=30, keep=150
    )
    mean, variance = walk.moments(y, sigma)
    per_chain = chains.mean(2)
    z = (per_chain.mean(1) - mean) / (per_chain.std(1) / math.sqrt(20))
    assert 0.7 < z.square().mean().sqrt() < 1.4
    assert (chains.flatten(1, 2).var(1) / variance).log().abs().max() < 0.25


@pytest.mark.parametrize(
    "law", [LAWS["bernoulli-laplace"], LAWS["student-1"]], ids=["bernoulli-laplace", "student-1"]
)
@pytest.mark.parametrize("sigma", [0.1, 1.0, 8.0])
def test_jacobian_is_the_posterior_covariance(law, sigma):
    """sigma^2 dD/dx = Cov[x0 | x]: symmetric, with the variances as diagonal, in mixed batches."""
    walk = WalkPrior(law, 12)
    x = walk.sample(1, inverse.seeded("jacobian")) + sigma * normal(1, 12)
    J = (
        sigma**2
        * torch.autograd.functional.jacobian(
            lambda v: walk(v, torch.tensor(sigma, dtype=F64))[0], x
        )[:, 0]
    )
    variance = walk.moments(x, sigma)[1][0]
    assert J.allclose(J.T, atol=5e-3 * float(variance.max()))
    assert J.diagonal().allclose(variance, rtol=2e-2)
    mixed = walk(torch.cat([x, x]), torch.tensor([sigma, 3.0], dtype=F64))
    assert (mixed[0] - walk(x, torch.tensor(sigma))[0]).abs().max() < 3e-3 * sigma


@every_law
@pytest.mark.parametrize("sigma", [0.01, 1.0, 60.0])
def test_improbable_walks_are_denoised(law, sigma):
    """Output and gradient are finite for white noise of 1000 sigma, as in a diverging method."""
    x = (1000 * sigma * normal(2, 64)).requires_grad_()
    x0_hat = WalkPrior(law, 64)(x, torch.tensor(sigma, dtype=F64))
    (gradient,) = torch.autograd.grad(x0_hat, x, torch.ones_like(x0_hat))
    assert x0_hat.isfinite().all()
    assert gradient.isfinite().all()


# --- the problem ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "increments",
    ["gaussian", "laplace", "bernoulli-laplace", "student-1", "student-2", "student-3"],
)
@pytest.mark.parametrize("view", ["identity", "convolution", "imputation", "fourier"])
def test_walks_have_the_requested_signal_to_noise_ratio(increments, view):
    problem = inverse.get_problem("levy", increments=increments, view=view)
    truths, A = torch.stack(problem.truths()), problem.matrix()
    snr = 10 * math.log10(float((truths @ A.T).square().mean(1).median()) / problem.sigma_y**2)
    assert truths.shape == (1000, 64)
    assert abs(snr - 25) < 1.2  # different walks set the noise level
    assert abs(float(problem.make_prior().encode(truths).square().mean(1).median()) - 1) < 0.3
    posterior = problem.posterior(truths[:2], dtype=F64)
    assert posterior.decomposable
    assert posterior.A(posterior.prior.encode(truths[:2])).allclose(
        truths[:2] @ A.T, atol=1e-9 * float(truths[:2].abs().max())
    )
    assert torch.linalg.matrix_rank(A) == len(A)


def test_the_truths_have_the_requested_increments():
    def increments(name):
        return torch.stack(inverse.get_problem("levy", increments=name).truths()).diff(dim=1)

    n = 63000
    assert abs(float(increments("gaussian").var()) - 0.25) < 5 * 0.25 * math.sqrt(2 / n)
    assert abs(float(increments("laplace").abs().mean()) - 1) < 5 / math.sqrt(n)
    sparse = increments("bernoulli-laplace")
    moving = sparse.abs() > 1e-9
    assert abs(float(moving.double().mean()) - 0.1) < 5 * math.sqrt(0.09 / n)
    assert abs(float(sparse[moving].abs().mean()) - 1) < 5 / math.sqrt(0.1 * n)
    for df, beyond in ((1, 0.5), (2, 1 - 1 / math.sqrt(3)), (3, 0.390997)):  # P(|t| > 1)
        assert abs(
            float((increments(f"student-{df}").abs() > 1).double().mean()) - beyond
        ) < 5 * math.sqrt(0.25 / n)


def test_convolution_and_spectrum_match_their_definitions():
    x = normal(64)
    taps = torch.exp(-0.5 * (torch.arange(-6, 7, dtype=F64) / 2) ** 2)
    blurred = torch.nn.functional.conv1d(x[None, None], taps[None, None] / taps.sum(), padding=6)[
        0, 0
    ]
    assert (inverse.get_problem("levy", view="convolution").matrix() @ x).allclose(blurred)
    A = inverse.get_problem("levy", view="fourier", frequencies=33).matrix()
    assert (A @ A.T).allclose(torch.eye(64, dtype=F64), atol=1e-12)
    part = inverse.get_problem("levy", view="fourier").matrix()
    assert (part[:5] @ x).allclose(
        torch.fft.rfft(x, norm="ortho").real[:5]
        * torch.tensor([1.0, *[math.sqrt(2)] * 4], dtype=F64)
    )
    assert part.shape[0] in (30, 31)


def test_exact_posteriors_are_in_physical_units():
    problem = inverse.get_problem("levy", increments="laplace")
    posterior = problem.posterior(0, dtype=F64)
    exact, law = problem.exact(posterior.y, burn_in=50, keep=200), problem.make_prior()
    mean, variance = law.moments(posterior.y / law.scale, problem.sigma_y / law.scale)
    spread = law.scale * variance[0].sqrt()
    assert ((exact.mean - law.scale * mean[0]).abs() < 0.3 * spread).all()
    assert (exact.covariance.diagonal().sqrt() / spread).log().abs().max() < 0.25
    assert exact.sample(7, inverse.seeded(0)).shape == (7, 64)
    with pytest.raises(InputError, match="64 entries"):
        problem.exact(posterior.y[:, :9])


def test_a_method_with_the_walk_prior_beats_the_best_linear_estimate_on_sparse_walks():
    problem = inverse.get_problem("levy", increments="bernoulli-laplace", view="convolution")
    posterior = problem.posterior(torch.stack(problem.truths()[:6]))
    found = inverse.solve(posterior, "diffpir", samples=4).mean
    t, A = torch.arange(1.0, 65, dtype=F64), problem.matrix()
    second_moments = GaussianPrior(torch.zeros_like(t), 0.2 * torch.minimum(t[:, None], t))
    linear = torch.stack(
        [second_moments.posterior(A, problem.sigma_y, y.double())[0] for y in posterior.y]
    )
    error, linear_error = ((x - posterior.truth).square().mean() for x in (found, linear))
    assert error < 0.7 * linear_error


IMPOSSIBLE = [
    {"increments": "stable"},
    {"view": "radon"},
    {"kept": 0.0},
    {"frequencies": 3},
    {"snr": math.inf},
    {"sigma_y": 0.0},
    {"sigma_y": -1.0},
]


@pytest.mark.parametrize("options", IMPOSSIBLE, ids=str)
def test_impossible_options_are_refused(options):
    with pytest.raises(OptionError):
        inverse.get_problem("levy", **options)
